"""States from events alone: what an import makes the heads of streams with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from annals.aggregates.bus import Handler
from annals.events import EventRegistry, RecordedEvent, StreamId
from annals.store.protocol import Fold, Head, State


def folding(registry: EventRegistry, handlers: Iterable[Handler[Any, Any]]) -> Fold:
    """A function from a stream's head and the events that follow to its new state and its schema.

    The state is None for a stream of an aggregate that no handler is for, and so is not kept. There is
    no answer where the head's state is of another schema: all events are to be folded anew.
    """
    aggregates = {handler.aggregate.aggregate_type: handler.aggregate for handler in handlers}

    def fold(
        stream: StreamId, head: Head | None, events: Sequence[RecordedEvent]
    ) -> tuple[State | None, int] | None:
        aggregate = aggregates.get(stream.name.partition("-")[0])
        if aggregate is None:
            return None, 0
        if head is not None and head.state_schema != aggregate.state_schema:
            return None
        folded = aggregate() if head is None else aggregate.model_validate(head.state)
        for event in events:
            folded = folded.apply(registry.decode(event))
        return folded.model_dump(mode="json"), aggregate.state_schema

    return fold
