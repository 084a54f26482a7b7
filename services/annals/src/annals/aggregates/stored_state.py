"""Reads the state of an aggregate from the store: from its head, or by folding all of its events again."""

from __future__ import annotations

from typing import TypeVar

import structlog

from annals.aggregates.aggregate import Aggregate
from annals.events import EventRegistry, StreamId
from annals.store.protocol import EventStore, Head, StreamUnreadable

_log = structlog.get_logger(__name__)

A = TypeVar("A", bound=Aggregate)


async def stored_state(
    store: EventStore, registry: EventRegistry, aggregate: type[A], stream: StreamId, head: Head
) -> A:
    """Return the state of a stream whose head was loaded.

    Raises StreamUnreadable for a stream that only a newer release can read, and the errors of the store.
    """
    try:
        if head.state is not None and head.state_schema == aggregate.state_schema:
            return aggregate.model_validate(head.state)
        state = aggregate()
        async for event in store.read_stream(stream, to_version=head.version):
            state = state.apply(registry.decode(event))
    except ValueError as error:
        # A ValueError would be taken for an invalid request, and the request is not what is wrong.
        _log.error("a stream cannot be read", stream=str(stream), version=head.version, error=str(error))
        raise StreamUnreadable(stream, head.version) from error
    else:
        return state
