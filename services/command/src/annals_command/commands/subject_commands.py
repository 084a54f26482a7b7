"""The commands on data subjects."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import StringConstraints

from annals.aggregates import Command, Handler
from annals_command.commands.fields import Id
from annals_command.domain.subject import Subject


class EraseSubject(Command):
    """Make all personal data of a data subject permanently unreadable (GDPR, article 17).

    `reason` stays on record, so it must not name the person.
    """

    command_type: ClassVar[str] = "subject.erase"

    id: Id
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


HANDLERS = (
    Handler(
        EraseSubject,
        Subject,
        lambda command: command.id,
        lambda subject, command: subject.erase(command.reason),
        creates=True,
    ),
)
