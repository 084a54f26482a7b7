"""The clocks of the fake: `VirtualClock`, which a test moves, and `SystemClock`, the real time."""

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
    """Work that is due at a moment, unless it is cancelled."""

    moment: datetime
    work: Work
    cancelled: bool = False
    handle: asyncio.TimerHandle | None = field(default=None, repr=False)

    def cancel(self) -> None:
        """Cancel the work if it has not begun."""
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel()


class Clock(Protocol):
    """Tells the time, and runs work when it is due."""

    def now(self) -> datetime:
        """Return the current time."""

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Run `work` at `moment`, or as soon as possible if that is past."""

    async def sleep(self, delay: timedelta) -> None:
        """Wait for `delay` by this clock."""

    def before_moving(self, what: str, quiet: Work) -> None:
        """Register `quiet`, which returns when the party called `what` has nothing left to do for now."""

    async def close(self) -> None:
        """Cancel what is still to be done."""


class SystemClock:
    """The real time, for services in processes of their own."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._handles: dict[int, Appointment] = {}

    def now(self) -> datetime:
        """Return the current time."""
        return datetime.now(UTC)

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Run `work` at `moment`, or at once if that is past."""
        appointment = Appointment(moment, work)
        seconds = max(0.0, (moment - self.now()).total_seconds())

        def begin() -> None:
            self._handles.pop(id(appointment), None)
            self._tasks.start(_run(work), "clock")

        self._handles[id(appointment)] = appointment
        appointment.handle = asyncio.get_running_loop().call_later(seconds, begin)
        return appointment

    async def sleep(self, delay: timedelta) -> None:
        """Wait for `delay`."""
        await asyncio.sleep(delay.total_seconds())

    def before_moving(self, what: str, quiet: Work) -> None:
        """Do nothing: real time waits for nobody."""

    async def close(self) -> None:
        """Cancel all appointments and all work under way. Raises what went wrong in that work."""
        for appointment in self._handles.values():
            appointment.cancel()
        self._handles.clear()
        await self._tasks.stop()


class VirtualClock:
    """A clock that stands still until a test moves it.

    `patience` is how many real seconds `settle` waits for each party that is registered.
    """

    def __init__(self, start: datetime = _START, *, patience: float = 30.0) -> None:
        self._now = start
        self._patience = patience
        self._agenda: list[tuple[datetime, int, Appointment]] = []
        self._order = itertools.count()
        self._quiet: list[tuple[str, Work]] = []
        self._waking = 0
        self._woken = Signal()

    def now(self) -> datetime:
        """Return the current time."""
        return self._now

    def call_at(self, moment: datetime, work: Work) -> Appointment:
        """Run `work` when the clock reaches `moment`, or at its next move if that is past."""
        appointment = Appointment(moment, work)
        heapq.heappush(self._agenda, (moment, next(self._order), appointment))
        return appointment

    async def sleep(self, delay: timedelta) -> None:
        """Wait until the clock has been moved by `delay`."""
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
        """Register `quiet`, which the clock awaits before each move; `what` names the party in errors."""
        self._quiet.append((what, quiet))

    async def advance(self, by: timedelta = timedelta(0)) -> None:
        """Move the clock forward, and run the work that falls due on the way, in order.

        What follows from one piece of work is done before the next begins. Raises TimeoutError if a party
        does not come to rest; the text names it.
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
        """Wait until nothing more happens unless the clock moves. Raises TimeoutError as `advance` does."""
        # Sleepers whose time has come resume first, so that `quiet` sees what they do.
        await self._woken.until(lambda: not self._waking)
        for what, quiet in self._quiet:
            try:
                async with asyncio.timeout(self._patience):
                    await quiet()
            except TimeoutError:
                raise TimeoutError(f"{what} did not come to rest within {self._patience} s") from None

    async def close(self) -> None:
        """Cancel all appointments."""
        self._agenda.clear()


async def _run(work: Work) -> None:
    await work()
