"""Applies events to the read models of a service, in whatever order and however often they come.

Each row holds its stream's version. An event that a table has is skipped. Earlier events that a table lacks
are read from the store and applied first. One statement writes a batch to all tables and to the event index.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from annals.dapr import Database, StatementRefused
from annals.deadletters import DeadLetters, Status, of_event
from annals.events import Position, RecordedEvent, StreamId
from annals.projections.changes import Change, Delete, Patch, Put, merge
from annals.projections.projection import Projection
from annals.projections.statement import apply_statement
from annals.projections.tables import Generation
from annals.store import EventReader, StoreUnavailable
from annals.telemetry import metrics, traces

_log = structlog.get_logger(__name__)

_LARGEST_GAP = 1_000  # versions; before more are read, the head must show that they exist
_ROUNDS = 10  # of one batch: other replicas may move its rows each time
_KNOWN_VERSIONS = 100_000
_STATEMENT_EVENTS = 500
_REFUSALS = 3

# OFFSET 0: see `annals.projections.statement`.
_VERSIONS = """
SELECT coalesce(json_agg(json_build_array(wanted.tenant, wanted.id, version)), '[]')::text
FROM jsonb_to_recordset($1::text::jsonb) AS wanted (tenant text, id text)
CROSS JOIN LATERAL (
  SELECT version FROM readmodels.{table} one
  WHERE one.tenant = wanted.tenant AND one.id = wanted.id OFFSET 0) known"""

# A write that changes nothing: a database that has become read-only would still answer a read.
_PING = """
UPDATE readmodels.generations SET status = status
WHERE (read_model, number) = (SELECT read_model, number FROM readmodels.generations LIMIT 1)
RETURNING '1'::text"""

_Place = tuple[Generation, StreamId]


class ProjectionStalled(Exception):
    """Events cannot be applied now: other replicas were faster each time."""


class RowRefused(Exception):
    """The database refuses the row that a projection made."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive events of a stream that fit one statement, and the version of each table that lacks any."""

    stream: StreamId
    events: Sequence[RecordedEvent]
    priors: Mapping[Generation, int]


class Applier:
    """Applies one batch after the other. `on_applied` receives the positions that became visible.

    `generations` returns the tables to fill now. Without `on_applied` nothing is indexed, as for a table that
    does not answer queries. If a projection fails on an event, the event is parked: its stream waits there,
    for that generation alone, and is indexed all the same.
    """

    def __init__(
        self,
        database: Database,
        store: EventReader,
        generations: Callable[[], Sequence[Generation]],
        dead_letters: DeadLetters,
        on_applied: Callable[[Iterable[Position]], None] | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._generations = generations
        self._dead_letters = dead_letters
        self._on_applied = on_applied
        self._filled: tuple[Generation, ...] = ()
        self._by_type: dict[str, list[Generation]] = {}
        self._statement = ""
        self._known: OrderedDict[_Place, int] = OrderedDict()
        self._turn = asyncio.Lock()

    async def apply(self, events: Iterable[RecordedEvent]) -> frozenset[StreamId]:
        """Make events visible, and all events before them; skip those that are visible already.

        Returns the streams that stay behind because the store lacks an earlier event of theirs. Raises
        ProjectionStalled, DatabaseError, StoreError, DeadLettersUnknown, TooManyParked, DaprError and what
        `generations` raises. Some of the events may then be visible.
        """
        lacking: set[StreamId] = set()
        given: dict[StreamId, dict[int, RecordedEvent]] = defaultdict(dict)
        for event in events:
            given[event.stream][event.version] = event
        async with self._turn:
            self._fill(tuple(self._generations()))
            for one in self._filled:
                self._dead_letters.require_fresh(one.projection.table.name, one.number)
            for _ in range(_ROUNDS):
                if not given:
                    return frozenset(lacking)
                pieces = await self._outstanding(given, lacking)
                left: set[StreamId] = set()
                for part in _parts(pieces):
                    left |= await self._write(part)
                given = {stream: given[stream] for stream in left if stream not in lacking}
        if not given:
            return frozenset(lacking)
        raise ProjectionStalled(f"{len(given)} streams did not advance in {_ROUNDS} rounds")

    def _fill(self, generations: tuple[Generation, ...]) -> None:
        if generations == self._filled and self._statement:
            return
        self._filled = generations
        self._by_type = defaultdict(list)
        for generation in generations:
            self._by_type[generation.projection.aggregate_type].append(generation)
        self._statement = apply_statement(generations, indexed=self._on_applied is not None)
        self._known.clear()

    async def _outstanding(
        self, given: Mapping[StreamId, Mapping[int, RecordedEvent]], lacking: set[StreamId]
    ) -> list[_Piece]:
        """Return what to write of each stream: the given events, and all before them that a table lacks."""
        # Asked only once: a sequence that operators release meanwhile is left to another batch.
        waiting = {stream: self._waiting(stream) for stream in given}
        versions = await self._versions(waiting)
        spans: dict[StreamId, range] = {}
        for stream, events in given.items():
            behind = [versions[one, stream] for one in waiting[stream]]
            spans[stream] = range(min([*behind, min(events) - 1]) + 1, max(events) + 1)
            metrics.PROJECTION_SKIPPED.inc(sum(all(v >= version for v in behind) for version in events))
        for stream, span in list(spans.items()):
            if len(span) > _LARGEST_GAP:
                # Checked before so many events are read: a message may claim any version, the store decides.
                head, _ = await self._store.load(stream, certain=True)
                if head is None or head.version < max(given[stream]):
                    _log.error("the store has no such version", stream=str(stream), version=span[-1])
                    lacking.add(stream)
                    del spans[stream]
        missing = [
            (stream, version)
            for stream, span in spans.items()
            for version in span
            if version not in given[stream]
        ]
        found: dict[tuple[StreamId, int], RecordedEvent] = {}
        if missing:
            read = await self._store.read_events(missing)
            found = {(event.stream, event.version): event for event in read}
            metrics.PROJECTION_HEALED.inc(len(found))
            for stream, version in await self._absent(missing, found):
                _log.error("an earlier event is not in the store", stream=str(stream), version=version)
                lacking.add(stream)
                del spans[stream]
        pieces = []
        for stream, span in spans.items():
            priors = {one: versions[one, stream] for one in waiting[stream]}
            whole = [given[stream].get(version) or found[stream, version] for version in span]
            for start in range(0, len(whole), _STATEMENT_EVENTS):
                piece = whole[start : start + _STATEMENT_EVENTS]
                first, last = piece[0].version, piece[-1].version
                ahead = {one: max(at, first - 1) for one, at in priors.items() if at < last}
                pieces.append(_Piece(stream, piece, ahead))
        return pieces

    async def _absent(
        self, missing: Sequence[tuple[StreamId, int]], found: Collection[tuple[StreamId, int]]
    ) -> list[tuple[StreamId, int]]:
        """Return the first event that the store lacks of each stream, after a read of many found only some.

        Raises StoreUnavailable if that read broke off: see `DaprSidecar.get_bulk`.
        """
        first: dict[StreamId, int] = {}
        for stream, version in missing:
            if (stream, version) not in found:
                first.setdefault(stream, version)
        absent = list(first.items())
        if any(await self._store.read_raw_events(absent, certain=True)):
            raise StoreUnavailable(f"only {len(found)} of {len(missing)} events could be read")
        return absent

    def _waiting(self, stream: StreamId) -> list[Generation]:
        """Return the tables that want a stream's events, except those in which the stream is parked."""
        wanting = self._by_type.get(stream.name.partition("-")[0], [])
        return [one for one in wanting if not is_parked(self._dead_letters, one, stream)]

    async def _versions(self, waiting: Mapping[StreamId, Sequence[Generation]]) -> dict[_Place, int]:
        wanted = [(one, stream) for stream, tables in waiting.items() for one in tables]
        unknown: dict[Generation, list[StreamId]] = defaultdict(list)
        for generation, stream in wanted:
            if (generation, stream) not in self._known:
                unknown[generation].append(stream)
        for generation, missing in unknown.items():
            there = await versions(self._database, generation, missing)
            for stream in missing:
                self._learn((generation, stream), there[stream])
        return {place: self._known[place] for place in wanted}

    def _learn(self, place: _Place, version: int) -> None:
        self._known[place] = version
        self._known.move_to_end(place)

    async def _write(self, part: Sequence[_Piece]) -> set[StreamId]:
        """Write pieces of different streams. Return the streams that need another round."""
        try:
            return await self._write_at_once(part)
        except StatementRefused:
            if len(part) == 1:
                return await self._write_refused(part[0])
        # One row that the database refuses fails the statement for all, and halving finds it. It also cuts
        # a batch that is too large for one statement.
        half = len(part) // 2
        return await self._write(part[:half]) | await self._write(part[half:])

    async def _write_refused(self, piece: _Piece) -> set[StreamId]:
        """Park a stream's refused row if it is refused each time while the database takes other writes."""
        for _ in range(_REFUSALS):
            await self._database.fetch(_PING)
            try:
                return await self._write_at_once([piece])
            except StatementRefused as error:
                refused = error
        if len(piece.events) > 1 or len(piece.priors) > 1:
            # Event by event and table by table, to park at exactly the event that is refused.
            for event in piece.events:
                for generation, prior in piece.priors.items():
                    if prior < event.version and not is_parked(self._dead_letters, generation, piece.stream):
                        one = _Piece(piece.stream, [event], {generation: event.version - 1})
                        await self._write([one])
        else:
            reason = RowRefused(f"the database does not take the row: {refused}")
            reason.__cause__ = refused
            for generation in piece.priors:
                await self._park(generation, piece.events[0], reason)
        return {piece.stream}

    async def _write_at_once(self, part: Sequence[_Piece]) -> set[StreamId]:
        again: set[StreamId] = set()
        indexed = self._on_applied is not None
        changes: dict[Generation, list[dict[str, Any]]] = {one: [] for one in self._filled}
        index: list[dict[str, Any]] = []
        ends: dict[_Place, int] = {}
        for piece in part:
            needs = 0
            for generation, prior in piece.priors.items():
                events = [event for event in piece.events if event.version > prior]
                change, last = await self._change(generation, events)
                if last < events[-1].version:
                    again.add(piece.stream)  # parked: the next round indexes the rest without this table
                if change is not None:
                    changes[generation].append(change_row(events[0], change, last, prior))
                    ends[generation, piece.stream] = last
                    needs += 1
            if indexed and piece.stream not in again:
                index += [_index_row(event) | {"needs": needs} for event in piece.events]
        if not index and not ends:
            return again
        # A table that does not answer queries makes no event visible.
        visible = [event for piece in part for event in piece.events if indexed and piece.stream not in again]
        rows = (index, *changes.values()) if indexed else changes.values()
        parameters = [orjson.dumps(one).decode() for one in rows]
        with traces.project_spans(visible):
            advanced = await self._database.fetch(self._statement, *parameters)
        moved = {(self._filled[place], StreamId.named(tenant, stream)) for place, tenant, stream in advanced}
        for place, last in ends.items():
            if place in moved:
                self._learn(place, last)
            else:
                # Another replica has moved the row: read its version anew in another round.
                self._known.pop(place, None)
                again.add(place[1])
        while len(self._known) > _KNOWN_VERSIONS:
            self._known.popitem(last=False)
        if self._on_applied is None:
            return again
        now = datetime.now(UTC)
        visible = [event for event in visible if event.stream not in again]
        for event in visible:
            metrics.PROJECTION_LAG_SECONDS.observe((now - event.timestamp).total_seconds())
        metrics.PROJECTED_EVENTS.inc(len(visible))
        self._on_applied({event.position for event in visible})
        return again

    async def _change(
        self, generation: Generation, events: Sequence[RecordedEvent]
    ) -> tuple[Change | None, int]:
        """Return the change that events make, and the last version in it; an event that fails is parked."""
        projection = generation.projection
        change: Change | None = None
        last = events[0].version - 1
        for event in events:
            try:
                change = changed(projection, change, event, self._dead_letters)
            except Exception as error:  # noqa: BLE001 - a projection may fail in any way
                await self._park(generation, event, error)
                break
            last = event.version
        return change, last

    async def _park(self, generation: Generation, event: RecordedEvent, error: Exception) -> None:
        read_model = generation.projection.table.name
        letter = of_event(read_model, event, error, attempts=1, generation=generation.number)
        await self._dead_letters.park(*letter)


def is_parked(dead_letters: DeadLetters, generation: Generation, stream: StreamId) -> bool:
    """Whether a stream waits behind a dead letter of a generation."""
    letter = dead_letters.find(generation.projection.table.name, stream, generation.number)
    return letter is not None and letter.status is Status.PARKED


async def versions(
    database: Database, generation: Generation, streams: Sequence[StreamId]
) -> dict[StreamId, int]:
    """Return the version that a table has of each stream, 0 without a row. Raises DatabaseError."""
    rows = await database.fetch(
        _VERSIONS.format(table=generation.name),
        orjson.dumps([{"tenant": one.tenant, "id": _id(one)} for one in streams]).decode(),
    )
    there = {(tenant, row_id): version for tenant, row_id, version in rows}
    return {one: there.get((one.tenant, _id(one)), 0) for one in streams}


def changed(
    projection: Projection, before: Change | None, event: RecordedEvent, dead_letters: DeadLetters
) -> Change:
    """Return `before` merged with the change of one more event, as operators corrected that event."""
    corrected = dead_letters.corrected(projection.table.name, event)
    change = Patch({}) if corrected is None else projection.change(corrected)
    return change if before is None else merge(before, change, projection.table.maps)


def _parts(pieces: Iterable[_Piece]) -> Iterable[list[_Piece]]:
    """Divide pieces into parts that fit one statement; those of one stream go to successive parts."""
    part: list[_Piece] = []
    streams: set[StreamId] = set()
    size = 0
    for piece in pieces:
        if part and (size + len(piece.events) > _STATEMENT_EVENTS or piece.stream in streams):
            yield part
            part, size, streams = [], 0, set()
        part.append(piece)
        streams.add(piece.stream)
        size += len(piece.events)
    if part:
        yield part


def _id(stream: StreamId) -> str:
    return stream.name.partition("-")[2]


def change_row(event: RecordedEvent, change: Change, version: int, prior: int) -> dict[str, Any]:
    """Return a row of the statement's parameters: a stream's change, from version `prior` to `version`."""
    row: dict[str, Any] = {
        "tenant": event.tenant_id,
        "id": event.aggregate_id,
        "version": version,
        "prior": prior,
    }
    match change:
        case Put(values):
            return row | {"op": "put", "row": values}
        case Patch(values):
            return row | {"op": "patch", "row": values}
        case Delete():
            return row | {"op": "delete", "row": {}}


def _index_row(event: RecordedEvent) -> dict[str, Any]:
    row = {
        "tenant": event.tenant_id,
        "stream": event.stream.name,
        "version": event.version,
        "lane": event.lane,
        "seq": event.seq,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "time": event.timestamp,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "user_id": event.user_id,
        "trace_id": event.trace_id,
        "session_id": event.session_id,
        "source": event.source,
        "client": event.client,
    }
    # PostgreSQL stores no NUL. A NUL in the id of a command would keep the event out of the index, and so
    # hold up the checkpoint of the lane.
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for name, value in row.items()
    }
