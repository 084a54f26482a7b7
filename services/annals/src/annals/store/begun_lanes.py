"""Which lanes a follower has to read: those that have begun. All are looked at now and then only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from annals.store.dapr_store import DaprEventReader
from annals.store.lease import ALL_LANES

_LOOK_SECONDS = 1.0


class BegunLanes:
    """Those of `lanes` that have begun; one that begins is noticed within a second."""

    def __init__(self, reader: DaprEventReader, lanes: Iterable[int] = ALL_LANES) -> None:
        self._reader = reader
        self._lanes = frozenset(lanes)
        self._looked_at = float("-inf")

    async def of(self, seen: Mapping[int, int]) -> list[int]:
        """The lanes for a follower who has seen them up to these sequences. Raises StoreError."""
        begun = sorted(lane for lane in self._lanes if seen.get(lane))
        if not begun or time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            begun += await self._reader.moved(seen, self._lanes.difference(begun))
        return begun
