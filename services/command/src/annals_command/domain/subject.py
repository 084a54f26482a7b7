"""A data subject: somebody whose personal data is kept, until it is erased."""

from __future__ import annotations

from typing import ClassVar, Self

from annals.aggregates.aggregate import Aggregate, RuleViolation
from annals.events import EventData
from annals_command.domain.events import SubjectErased


class Subject(Aggregate):
    """See the module. Its stream is the record that erasure was asked for."""

    aggregate_type: ClassVar[str] = "subject"

    erased: bool = False

    def erase(self, reason: str) -> SubjectErased:
        """Have everything personal made unreadable, for ever."""
        if self.erased:
            raise RuleViolation("subject.erased", "the subject was erased before")
        return SubjectErased(reason=reason)

    def apply(self, event: EventData) -> Self:
        """See `Aggregate`."""
        return self.model_copy(update={"erased": True}) if isinstance(event, SubjectErased) else self
