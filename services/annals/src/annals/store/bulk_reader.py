"""Lets reads that wait share one bulk get: the more callers there are, the fewer round trips each costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from annals.dapr import DaprSidecar

KEYS_A_READ = 500
"""Most keys that callers share in one bulk get. More keys are read faster by several concurrent gets."""
_READS_AT_ONCE = 2


class BulkReader:
    """Collects the keys that callers ask for while earlier reads are under way, and reads them together."""

    def __init__(self, sidecar: DaprSidecar, store: str) -> None:
        self._sidecar = sidecar
        self._store = store
        self._waiting: list[tuple[Sequence[str], asyncio.Future[dict[str, bytes]]]] = []
        self._readers = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that were found. The read begins after this call, never before it."""
        future: asyncio.Future[dict[str, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, future))
        if self._readers < _READS_AT_ONCE:
            self._readers += 1
            task = asyncio.create_task(self._read())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _read(self) -> None:
        # The count must go down in the same step that finds nothing waiting. A done callback would run only
        # after the callers that this reader woke, whose next reads would rely on a reader that has ended.
        try:
            await self._read_waiting()
        finally:
            self._readers -= 1

    async def _read_waiting(self) -> None:
        while self._waiting:
            taken: list[tuple[Sequence[str], asyncio.Future[dict[str, bytes]]]] = []
            count = 0
            while self._waiting and (not taken or count + len(self._waiting[0][0]) <= KEYS_A_READ):
                taken.append(self._waiting.pop(0))
                count += len(taken[-1][0])
            wanted = list(dict.fromkeys(key for keys, _ in taken for key in keys))
            try:
                values = await self._sidecar.get_bulk(self._store, wanted)
            except asyncio.CancelledError:
                # The client was closed: nobody would answer those that wait.
                for _, future in (*taken, *self._waiting):
                    future.cancel()
                self._waiting.clear()
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers are to know
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for keys, future in taken:
                if not future.done():
                    future.set_result({key: values[key].data for key in keys if key in values})
