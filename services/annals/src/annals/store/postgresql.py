"""The event store directly on PostgreSQL, for tools and for comparisons. No service uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import asyncpg

from annals.events import Position, RecordedEvent, StreamId
from annals.store import records
from annals.store.protocol import (
    Append,
    Appended,
    Commit,
    ConflictError,
    DuplicateCommand,
    Head,
    Outcome,
)

_LANE = 0
# The key of an advisory lock: one writer at a time takes the log's next sequence, which keeps the log dense.
_LOG_LOCK = 0x616E6E616C73

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    tenant text, stream text, version bigint, value bytea NOT NULL,
    PRIMARY KEY (tenant, stream, version));
CREATE TABLE IF NOT EXISTS heads (
    tenant text, stream text, value bytea NOT NULL, PRIMARY KEY (tenant, stream));
CREATE TABLE IF NOT EXISTS outcomes (
    tenant text, command_id text, value bytea NOT NULL, PRIMARY KEY (tenant, command_id));
CREATE TABLE IF NOT EXISTS log (seq bigint PRIMARY KEY, value bytea NOT NULL);
"""


class PostgresEventStore:
    """An `EventStore` on a pool of connections: one lane, and one append at a time."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create_tables(self) -> None:
        """Create the tables that do not exist yet."""
        await self._pool.execute(_SCHEMA)

    async def append(self, append: Append) -> Appended:
        """Append events to a stream; see `EventStore.append`."""
        tenant, name = append.stream.tenant, append.stream.name
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOG_LOCK)
            head, outcome = await _load(connection, append.stream, append.command_id)
            if outcome is not None:
                raise DuplicateCommand(outcome)
            actual = head.version if head else 0
            if actual != append.expected_version:
                raise ConflictError(append.stream, append.expected_version, actual)
            previous = head.hash if head else ""
            last = await connection.fetchval("SELECT coalesce(max(seq), 0) FROM log")
            position = Position(_LANE, last + 1)
            events = records.record(append, position, previous)
            await connection.executemany(
                "INSERT INTO events VALUES ($1, $2, $3, $4)",
                [(tenant, name, event.version, event.to_json()) for event in events],
            )
            await connection.execute(
                "INSERT INTO heads VALUES ($1, $2, $3) ON CONFLICT (tenant, stream) DO UPDATE SET value = $3",
                tenant,
                name,
                records.encode_head(records.head_after(append, events[-1].hash)),
            )
            await connection.execute(
                "INSERT INTO log VALUES ($1, $2)",
                position.seq,
                records.encode_commit(append, datetime.now(UTC), events[-1].hash),
            )
            if append.command_id is not None:
                await connection.execute(
                    "INSERT INTO outcomes VALUES ($1, $2, $3)",
                    tenant,
                    append.command_id,
                    records.encode_outcome(append, position),
                )
        return Appended(append.stream, append.last, position, events[-1].hash)

    async def load(
        self,
        stream: StreamId,
        command_id: str | None = None,
        *,
        certain: bool = False,  # noqa: ARG002 - it always is
    ) -> tuple[Head | None, Outcome | None]:
        """Return the stream's head and the outcome of a command id; see `EventReader.load`."""
        async with self._pool.acquire() as connection:
            return await _load(connection, stream, command_id)

    async def read_stream(
        self,
        stream: StreamId,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield a stream's events; see `EventReader.read_stream`."""
        rows = await self._pool.fetch(
            """SELECT value FROM events WHERE tenant = $1 AND stream = $2 AND version >= $3
               AND ($4::bigint IS NULL OR version <= $4)
               ORDER BY CASE WHEN $6 THEN -version ELSE version END LIMIT $5""",
            stream.tenant,
            stream.name,
            from_version,
            to_version,
            limit,
            backwards,
        )
        for row in rows:
            yield RecordedEvent.from_json(row["value"])

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        """Return events by stream and version; see `EventReader.read_events`."""
        found = await self.read_raw_events(refs)
        return [RecordedEvent.from_json(value) for value in found if value is not None]

    async def read_raw_events(
        self,
        refs: Sequence[tuple[StreamId, int]],
        *,
        certain: bool = False,  # noqa: ARG002 - it always is
    ) -> list[bytes | None]:
        """Return the stored bytes of events; see `EventReader.read_raw_events`."""
        rows = await self._pool.fetch(
            """SELECT value FROM unnest($1::text[], $2::text[], $3::bigint[])
               WITH ORDINALITY AS ref (tenant, stream, version, place)
               LEFT JOIN events USING (tenant, stream, version) ORDER BY place""",
            [stream.tenant for stream, _ in refs],
            [stream.name for stream, _ in refs],
            [version for _, version in refs],
        )
        return [row["value"] for row in rows]

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        """Return a lane's commits from `first` to `last`; see `EventReader.read_log`."""
        if lane != _LANE:
            return []
        rows = await self._pool.fetch(
            "SELECT seq, value FROM log WHERE seq BETWEEN $1 AND $2 ORDER BY seq", first, last
        )
        return [records.decode_commit(row["value"], Position(_LANE, row["seq"])) for row in rows]

    async def tails(self, *, certain: bool = True) -> dict[int, int]:  # noqa: ARG002 - it always is
        """Return the lane and its end, once it was written; see `EventReader.tails`."""
        last = await self._pool.fetchval("SELECT max(seq) FROM log")
        return {_LANE: last} if last else {}


async def _load(
    connection: asyncpg.Connection, stream: StreamId, command_id: str | None
) -> tuple[Head | None, Outcome | None]:
    row = await connection.fetchrow(
        """SELECT (SELECT value FROM heads WHERE tenant = $1 AND stream = $2) AS head,
                  (SELECT value FROM outcomes WHERE tenant = $1 AND command_id = $3) AS outcome""",
        stream.tenant,
        stream.name,
        command_id,
    )
    return (
        records.decode_head(row["head"]) if row["head"] else None,
        records.decode_outcome(row["outcome"]) if row["outcome"] else None,
    )
