"""A cache of the states of aggregates, which saves the command bus the read before a decision. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from annals.aggregates.aggregate import Aggregate
from annals.events import StreamId

# Limit of the cached states, in bytes of JSON. The objects take up to a few times as much memory.
_CACHED_BYTES = 32_000_000
_STATE_BYTES = 1_000  # counted for each state beside its JSON

A = TypeVar("A", bound=Aggregate)


class StateCache:
    """The last versions and states that this process wrote. Those that were not used for longest go first.

    Another process may have written the stream since: an append on a stale state is a conflict.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[StreamId, tuple[int, Aggregate, int]] = OrderedDict()
        self._bytes = 0

    def get(self, aggregate: type[A], stream: StreamId) -> tuple[int, A] | None:
        """Return the version and state of a stream; None if they are not cached.

        Raises TypeError if the stream is one of another aggregate.
        """
        if stream not in self._states:
            return None
        self._states.move_to_end(stream)
        version, state, _ = self._states[stream]
        if not isinstance(state, aggregate):
            raise TypeError(f"{stream} is not a stream of {aggregate.__name__}")
        return version, state

    def put(self, stream: StreamId, version: int, state: Aggregate, stored: Mapping[str, Any] | None) -> None:
        """Keep the version and state that were just written; `stored` is the state as JSON."""
        self.remove(stream)
        size = _STATE_BYTES + len(orjson.dumps(stored))
        self._states[stream] = (version, state, size)
        self._bytes += size
        while self._bytes > _CACHED_BYTES:
            self._bytes -= self._states.popitem(last=False)[1][2]

    def remove(self, stream: StreamId) -> None:
        """Forget a stream, after a conflict or before a certain read."""
        if (known := self._states.pop(stream, None)) is not None:
            self._bytes -= known[2]
