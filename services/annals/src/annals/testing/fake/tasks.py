"""Tasks with an owner, and waiting for something to be so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Tasks that end with their owner, who then raises what went wrong in them.

    No TaskGroup: a fixture enters and leaves in two different tasks.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failed: list[Exception] = []

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start one."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed.append(error)

    async def stop(self) -> None:
        """Cancel all, wait until they have ended, and raise what went wrong."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        failed, self._failed = self._failed, []
        if failed:
            raise ExceptionGroup("the fake has failed", failed)


class Signal:
    """Wakes whoever waits for something to be so."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Something has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until a condition holds and return what it gave."""
        while not (value := condition()):
            await self._changed.wait()
        return value
