"""Fills generations that are not live from the store: new ones whole, retired ones from their retirement on.

A lease in the catalogue lets one replica at a time fill a generation. Every few pages, the replica saves how
far it is in each lane. A replica that takes over resumes there; events that are applied twice change nothing.
A generation that goes live is still filled until a fill ends that began after every replica knew of the
switch. Then it also has all that replicas wrote to the previous generation until they knew.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from annals.dapr import DaprError, Database, DatabaseError
from annals.deadletters import DeadLetters, DeadLettersUnknown, TooManyParked
from annals.events import RecordedEvent, StreamId
from annals.projections.applier import ProjectionStalled
from annals.projections.folded_rows import FoldedRows
from annals.projections.generations import CatalogueEntry, Generations, GenerationStatus
from annals.projections.tables import Generation
from annals.store import StoreError, event_pages
from annals.store.dapr_store import DaprEventReader
from annals.store.event_pages import fitting
from annals.telemetry import metrics
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

NEAR_COMMITS = 4_000
"""Commits that a generation may lack when it is switched to; filling them takes about a second."""

_PAGE_COMMITS = 4_000
_LEAST_COMMITS = 64  # in a first page: absent commits cost the store as much as existing ones
_PAGES_AHEAD = 2
_PAGE_BYTES = 8 * 1024 * 1024  # of encoded events, after which a page is cut
_HELD_BYTES = 16 * 1024 * 1024  # of encoded events, after which folded rows are written
_KEEP_SECONDS = 2.0  # between two writes, each of which saves the progress
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
    """Another replica fills the generation, or it must not be filled any more."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events of one aggregate type in a lane, up to the sequence `seq`.

    A page is not `whole` if it ends before the last commit asked for: the lane `ended`, or events are large.
    """

    seq: int
    whole: bool
    ended: bool
    events: Sequence[RecordedEvent]
    size: int


class Builder:
    """Fills the generations that this code knows and that need it; `owner` names this replica in leases."""

    def __init__(
        self,
        database: Database,
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
        self._said = Said()

    def look(self) -> None:
        """Look for generations to fill at once, because an operator has changed something."""
        self._wake.set()

    async def run(self) -> None:
        """Fill generations until cancelled, each at its own pace."""
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
        """Start a fill up to the store's end for each generation that needs one and has none under way."""
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

    async def _fill_if_free(self, known: CatalogueEntry, generation: Generation) -> None:
        rows = self._rows.pop(generation, None)
        if rows is None:
            rows = FoldedRows(self._database, self._store, generation, self._dead_letters)
        try:
            began = await self._lease(known)
            if began is not None:
                await self._fill(known, generation, rows, began)
            self._rows[generation] = rows  # kept for the next fill, but not after an error
            self._said.is_over(generation.name)
        except _Lost:
            _log.info("a table is no longer filled by this replica", table=generation.name)
        except (DatabaseError, StoreError, DaprError, ProjectionStalled, DeadLettersUnknown) as error:
            if self._said.is_news(error, generation.name):
                _log.warning("a table cannot be filled now", table=generation.name, error=str(error))
        except TooManyParked as error:
            if self._said.is_news(error, generation.name):
                what = "a table is not filled until dead letters are settled"
                _log.error(what, table=generation.name, error=str(error))

    async def _lease(self, known: CatalogueEntry) -> str | None:
        """Take the lease. Return the time by the database's clock, or None if another replica holds it."""
        lease = f"{_LEASE_SECONDS} seconds"
        answer = await self._database.fetch(_LEASE, known.read_model, str(known.number), self._owner, lease)
        return answer["now"] if answer["mine"] else None

    async def _fill(
        self, known: CatalogueEntry, generation: Generation, rows: FoldedRows, began: str
    ) -> None:
        progress = dict(known.progress)
        wanted = await self._store.reached() if known.settling else {}
        await self._fill_lanes(known, generation, rows, progress)
        if not known.caught_up:
            await self._generations.index(generation)
            if not await self._catch_up(known, generation, rows, progress):
                return
            await self._database.fetch(_CAUGHT_UP, known.read_model, str(known.number))
            _log.info("a table has caught up with the store", table=generation.name)
        if known.status is GenerationStatus.BUILDING and known.automatic:
            await self._generations.switch(known, automatic=True)
        if known.settling and not _lacking(progress, wanted):
            await self._database.fetch(_FILLED, known.read_model, str(known.number), began)

    async def _catch_up(
        self, known: CatalogueEntry, generation: Generation, rows: FoldedRows, progress: dict[int, int]
    ) -> bool:
        """Repeat fills until one ends that began near the store's end: under load, the end itself moves on.

        Return whether that was reached, and not if a lane does not show all commits that it is said to have.
        """
        while True:
            wanted = await self._store.reached()
            near = _lacking(progress, wanted) <= NEAR_COMMITS
            await self._fill_lanes(known, generation, rows, progress)
            if _lacking(progress, wanted):
                return False
            if near:
                return True

    async def _fill_lanes(
        self, known: CatalogueEntry, generation: Generation, rows: FoldedRows, progress: dict[int, int]
    ) -> None:
        """Fill the lanes that have new commits, each until its end is reached once."""
        for lane in await self._store.moved(progress):
            progress[lane] = await self._fill_lane(known, generation, rows, lane, progress.get(lane, 0))

    async def _fill_lane(
        self, known: CatalogueEntry, generation: Generation, rows: FoldedRows, lane: int, seq: int
    ) -> int:
        """Fill a lane page by page, and read the next pages meanwhile. Return the last sequence filled."""
        aggregate_type = generation.projection.aggregate_type
        ahead: deque[asyncio.Task[Page]] = deque()
        asked = kept = seq
        kept_at = time.monotonic()
        held, page_commits = 0, _LEAST_COMMITS
        try:
            while True:
                began = time.monotonic()
                # A throttled page takes about a second: in a longer pause the lease would end. A live
                # generation is not throttled, because queries wait for it.
                throttle = None if known.settling else known.throttle
                most = min(page_commits, self._page, throttle or self._page)
                while len(ahead) < _PAGES_AHEAD:
                    ahead.append(asyncio.create_task(self._read(lane, asked, most, aggregate_type)))
                    asked += most
                page = await ahead.popleft()
                if not page.whole:
                    # The pages read ahead do not follow this page: commits between them would be left out.
                    await _cancelled(ahead)
                    asked = page.seq
                await rows.take(page.events)
                held += page.size
                # Aim at half of what a page may hold, so that it is seldom cut.
                half = _PAGE_BYTES // 2
                page_commits = fitting(
                    page_commits, page.seq - seq, page.size, bytes_held=half, most=self._page
                )
                seq = page.seq
                metrics.BUILT_EVENTS.labels(known.read_model).inc(len(page.events))
                late = time.monotonic() - kept_at >= _KEEP_SECONDS
                if kept < seq and (page.ended or late or rows.full or held >= _HELD_BYTES):
                    await rows.write()
                    known = await self._advance(known, lane, seq)
                    held, kept, kept_at = 0, seq, time.monotonic()
                if page.ended:
                    return seq
                if throttle:
                    await asyncio.sleep(len(page.events) / throttle - (time.monotonic() - began))
        finally:
            await _cancelled(ahead)

    async def _read(self, lane: int, after: int, most: int, aggregate_type: str) -> Page:
        commits = await self._store.read_log(lane, after + 1, after + most)
        refs: list[tuple[StreamId, int]] = []
        ends: list[int] = []  # of each commit: how many refs there are up to its end
        for commit in commits:
            if commit.stream.name.startswith(f"{aggregate_type}-"):
                refs += commit.refs
            ends.append(len(refs))
        events: list[RecordedEvent] = []
        size = 0
        async for some, their_size in event_pages(self._store, refs):
            events += some
            size += their_size
            # Events of a commit beyond that are folded too, and skipped when the commit comes again.
            read = bisect_right(ends, len(events))
            if size >= _PAGE_BYTES and 0 < read < len(commits):
                return Page(commits[read - 1].position.seq, False, False, events, size)
        return Page(after + len(commits), len(commits) == most, len(commits) < most, events, size)

    async def _advance(self, known: CatalogueEntry, lane: int, seq: int) -> CatalogueEntry:
        """Save the progress. Raises _Lost if the generation was paused or dropped, or the lease was lost."""
        place = (known.read_model, str(known.number), self._owner)
        lease = f"{_LEASE_SECONDS} seconds"
        if not await self._database.fetch(_ADVANCE, *place, str(lane), str(seq), lease):
            raise _Lost
        metrics.PROJECTION_POSITION.labels(known.read_model, str(known.number), str(lane)).set(seq)
        fresh = self._generations.find(known.read_model, known.number)
        return known if fresh is None else replace(known, throttle=fresh.throttle)


async def _cancelled(tasks: deque[asyncio.Task[Page]]) -> None:
    """Cancel reads that are not needed any more, and ignore how they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


def _lacking(progress: Mapping[int, int], wanted: Mapping[int, int]) -> int:
    """Return how many of the wanted commits are not filled yet."""
    return sum(max(0, seq - progress.get(lane, 0)) for lane, seq in wanted.items())


def _to_fill(known: CatalogueEntry) -> bool:
    match known.status:
        case GenerationStatus.BUILDING | GenerationStatus.RETIRED:
            return True
        case GenerationStatus.LIVE:
            return known.settling
        case _:
            return False
