"""Fills the tables that are not live from the store: new ones from the beginning, old ones from then on.

One replica at a time does it for a generation, by a lease in the catalogue. How far it is in each lane
is kept every few pages: who takes over goes on there, and what is applied twice changes nothing. A
generation that has gone live is filled on until a fill has ended that began when every replica knew that it
is live: what was written to the one before until then is there too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, replace

import structlog

from annals.dapr import DaprError
from annals.deadletters import DeadLetters, DeadLettersUnknown, TooManyParked
from annals.events import RecordedEvent
from annals.projections.applier import ProjectionStalled
from annals.projections.database import DatabaseError, ReadModelDatabase
from annals.projections.folded_rows import FoldedRows
from annals.projections.generations import Generation, Generations, GenerationStatus, Known
from annals.store import StoreError
from annals.store.dapr_store import DaprEventReader
from annals.telemetry import metrics

_log = structlog.get_logger(__name__)

_PAGE_COMMITS = 4_000
_PAGES_AHEAD = 2
_KEEP_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_LEASE_SECONDS = 10

_LEASE = """
WITH mine AS (
  UPDATE readmodels.generations SET owner = $3, expires = now() + $4::text::interval
  WHERE read_model = $1 AND number = $2::text::integer AND (owner = $3 OR owner IS NULL OR expires < now())
  RETURNING 1)
SELECT json_build_object('mine', EXISTS (SELECT FROM mine), 'now', now())::text"""

_ADVANCE = """
WITH mine AS (
  UPDATE readmodels.generations SET expires = now() + $6::text::interval
  WHERE read_model = $1 AND number = $2::text::integer AND owner = $3
    AND status IN ('building', 'retired', 'live')
  RETURNING read_model, number),
moved AS (
  INSERT INTO readmodels.build_progress AS known (read_model, number, lane, seq)
  SELECT read_model, number, $4::text::integer, $5::text::bigint FROM mine
  ON CONFLICT (read_model, number, lane) DO UPDATE SET seq = greatest(known.seq, excluded.seq))
SELECT (EXISTS (SELECT FROM mine))::text"""

_CAUGHT_UP = """
WITH done AS (
  UPDATE readmodels.generations SET caught_up = true
  WHERE read_model = $1 AND number = $2::text::integer RETURNING 1)
SELECT (EXISTS (SELECT FROM done))::text"""


_FILLED = """
WITH done AS (
  UPDATE readmodels.generations SET filled_at = greatest(filled_at, $3::text::timestamptz)
  WHERE read_model = $1 AND number = $2::text::integer RETURNING 1)
SELECT (EXISTS (SELECT FROM done))::text"""


class _Lost(Exception):
    """Another replica fills the generation, or it is not to be filled any more."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events of a lane up to a sequence, of one aggregate type; whether the lane ended before its end."""

    seq: int
    short: bool
    events: tuple[RecordedEvent, ...]


class Builder:
    """See the module. `owner` names this replica."""

    def __init__(
        self,
        database: ReadModelDatabase,
        store: DaprEventReader,
        generations: Generations,
        dead_letters: DeadLetters,
        owner: str,
        *,
        page: int = _PAGE_COMMITS,
    ) -> None:
        self._database = database
        self._store = store
        self._generations = generations
        self._dead_letters = dead_letters
        self._owner = owner
        self._page = page
        self._rows: dict[Generation, FoldedRows] = {}
        self._under_way: dict[Generation, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def look(self) -> None:
        """Something was asked for: do not wait for the next look."""
        self._wake.set()

    async def run(self) -> None:
        """Fill for ever, each generation at its own pace."""
        async with asyncio.TaskGroup() as fills:
            while True:
                self._wake.clear()
                self._begin(fills)
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _begin(self, fills: asyncio.TaskGroup) -> None:
        """Fill each generation that is to be filled, and is not being filled, as far as the store is."""
        self._under_way = {one: task for one, task in self._under_way.items() if not task.done()}
        to_fill = {
            generation: known
            for known in self._generations.all
            if _to_fill(known) and (generation := self._generations.generation(known)) is not None
        }
        for gone in self._rows.keys() - to_fill.keys():
            del self._rows[gone]
        for one in to_fill.keys() - self._under_way.keys():
            self._under_way[one] = fills.create_task(self._fill_if_free(to_fill[one], one))

    async def _fill_if_free(self, known: Known, generation: Generation) -> None:
        rows = self._rows.pop(generation, None)
        if rows is None:
            rows = FoldedRows(self._database, self._store, generation, self._dead_letters)
        try:
            began = await self._lease(known)
            if began is not None:
                await self._fill(known, generation, rows, began)
            self._rows[generation] = rows  # not after an error
        except _Lost:
            _log.info("no longer filled here", table=generation.name)
        except (DatabaseError, StoreError, DaprError, ProjectionStalled) as error:
            _log.warning("cannot be filled now", table=generation.name, error=str(error))
        except (DeadLettersUnknown, TooManyParked) as error:
            _log.error("is not filled on", table=generation.name, error=str(error))

    async def _lease(self, known: Known) -> str | None:
        """When it was, by the clock of the database; None where another replica fills the generation."""
        lease = f"{_LEASE_SECONDS} seconds"
        answer = await self._database.fetch(_LEASE, known.read_model, str(known.number), self._owner, lease)
        return answer["now"] if answer["mine"] else None

    async def _fill(self, known: Known, generation: Generation, rows: FoldedRows, began: str) -> None:
        wanted = await self._store.reached() if known.settling else {}
        await self._fill_lanes(known, generation, rows, progress := dict(known.progress))
        if not known.caught_up:
            await self._generations.index(generation)
            await self._fill_lanes(known, generation, rows, progress)  # what came meanwhile
            await self._database.fetch(_CAUGHT_UP, known.read_model, str(known.number))
            _log.info("caught up with the store", table=generation.name)
        if known.status is GenerationStatus.BUILDING and known.automatic:
            await self._generations.switch(known, unasked=True)
        if known.settling and all(progress.get(lane, 0) >= seq for lane, seq in wanted.items()):
            await self._database.fetch(_FILLED, known.read_model, str(known.number), began)

    async def _fill_lanes(
        self, known: Known, generation: Generation, rows: FoldedRows, progress: dict[int, int]
    ) -> None:
        while lanes := await self._store.moved(progress):
            for lane in lanes:
                progress[lane] = await self._fill_lane(known, generation, rows, lane, progress.get(lane, 0))

    async def _fill_lane(
        self, known: Known, generation: Generation, rows: FoldedRows, lane: int, seq: int
    ) -> int:
        """Page after page, the next ones read while one is folded; gives how far it came."""
        aggregate_type = generation.projection.aggregate_type
        ahead: deque[asyncio.Task[Page]] = deque()
        asked = kept = seq
        kept_at = time.monotonic()
        try:
            while True:
                began = time.monotonic()
                # What is throttled goes by the second, or its lease ended while it waits.
                size = min(self._page, known.throttle or self._page)
                while len(ahead) < _PAGES_AHEAD:
                    ahead.append(asyncio.create_task(self._read(lane, asked, size, aggregate_type)))
                    asked += size
                page = await ahead.popleft()
                ended = page.seq == seq
                if page.short:
                    # The lane ended there: what was read beyond may have a gap before it.
                    await _cancelled(ahead)
                    asked = page.seq
                await rows.take(page.events)
                seq = page.seq
                metrics.BUILT_EVENTS.labels(known.read_model).inc(len(page.events))
                late = time.monotonic() - kept_at >= _KEEP_SECONDS
                if kept < seq and (ended or late or rows.full):
                    await rows.write()
                    known = await self._advance(known, lane, seq)
                    kept, kept_at = seq, time.monotonic()
                if ended:
                    return seq
                if known.throttle:
                    await asyncio.sleep(len(page.events) / known.throttle - (time.monotonic() - began))
        finally:
            await _cancelled(ahead)

    async def _read(self, lane: int, after: int, most: int, aggregate_type: str) -> Page:
        commits = await self._store.read_log(lane, after + 1, after + most)
        refs = [
            (commit.stream, version)
            for commit in commits
            if commit.stream.name.startswith(f"{aggregate_type}-")
            for version in range(commit.first, commit.last + 1)
        ]
        events = await self._store.read_events(refs)
        if len(events) != len(refs):
            raise StoreError(f"lane {lane} names {len(refs)} events after {after}, {len(events)} were found")
        seq = commits[-1].position.seq if commits else after
        return Page(seq, seq < after + most, tuple(events))

    async def _advance(self, known: Known, lane: int, seq: int) -> Known:
        """Keep how far it is. Raises _Lost when it is paused, dropped or another's by now."""
        place = (known.read_model, str(known.number), self._owner)
        lease = f"{_LEASE_SECONDS} seconds"
        if not await self._database.fetch(_ADVANCE, *place, str(lane), str(seq), lease):
            raise _Lost
        metrics.PROJECTION_POSITION.labels(known.read_model, str(known.number), str(lane)).set(seq)
        fresh = self._generations.find(known.read_model, known.number)
        return known if fresh is None else replace(known, throttle=fresh.throttle)


async def _cancelled(tasks: deque[asyncio.Task[Page]]) -> None:
    """End what is not needed; what came of it does not matter."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


def _to_fill(known: Known) -> bool:
    match known.status:
        case GenerationStatus.BUILDING | GenerationStatus.RETIRED:
            return True
        case GenerationStatus.LIVE:
            return known.settling
        case _:
            return False
