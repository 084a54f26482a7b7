"""An operator's request to a service, recorded in a stream of its own."""

from __future__ import annotations

from typing import ClassVar, Self

from annals.aggregates.aggregate import Aggregate, RuleViolation
from annals.events import EventData
from annals_command.domain.events import OperationRequested


class Operation(Aggregate):
    """An operator's request. Its stream has one event."""

    aggregate_type: ClassVar[str] = "operation"

    recorded: bool = False

    def request(self, requested: OperationRequested) -> OperationRequested:
        """Record the request, once."""
        if self.recorded:
            raise RuleViolation("operation.recorded", "this operation was recorded before")
        return requested

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
        return self.model_copy(update={"recorded": True}) if isinstance(event, OperationRequested) else self
