"""Finds the commits that no message brought, and applies them from the store.

A lane's sequences are dense, so a commit that is missing in the event index shows, even at the lane's end. A
lane's checkpoint is the sequence up to which the index has every commit whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import structlog

from annals.dapr import DaprError, Database, DatabaseError
from annals.deadletters import DeadLettersUnknown, TooManyParked
from annals.events import Position
from annals.projections.applier import Applier, ProjectionStalled
from annals.projections.generations import Outdated
from annals.store import ALL_LANES, Commit, EventReader, StoreError, Undecodable, event_pages
from annals.telemetry import metrics
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_EVERY_SECONDS = 1.0
_GRACE = timedelta(seconds=1)  # for messages: a younger commit is not read from the store yet
_LOOK_AHEAD = 200  # most missing commits in a page; also how far to read beyond the last indexed one
_PASSED = 2_000  # indexed commits in a page, which are compared with the log

CHECKPOINTS = """
SELECT coalesce(json_object_agg(lane, seq), '{}')::text FROM readmodels.lane_checkpoints"""

# Each lane is looked up by itself: one aggregate over all lanes would read the whole index.
_APPLIED = """
SELECT coalesce(json_object_agg(lane, greatest(passed.seq, indexed.seq))
  FILTER (WHERE greatest(passed.seq, indexed.seq) IS NOT NULL), '{}')::text
FROM generate_series(0, $1::text::integer) AS lanes (lane)
LEFT JOIN readmodels.lane_checkpoints passed USING (lane)
CROSS JOIN LATERAL (
  SELECT max(one.seq) AS seq FROM readmodels.event_index one WHERE one.lane = lanes.lane) indexed"""

_SEEN = """
WITH checkpoint AS (
  SELECT coalesce((SELECT seq FROM readmodels.lane_checkpoints WHERE lane = $1::text::integer), 0) AS seq),
seen AS (
  SELECT indexed.seq, count(*) AS events FROM readmodels.event_index indexed, checkpoint
  WHERE indexed.lane = $1::text::integer AND indexed.seq > greatest(checkpoint.seq, $3::text::bigint)
  GROUP BY indexed.seq ORDER BY indexed.seq LIMIT $2::text::integer)
SELECT json_build_object(
  'checkpoint', (SELECT seq FROM checkpoint),
  'seen', (SELECT coalesce(json_object_agg(seq, events), '{}') FROM seen))::text"""

_ADVANCE = """
WITH moved AS (
  INSERT INTO readmodels.lane_checkpoints AS known (lane, seq) VALUES ($1::text::integer, $2::text::bigint)
  ON CONFLICT (lane) DO UPDATE SET seq = greatest(known.seq, excluded.seq) RETURNING seq)
SELECT seq::text FROM moved"""


class Sweeper:
    """Compares the store's lanes with the event index, and applies the commits that the index lacks."""

    def __init__(
        self, database: Database, store: EventReader, applier: Applier, read_models: Sequence[str]
    ) -> None:
        """`read_models` are the names of the read models that the applier fills."""
        self._database = database
        self._store = store
        self._applier = applier
        self._read_models = read_models
        self._lags: dict[int, int] = {}
        self._looked: dict[int, int] = {}
        self._brought: dict[tuple[int, bool], set[Position]] = {}
        self._said = Said()
        self.applied_but_missing: dict[int, int] = {}
        """By lane, the last applied sequence whose commit the store lacks: it was emptied or lost commits."""

    async def run(self) -> None:
        """Sweep until cancelled; what cannot be reached now is swept the next time."""
        while True:
            full = False
            try:
                full = await self.sweep()
                self._said.is_over()
            except (DatabaseError, StoreError, DaprError, DeadLettersUnknown, Outdated) as error:
                if self._said.is_news(error):
                    _log.warning("cannot sweep now", error=str(error))
            except TooManyParked as error:
                if self._said.is_news(error):
                    _log.error("nothing is applied until dead letters are settled", error=str(error))
            await asyncio.sleep(0 if full else _EVERY_SECONDS)

    async def sweep(self) -> bool:
        """Look at every lane once. Return whether to sweep again at once; see `_sweep_page`."""
        await self._look_beyond()
        full = False
        for lane, tail in (await self._store.tails(certain=False)).items():
            try:
                full = await self._sweep_lane(lane, tail) or full
                self._said.is_over(lane)
            except (ProjectionStalled, Undecodable) as error:
                # This may last, as the lag of the lane shows. The other lanes are not affected.
                if self._said.is_news(error, lane):
                    _log.warning("cannot sweep a lane now", lane=lane, error=str(error))
        metrics.PROJECTION_SWEPT.set_to_current_time()
        return full

    async def _look_beyond(self) -> None:
        """Find out whether the store has what was applied: an emptied and restored store may not."""
        # An event from a message may be far beyond the checkpoint, or in a lane that the store does not have.
        found: dict[str, int] = await self._database.fetch(_APPLIED, str(max(ALL_LANES)))
        applied = {int(lane): seq for lane, seq in found.items()}
        # Read after the index: whatever another replica has applied by then was in the store before.
        there = await asyncio.gather(*(self._is_there(lane, seq) for lane, seq in applied.items()))
        beyond = {lane: seq for (lane, seq), one in zip(applied.items(), there, strict=True) if not one}
        if beyond and beyond != self.applied_but_missing:
            _log.error("the read models have applied commits that the store does not have", applied=beyond)
        self.applied_but_missing = beyond

    async def _is_there(self, lane: int, seq: int) -> bool:
        try:
            return bool(await self._store.read_log(lane, seq, seq))
        except Undecodable:
            return True

    async def _sweep_lane(self, lane: int, tail: int) -> bool:
        """Look at the page that follows the checkpoint and, if the lane goes on, at one page further on.

        An event that stays missing holds up the checkpoint, but nothing else: beyond that first page, each
        sweep looks at the next page up to the lane's end, and then begins anew.
        """
        end, full = await self._sweep_page(lane, tail, 0)
        if end and not full:
            after = max(end, self._looked.pop(lane, 0))
            end, full = await self._sweep_page(lane, tail, after)
            self._looked[lane] = after if full else end
        return full

    async def _sweep_page(self, lane: int, tail: int, after: int) -> tuple[int, bool]:
        """Look at one page of a lane, after `after` or the checkpoint; the lane has reached at least `tail`.

        Return where the page ends, or 0 if the lane ends in it; and whether to look at it again at once,
        because it was full of missing commits and some of them were applied.
        """
        found: dict[str, Any] = await self._database.fetch(_SEEN, str(lane), str(_PASSED), str(after))
        checkpoint: int = found["checkpoint"]
        start = max(after, checkpoint)
        seen = {int(seq): events for seq, events in found["seen"].items()}
        reached = checkpoint
        while reached + 1 in seen:
            reached += 1
        highest = max(seen, default=start)
        unseen = (seq for seq in range(start + 1, highest) if seq not in seen)
        missing = list(islice(unseen, _LOOK_AHEAD))
        end = beyond = 0
        if len(missing) == _LOOK_AHEAD:
            end = missing[-1]
        elif len(seen) == _PASSED:
            end = highest
        else:
            beyond = highest + _LOOK_AHEAD
        # Commits not in the index; those between them, which may be indexed only in part; and those beyond.
        edges = [start, *missing, (end or highest) + 1]
        spans = [
            *((seq, seq) for seq in missing),
            *((one + 1, following - 1) for one, following in pairwise(edges)),
            (highest + 1, beyond),
        ]
        # A lower bound, in case the lane cannot be read.
        self._tell_lag(lane, max(highest, tail) - reached)
        found_commits = await asyncio.gather(*(self._store.read_log(lane, *span) for span in spans))
        # Each event comes by a message of its own: a commit is indexed once all its events are.
        commits = [
            commit
            for span in found_commits
            for commit in span
            if seen.get(commit.position.seq, 0) < len(commit.versions)
        ]
        reached = min([reached, *(commit.position.seq - 1 for commit in commits)])
        if reached > checkpoint:
            await self._database.fetch(_ADVANCE, str(lane), str(reached))
        for name in self._read_models:
            metrics.PROJECTION_POSITION.labels(name, "live", str(lane)).set(reached)
        # Set before healing, which may fail or take long just when the lag is large.
        last = max((span[-1].position.seq for span in found_commits if span), default=0)
        self._tell_lag(lane, max(highest, last, tail) - reached)
        late = [commit for commit in commits if datetime.now(UTC) - commit.time > _GRACE]
        healed = await self._heal(late, (lane, after > 0))
        return end, healed and len(late) >= _LOOK_AHEAD

    def _tell_lag(self, lane: int, commits: int) -> None:
        self._lags[lane] = commits
        metrics.PROJECTION_LAG.set(sum(self._lags.values()))

    async def _heal(self, commits: list[Commit], page: tuple[int, bool]) -> bool:
        """Apply commits from the store. Return whether any of them was not already applied the last time."""
        refs = [ref for commit in commits for ref in commit.refs]
        # A commit that was applied the last time and is missing again stays so: the store lacks a part of it.
        before = self._brought.pop(page, set())
        brought: set[Position] = set()
        self._brought[page] = brought
        # With `certain`, an event that the store lacks is left out and holds up no other.
        async for events, _ in event_pages(self._store, refs, certain=True):
            lacking = await self._applier.apply(events)
            there = [event for event in events if event.stream not in lacking]
            brought.update(event.position for event in there)
            if new := [event for event in there if event.position not in before]:
                metrics.PROJECTION_HEALED.inc(len(new))
                first = str(new[0].position)
                _log.info(
                    "events that no message brought were read from the store", events=len(new), first=first
                )
        return not brought <= before
