"""States from events alone: what an import makes the heads of streams with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from annals.aggregates.bus import Handler
from annals.events import EventRegistry, RecordedEvent, StreamId


def folding(
    registry: EventRegistry, handlers: Iterable[Handler[Any, Any]]
) -> Callable[
    [StreamId, Mapping[str, Any] | None, Sequence[RecordedEvent]], tuple[Mapping[str, Any] | None, int]
]:
    """A function from a stream's state and the events that follow to its new state and its schema.

    The state is None for a stream of an aggregate that no handler is for, and so is not kept.
    """
    aggregates = {handler.aggregate.aggregate_type: handler.aggregate for handler in handlers}

    def fold(
        stream: StreamId, state: Mapping[str, Any] | None, events: Sequence[RecordedEvent]
    ) -> tuple[Mapping[str, Any] | None, int]:
        aggregate = aggregates.get(stream.name.partition("-")[0])
        if aggregate is None:
            return None, 0
        folded = aggregate() if state is None else aggregate.model_validate(state)
        for event in events:
            folded = folded.apply(registry.decode(event))
        return folded.model_dump(mode="json"), aggregate.state_schema

    return fold
