"""Time that a test moves, and time as it passes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from annals.testing.fake.tasks import Signal, Tasks

Work = Callable[[], Awaitable[None]]

_START = datetime(2030, 1, 1, 9, tzinfo=UTC)


@dataclass(slots=True)
class Appointment:
    """Something that is to be done at a moment, unless it is cancelled."""

    moment: datetime
    work: Work
    cancelled: bool = False
    handle: asyncio.TimerHandle | None = field(default=None, repr=False)

    def cancel(self) -> None:
        """It is not done, if it was not begun."""
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel()


class Clock(Protocol):
    """What tells the time, and does things when they are due."""

    def now(self) -> datetime:
        """The time."""

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Do something at a moment; at once when that is past."""

    async def sleep(self, delay: timedelta) -> None:
        """Wait."""

    def before_moving(self, what: str, quiet: Work) -> None:
        """Whoever works by this clock says so, that it may wait for them."""

    async def close(self) -> None:
        """Nothing more is done."""


class SystemClock:
    """The time as it passes, for services in processes of their own."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._handles: dict[int, Appointment] = {}

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Do something at a moment; at once when that is past."""
        appointment = Appointment(moment, work)
        seconds = max(0.0, (moment - self.now()).total_seconds())

        def begin() -> None:
            self._handles.pop(id(appointment), None)
            self._tasks.start(_run(work), "clock")

        self._handles[id(appointment)] = appointment
        appointment.handle = asyncio.get_running_loop().call_later(seconds, begin)
        return appointment

    async def sleep(self, delay: timedelta) -> None:
        """Wait."""
        await asyncio.sleep(delay.total_seconds())

    def before_moving(self, what: str, quiet: Work) -> None:
        """It waits for nobody."""

    async def close(self) -> None:
        """Nothing more is done."""
        for appointment in self._handles.values():
            appointment.cancel()
        self._handles.clear()
        await self._tasks.stop()


class VirtualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, start: datetime = _START, *, patience: float = 30.0) -> None:
        self._now = start
        self._patience = patience
        self._agenda: list[tuple[datetime, int, Appointment]] = []
        self._order = itertools.count()
        self._quiet: list[tuple[str, Work]] = []
        self._waking = 0
        self._woken = Signal()

    def now(self) -> datetime:
        """The time."""
        return self._now

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Do something when the clock comes to a moment; when that is past, at its next move."""
        appointment = Appointment(moment, work)
        heapq.heappush(self._agenda, (moment, next(self._order), appointment))
        return appointment

    async def sleep(self, delay: timedelta) -> None:
        """Wait until the clock was moved that far."""
        woken = asyncio.get_running_loop().create_future()

        async def wake() -> None:
            if not woken.done():
                self._waking += 1
                woken.set_result(None)

        appointment = self.call_at(self._now + delay, wake)
        try:
            await woken
        finally:
            appointment.cancel()
            if woken.done() and not woken.cancelled():
                self._waking -= 1
                self._woken.notify()

    def before_moving(self, what: str, quiet: Work) -> None:
        """Whoever works by this clock says so: it moves on only when `quiet` has returned."""
        self._quiet.append((what, quiet))

    async def advance(self, by: timedelta = timedelta(0)) -> None:
        """Move the clock. All that is due on the way is done in its order, with all that follows from it.

        Raises TimeoutError, which names who does not come to rest.
        """
        until = self._now + by
        await self.settle()
        while self._agenda and self._agenda[0][0] <= until:
            moment, _, appointment = heapq.heappop(self._agenda)
            if appointment.cancelled:
                continue
            self._now = max(self._now, moment)
            await appointment.work()
            await self.settle()
        self._now = until
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing happens any more unless the clock moves."""
        # Those whose time has come begin before anybody is asked.
        await self._woken.until(lambda: not self._waking)
        for what, quiet in self._quiet:
            try:
                async with asyncio.timeout(self._patience):
                    await quiet()
            except TimeoutError:
                raise TimeoutError(f"{what} did not come to rest within {self._patience} s") from None

    async def close(self) -> None:
        """Nothing more is done."""
        self._agenda.clear()


async def _run(work: Work) -> None:
    await work()
