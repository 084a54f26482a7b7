"""Folds states from events alone. An import makes the heads of streams with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from annals.aggregates.bus import Handler
from annals.aggregates.stored_state import kept_state
from annals.events import EventRegistry, RecordedEvent, StreamId
from annals.store.protocol import Fold, Head, State


def folding(registry: EventRegistry, handlers: Iterable[Handler[Any, Any]]) -> Fold:
    """Return a function that folds events onto a stream's head; it returns the new state and its schema.

    If no handler is for the stream's aggregate, the state is None, and is not kept. If the state of the head
    is of another release, the function returns None: all events have to be folded again.
    """
    aggregates = {handler.aggregate.aggregate_type: handler.aggregate for handler in handlers}

    def fold(
        stream: StreamId, head: Head | None, events: Sequence[RecordedEvent]
    ) -> tuple[State | None, int] | None:
        aggregate = aggregates.get(stream.name.partition("-")[0])
        if aggregate is None:
            return None, 0
        folded = aggregate() if head is None else kept_state(aggregate, head)
        if folded is None:
            return None
        for event in events:
            folded = folded.apply(registry.decode(event))
        return folded.model_dump(mode="json"), aggregate.state_schema

    return fold
