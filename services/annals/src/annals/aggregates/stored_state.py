"""Reads the state of an aggregate from the store: from its head, or by folding all of its events again."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import structlog

from annals.aggregates.aggregate import Aggregate
from annals.events import EventRegistry, StreamId
from annals.store.protocol import EventStore, Head, StreamUnreadable

_log = structlog.get_logger(__name__)

A = TypeVar("A", bound=Aggregate)


def kept_state(aggregate: type[A], head: Head) -> A | None:
    """Return the state that a head keeps, or None if the events have to be folded again.

    A state without a field that the aggregate has now is of an older release. The field's default may be
    wrong for it, because its events may say otherwise.
    """
    if head.state is None or head.state_schema != aggregate.state_schema:
        return None
    if not _stored_fields(aggregate) <= head.state.keys():
        return None
    return aggregate.model_validate(head.state)


@cache
def _stored_fields(aggregate: type[Aggregate]) -> frozenset[str]:
    return frozenset(aggregate().model_dump(mode="json"))


async def stored_state(
    store: EventStore, registry: EventRegistry, aggregate: type[A], stream: StreamId, head: Head
) -> A:
    """Return the state of a stream whose head was loaded.

    Raises StreamUnreadable for a stream that only a newer release can read, and the errors of the store.
    """
    try:
        if (kept := kept_state(aggregate, head)) is not None:
            return kept
        state = aggregate()
        async for event in store.read_stream(stream, to_version=head.version):
            state = state.apply(registry.decode(event))
    except ValueError as error:
        # A ValueError would be taken for an invalid request, and the request is not what is wrong.
        _log.error("a stream cannot be read", stream=str(stream), version=head.version, error=str(error))
        raise StreamUnreadable(stream, head.version) from error
    else:
        return state
