"""Read your writes: wait until a position is in the read models, whichever replica put it there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from annals.dapr import DaprError, Database
from annals.events import Position
from annals.projections.sweeper import CHECKPOINTS
from annals.projections.tables import SETTLING
from annals.store import EventReader, StoreError

_POLL_SECONDS = (0.02, 0.05, 0.1, 0.2)
_LOOK_SECONDS = 2.0  # for the first look, however short the wait

# Every commit up to the checkpoint is indexed whole; see `Sweeper`. A table that has only just gone live may
# lack one, until the table has been filled that far from the store.
_SEEN = f"""
SELECT json_build_object(
  'settled', NOT EXISTS (
    SELECT FROM readmodels.generations one WHERE status = 'live' AND {SETTLING}
    AND NOT EXISTS (SELECT FROM readmodels.build_progress reached
                    WHERE reached.read_model = one.read_model AND reached.number = one.number
                      AND lane = $1::text::integer AND seq >= $2::text::bigint)),
  'passed', EXISTS (SELECT FROM readmodels.lane_checkpoints
                    WHERE lane = $1::text::integer AND seq >= $2::text::bigint),
  'events', (SELECT count(*) FROM readmodels.event_index
             WHERE lane = $1::text::integer AND seq = $2::text::bigint))::text"""  # noqa: S608 - of constants


class NotVisible(Exception):
    """The position did not become visible in time."""


class Visibility:
    """Knows what this replica applies, and asks the database what other replicas have applied."""

    def __init__(self, database: Database, store: EventReader) -> None:
        self._database = database
        self._store = store
        self._waiting: dict[Position, set[asyncio.Event]] = {}

    def applied(self, positions: Iterable[Position]) -> None:
        """Wake the waits for these positions, of which at least one event became visible."""
        for position in positions:
            for applied in self._waiting.get(position, ()):
                applied.set()

    async def wait(self, position: Position, seconds: float) -> None:
        """Wait until all events of a position are visible; with 0 seconds, look once. Raises NotVisible."""
        applied = asyncio.Event()
        self._waiting.setdefault(position, set()).add(applied)
        end = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout(max(seconds, _LOOK_SECONDS)) as bound:
                await self._poll(position, applied, lambda: bound.reschedule(end))
        except TimeoutError:
            raise NotVisible(f"{position} is not in the read models after {seconds:g} s") from None
        finally:
            self._waiting[position].discard(applied)
            if not self._waiting[position]:
                del self._waiting[position]

    async def wait_for_all(self, reached: Mapping[int, int], seconds: float) -> None:
        """Wait until lanes are visible up to these sequences, without a hole. Raises NotVisible."""
        lacking = dict(reached)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    passed: dict[str, int] = await self._database.fetch(CHECKPOINTS)
                    lacking = {lane: seq for lane, seq in reached.items() if passed.get(str(lane), 0) < seq}
                    if not lacking:
                        return
                    await asyncio.sleep(_POLL_SECONDS[-1])
        except TimeoutError:
            lanes = ", ".join(map(str, sorted(lacking)))
            detail = f"the read models lack commits of the lanes {lanes} after {seconds:g} s"
            raise NotVisible(detail) from None

    async def _poll(self, position: Position, applied: asyncio.Event, looked: Callable[[], None]) -> None:
        events: int | None = None
        look = 0
        while True:
            seen = await self._database.fetch(_SEEN, str(position.lane), str(position.seq))
            settled = seen["settled"]
            if settled and seen["passed"]:
                return
            # Each event comes by a message of its own: the commit is visible once all its events are.
            events = events or await self._events_of(position)
            if settled and events is not None and seen["events"] >= events:
                return
            looked()
            try:
                async with asyncio.timeout(_POLL_SECONDS[min(look, len(_POLL_SECONDS) - 1)]):
                    await applied.wait()
                if settled and events == 1:
                    return
            except TimeoutError:
                look += 1
            applied.clear()

    async def _events_of(self, position: Position) -> int | None:
        """Return how many events a commit has, or None if the store does not say now."""
        try:
            commits = await self._store.read_log(position.lane, position.seq, position.seq)
        except (StoreError, DaprError):
            return None
        return commits[0].last - commits[0].first + 1 if commits else None
