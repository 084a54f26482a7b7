"""Something that an operator asked of the suite: its stream is the record of it."""

from __future__ import annotations

from typing import ClassVar, Self

from annals.aggregates.aggregate import Aggregate, RuleViolation
from annals.events import EventData
from annals_command.domain.events import OperationRequested


class Operation(Aggregate):
    """See the module. Each has a stream of one event."""

    aggregate_type: ClassVar[str] = "operation"

    recorded: bool = False

    def request(self, requested: OperationRequested) -> OperationRequested:
        """Record it, once."""
        if self.recorded:
            raise RuleViolation("operation.recorded", "this operation was recorded before")
        return requested

    def apply(self, event: EventData) -> Self:
        """See `Aggregate`."""
        return self.model_copy(update={"recorded": True}) if isinstance(event, OperationRequested) else self
