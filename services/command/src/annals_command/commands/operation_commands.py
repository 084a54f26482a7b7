"""The command with which services record the requests of operators."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import StringConstraints

from annals.aggregates import Command, Handler
from annals_command.commands.fields import Id
from annals_command.domain.events import OperationRequested
from annals_command.domain.operation import Operation

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class RequestOperation(Command):
    """Record an operator's request to a service; without an `id`, one is generated."""

    command_type: ClassVar[str] = "operation.request"

    id: Id | None = None
    service: Name
    action: Name
    target: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None


HANDLERS = (
    Handler(
        RequestOperation,
        Operation,
        lambda command: command.id,
        lambda operation, command: operation.request(
            OperationRequested(**command.model_dump(exclude={"id"}))
        ),
        creates=True,
    ),
)
