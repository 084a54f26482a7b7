"""A data subject: a person whose personal data is kept until it is erased."""

from __future__ import annotations

from typing import ClassVar, Self

from annals.aggregates.aggregate import Aggregate, RuleViolation
from annals.events import EventData
from annals_command.domain.events import SubjectErased


class Subject(Aggregate):
    """A data subject. Its stream records that erasure was requested."""

    aggregate_type: ClassVar[str] = "subject"

    erased: bool = False

    def erase(self, reason: str) -> SubjectErased:
        """Request that all personal data of the subject become permanently unreadable."""
        if self.erased:
            raise RuleViolation("subject.erased", "the subject was erased before")
        return SubjectErased(reason=reason)

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
        return self.model_copy(update={"erased": True}) if isinstance(event, SubjectErased) else self
