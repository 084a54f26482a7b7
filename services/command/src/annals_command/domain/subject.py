"""A data subject: a person whose personal data is kept until it is erased."""

from __future__ import annotations

from typing import ClassVar, Self

from annals.aggregates.aggregate import Aggregate
from annals.events import EventData
from annals_command.domain.events import SubjectErased


class Subject(Aggregate):
    """A data subject. Its stream records each request for erasure."""

    aggregate_type: ClassVar[str] = "subject"

    erased: bool = False

    def erase(self, reason: str) -> SubjectErased:
        """Request that all personal data of the subject become permanently unreadable.

        This may be requested again: what other services keep of the subject may have come since.
        """
        return SubjectErased(reason=reason)

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
        return self.model_copy(update={"erased": True}) if isinstance(event, SubjectErased) else self
