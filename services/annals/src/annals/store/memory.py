"""An event store in memory, for unit tests: it has one lane, keeps every rule, and is not durable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from annals.events import Position, RecordedEvent, StreamId
from annals.store.protocol import (
    Append,
    Appended,
    Commit,
    ConflictError,
    DuplicateCommand,
    Head,
    Outcome,
)
from annals.store.records import record

_LANE = 0


class MemoryEventStore:
    """An `EventStore` in memory."""

    def __init__(self) -> None:
        self._streams: dict[StreamId, list[RecordedEvent]] = {}
        self._heads: dict[StreamId, Head] = {}
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._log: list[Commit] = []

    async def append(self, append: Append) -> Appended:
        """Append events to a stream; see `EventStore.append`."""
        key = (append.stream.tenant, append.command_id or "")
        if key in self._outcomes:
            raise DuplicateCommand(self._outcomes[key])
        stream = self._streams.get(append.stream, [])
        if len(stream) != append.expected_version:
            raise ConflictError(append.stream, append.expected_version, len(stream))
        position = Position(_LANE, len(self._log) + 1)
        events = record(append, position, stream[-1].hash if stream else "")
        self._streams[append.stream] = stream + events
        self._heads[append.stream] = Head(append.last, append.state, append.state_schema, events[-1].hash)
        self._log.append(
            Commit(
                position,
                append.stream,
                append.first,
                append.last,
                tuple(event.event_type for event in events),
                datetime.now(UTC),
                events[0].event_id,
                events[-1].hash,
            )
        )
        appended = Appended(append.stream, append.last, position, events[-1].hash)
        if append.command_id is not None:
            self._outcomes[key] = Outcome(append.fingerprint, appended)
        return appended

    async def load(
        self,
        stream: StreamId,
        command_id: str | None = None,
        *,
        certain: bool = False,  # noqa: ARG002 - it always is
    ) -> tuple[Head | None, Outcome | None]:
        """Return the stream's head and the outcome of a command id; see `EventReader.load`."""
        return self._heads.get(stream), self._outcomes.get((stream.tenant, command_id or ""))

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
        events = self._streams.get(stream, [])[max(from_version, 1) - 1 : to_version]
        for event in (events[::-1] if backwards else events)[:limit]:
            yield event

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        """Return events by stream and version; see `EventReader.read_events`."""
        return [
            self._streams[stream][version - 1]
            for stream, version in refs
            if 0 < version <= len(self._streams.get(stream, ()))
        ]

    async def read_raw_events(
        self,
        refs: Sequence[tuple[StreamId, int]],
        *,
        certain: bool = False,  # noqa: ARG002 - it always is
    ) -> list[bytes | None]:
        """Return the stored bytes of events; see `EventReader.read_raw_events`."""
        found = {(event.stream, event.version): event.to_json() for event in await self.read_events(refs)}
        return [found.get(ref) for ref in refs]

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        """Return a lane's commits from `first` to `last`; see `EventReader.read_log`."""
        return self._log[max(first, 1) - 1 : last] if lane == _LANE else []

    async def tails(self, *, certain: bool = True) -> dict[int, int]:  # noqa: ARG002 - it always is
        """Return the lane and its end, once it was written; see `EventReader.tails`."""
        return {_LANE: len(self._log)} if self._log else {}
