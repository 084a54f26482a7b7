"""Applies events to all read models of a service, whatever order they come in and how often."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from annals.events import Position, RecordedEvent, StreamId
from annals.projections.changes import Change, Delete, Patch, Put, merge
from annals.projections.database import ReadModelDatabase
from annals.projections.projection import Projection
from annals.projections.statement import apply_statement
from annals.store import EventReader
from annals.telemetry import metrics, traces

_log = structlog.get_logger(__name__)

_ROUNDS = 10
_KNOWN_VERSIONS = 100_000
_STATEMENT_EVENTS = 500

_VERSIONS = """
SELECT coalesce(json_agg(json_build_array(tenant, stream, version)), '[]')::text
FROM jsonb_to_recordset($1::text::jsonb) AS wanted (tenant text, stream text)
JOIN readmodels.stream_versions USING (tenant, stream)"""


class ProjectionStalled(Exception):
    """Events cannot be applied now: other replicas were faster each time."""


class Applier:
    """One batch after the other. `on_applied` is told the positions that became visible."""

    def __init__(
        self,
        database: ReadModelDatabase,
        store: EventReader,
        projections: Sequence[Projection],
        on_applied: Callable[[Iterable[Position]], None],
    ) -> None:
        self._database = database
        self._store = store
        self._projections = projections
        self._on_applied = on_applied
        self._by_type = {projection.aggregate_type: projection for projection in projections}
        self._statement = apply_statement(projection.table for projection in projections)
        self._known: OrderedDict[StreamId, int] = OrderedDict()
        self._turn = asyncio.Lock()

    async def apply(self, events: Iterable[RecordedEvent]) -> frozenset[StreamId]:
        """Make events visible, with those before them; those that are visible already are skipped.

        Returns the streams that stay behind, because a projection fails on one of their events or
        the store lacks one; they do not hold up the others. Raises ProjectionStalled, DatabaseError
        and StoreError: then some of the events may be visible.
        """
        failed: set[StreamId] = set()
        given: dict[StreamId, dict[int, RecordedEvent]] = defaultdict(dict)
        for event in events:
            given[event.stream][event.version] = event
        async with self._turn:
            for _ in range(_ROUNDS):
                batch = await self._behind(given, failed)
                if not batch:
                    return frozenset(failed)
                for part in _parts(batch):
                    await self._write(part, failed)
        raise ProjectionStalled(f"{len(given)} streams did not advance in {_ROUNDS} rounds")

    async def _behind(
        self, given: Mapping[StreamId, Mapping[int, RecordedEvent]], failed: set[StreamId]
    ) -> dict[StreamId, list[RecordedEvent]]:
        """For each stream that is behind what was given: all events up to there, from its version on."""
        versions = await self._versions(given)
        wanted = {
            stream: range(versions[stream] + 1, max(events) + 1)
            for stream, events in given.items()
            if versions[stream] < max(events) and stream not in failed
        }
        missing = [
            (stream, version)
            for stream, span in wanted.items()
            for version in span
            if version not in given[stream]
        ]
        skipped = sum(version <= versions[stream] for stream, events in given.items() for version in events)
        metrics.PROJECTION_SKIPPED.inc(skipped)
        found: dict[tuple[StreamId, int], RecordedEvent] = {}
        if missing:
            read = await self._store.read_events(missing)
            found = {(event.stream, event.version): event for event in read}
            metrics.PROJECTION_HEALED.inc(len(found))
            for stream, version in missing:
                if (stream, version) not in found:
                    _log.error("an earlier event is not in the store", stream=str(stream), version=version)
                    failed.add(stream)
                    wanted.pop(stream, None)
        return {
            stream: [given[stream].get(version) or found[stream, version] for version in span]
            for stream, span in wanted.items()
        }

    async def _versions(self, streams: Iterable[StreamId]) -> dict[StreamId, int]:
        unknown = [stream for stream in streams if stream not in self._known]
        if unknown:
            wanted = [{"tenant": stream.tenant, "stream": stream.name} for stream in unknown]
            rows = await self._database.fetch(_VERSIONS, orjson.dumps(wanted).decode())
            there = {StreamId(tenant, name): version for tenant, name, version in rows}
            for stream in unknown:
                self._learn(stream, there.get(stream, 0))
        return {stream: self._known[stream] for stream in streams}

    def _learn(self, stream: StreamId, version: int) -> None:
        self._known[stream] = version
        self._known.move_to_end(stream)

    async def _write(self, part: Mapping[StreamId, Sequence[RecordedEvent]], failed: set[StreamId]) -> None:
        changes = self._changes(part, failed)
        batch = {stream: events for stream, events in part.items() if stream not in failed}
        if not batch:
            return
        events = [event for stream_events in batch.values() for event in stream_events]
        with traces.project_spans(events):
            advanced = await self._database.fetch(self._statement, *_parameters(batch, events, changes))
        visible: list[RecordedEvent] = []
        for stream in batch:
            # Whatever did not advance was moved by another replica: look again.
            del self._known[stream]
        for tenant, name in advanced:
            stream = StreamId(tenant, name)
            self._learn(stream, batch[stream][-1].version)
            visible += batch[stream]
        while len(self._known) > _KNOWN_VERSIONS:
            self._known.popitem(last=False)
        now = datetime.now(UTC)
        for event in visible:
            metrics.PROJECTION_LAG_SECONDS.observe((now - event.timestamp).total_seconds())
        metrics.PROJECTED_EVENTS.inc(len(visible))
        self._on_applied({event.position for event in visible})

    def _changes(
        self, batch: Mapping[StreamId, Sequence[RecordedEvent]], failed: set[StreamId]
    ) -> dict[str, list[dict[str, Any]]]:
        """The changes of each table's rows; a stream on which its projection fails joins `failed`."""
        changes: dict[str, list[dict[str, Any]]] = {
            projection.table.name: [] for projection in self._projections
        }
        for stream, events in batch.items():
            projection = self._by_type.get(events[0].aggregate_type)
            if projection is None:
                continue
            try:
                change = _changed(projection, events)
            except Exception as error:  # noqa: BLE001 - a projection may fail in any way
                _log.error("a projection failed", stream=str(stream), exc_info=error)
                failed.add(stream)
            else:
                changes[projection.table.name].append(_change_row(stream, events[0], change))
        return changes


def _parameters(
    batch: Mapping[StreamId, Sequence[RecordedEvent]],
    events: Sequence[RecordedEvent],
    changes: Mapping[str, list[dict[str, Any]]],
) -> list[str]:
    versions = [
        {
            "tenant": stream.tenant,
            "stream": stream.name,
            "version": stream_events[-1].version,
            "prior": stream_events[0].version - 1,
        }
        for stream, stream_events in batch.items()
    ]
    rows = (versions, [_index_row(event) for event in events], *changes.values())
    return [orjson.dumps(row).decode() for row in rows]


def _parts(
    batch: Mapping[StreamId, list[RecordedEvent]],
) -> Iterable[dict[StreamId, list[RecordedEvent]]]:
    """The batch in parts that one statement takes; a long stream goes in several, in order."""
    part: dict[StreamId, list[RecordedEvent]] = {}
    size = 0
    for stream, events in batch.items():
        for start in range(0, len(events), _STATEMENT_EVENTS):
            piece = events[start : start + _STATEMENT_EVENTS]
            if part and (size + len(piece) > _STATEMENT_EVENTS or stream in part):
                yield part
                part, size = {}, 0
            part[stream] = piece
            size += len(piece)
    if part:
        yield part


def _changed(projection: Projection, events: Sequence[RecordedEvent]) -> Change:
    change = projection.change(events[0])
    for event in events[1:]:
        change = merge(change, projection.change(event), projection.table.maps)
    return change


def _change_row(stream: StreamId, event: RecordedEvent, change: Change) -> dict[str, Any]:
    row: dict[str, Any] = {"tenant": stream.tenant, "stream": stream.name, "id": event.aggregate_id}
    match change:
        case Put(values):
            return row | {"op": "put", "row": values}
        case Patch(values):
            return row | {"op": "patch", "row": values}
        case Delete():
            return row | {"op": "delete", "row": {}}


def _index_row(event: RecordedEvent) -> dict[str, Any]:
    return {
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
        "trace_id": event.traceparent[3:35] if event.traceparent else None,
    }
