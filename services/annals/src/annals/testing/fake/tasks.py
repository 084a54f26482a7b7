"""Background tasks with an owner, and a signal with which tasks wait for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Background tasks of one owner, which calls `stop` at its end.

    A TaskGroup would not do, because pytest enters and leaves a fixture in two different tasks.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._failed: list[Exception] = []

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed.append(error)

    async def stop(self) -> None:
        """Cancel all tasks, wait until they have ended, and raise what went wrong in them."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        failed, self._failed = self._failed, []
        if failed:
            raise ExceptionGroup("the fake has failed", failed)


class Signal:
    """Lets tasks wait for a condition that other tasks change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Make the waiting tasks check their conditions again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition` returns a true value, and return that value."""
        while not (value := condition()):
            await self._changed.wait()
        return value
