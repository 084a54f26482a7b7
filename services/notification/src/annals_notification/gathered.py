"""Answers many concurrent requests with one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from annals.dapr import StatementRefused
from annals.store import Undecodable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gathered(Generic[K, V]):
    """Calls `work` with all keys that arrived while it was busy; `work` returns an answer for each.

    The work for a key begins after the key has arrived. If the database refuses a statement, or a value of
    the store cannot be decoded, each key is worked on by itself, so that one bad value spoils nothing for
    the others.
    """

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._work = work
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """Return the answer for a key. Raises what `work` raises."""
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        answer = self._waiting[key]
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await asyncio.shield(answer)  # other callers may wait for it too

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                await self._answer(waiting)
        finally:
            self._worker = None

    async def _answer(self, waiting: Mapping[K, asyncio.Future[V]]) -> None:
        try:
            found = await self._work(list(waiting))
        except Exception as error:  # noqa: BLE001 - it goes to the callers
            if isinstance(error, StatementRefused | Undecodable) and len(waiting) > 1:
                for key, answer in waiting.items():
                    await self._answer({key: answer})
                return
            for answer in waiting.values():
                answer.set_exception(error)
        else:
            for key, answer in waiting.items():
                answer.set_result(found[key])
