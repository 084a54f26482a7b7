"""Finds the lanes that a follower has to read: those that have begun. It checks the others once a second."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from annals.store.dapr_store import DaprEventReader
from annals.store.lease import ALL_LANES

_LOOK_SECONDS = 1.0  # between two checks of the lanes that have not begun


class BegunLanes:
    """Finds which of `lanes` have begun. A lane that begins is noticed within about a second."""

    def __init__(self, reader: DaprEventReader, lanes: Iterable[int] = ALL_LANES) -> None:
        self._reader = reader
        self._lanes = frozenset(lanes)
        self._looked_at = float("-inf")

    async def of(self, seen: Mapping[int, int]) -> list[int]:
        """Return the lanes to read for a follower that has seen lanes up to `seen`. Raises StoreError."""
        begun = sorted(lane for lane in self._lanes if seen.get(lane))
        if not begun or time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            begun += await self._reader.moved(seen, self._lanes.difference(begun))
        return begun
