"""The publisher: follows a lane behind its writer and publishes what was committed.

The lane is the outbox. The watermark is saved after the broker has taken the events, never
before, so a crash makes duplicates and no holes; whoever takes the lane over goes on from it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, Message, Write, publish_metadata
from annals.events import CONTENT_TYPE, RecordedEvent, StreamId, to_cloudevent_json
from annals.store import keys
from annals.store.group_commit import Committed
from annals.store.protocol import EventReader, StoreError, StoreUnavailable
from annals.telemetry import metrics, traces

_log = structlog.get_logger(__name__)

_BULK_EVENTS = 100
_BULK_BYTES = 2_000_000
_BUFFERED_COMMITS = 10_000
_MARK_SECONDS = 0.5
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class Publisher:
    """Publishes one lane from its watermark on."""

    def __init__(
        self,
        sidecar: DaprSidecar,
        store: str,
        reader: EventReader,
        topic: str,
        lane: int,
        published: int,
        tail: int,
    ) -> None:
        self._sidecar = sidecar
        self._store = store
        self._reader = reader
        self._topic = topic
        self._lane = lane
        self._tail = tail
        self._published = self._marked = published
        self._buffer: deque[tuple[int, list[RecordedEvent]]] = deque()
        self._more = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._oldest_unpublished = time.monotonic() if self.backlog else None

    @property
    def backlog(self) -> int:
        """How many commits wait to be published."""
        return self._tail - self._published

    @property
    def backlog_age(self) -> float:
        """For how many seconds the oldest of them has waited, since this publisher saw it."""
        return 0.0 if self._oldest_unpublished is None else time.monotonic() - self._oldest_unpublished

    def offer(self, committed: Sequence[Committed]) -> None:
        """Take note of what was committed.

        The events are kept at hand while there is room; beyond it they are read from the store.
        """
        for commit in committed:
            if len(self._buffer) < _BUFFERED_COMMITS:
                self._buffer.append((commit.appended.position.seq, commit.events))
            self._tail = commit.appended.position.seq
        self._caught_up.clear()
        if self._oldest_unpublished is None:
            self._oldest_unpublished = time.monotonic()
        self._more.set()

    async def run(self) -> None:
        """Publish for ever."""
        marked_at = time.monotonic()
        while True:
            while self.backlog:
                batch = await self._next()
                await self._publish([event for _, events in batch for event in events])
                self._published = batch[-1][0]
                self._oldest_unpublished = time.monotonic() if self.backlog else None
                if time.monotonic() - marked_at > _MARK_SECONDS:
                    await self._write_mark()
                    marked_at = time.monotonic()
            self._caught_up.set()
            self._more.clear()
            try:
                # An idle lane's watermark is saved too: a restart would publish it all again.
                async with asyncio.timeout(_MARK_SECONDS if self._marked < self._published else None):
                    await self._more.wait()
            except TimeoutError:
                await self._write_mark()
                marked_at = time.monotonic()

    async def drain(self) -> None:
        """Wait until all is published and the watermark says so; `run` does the work."""
        while self.backlog:
            await self._caught_up.wait()
        await self._write_mark()

    async def _next(self) -> list[tuple[int, list[RecordedEvent]]]:
        """The next commits with their events: from the buffer when it has them, else from the store."""
        while self._buffer and self._buffer[0][0] <= self._published:
            self._buffer.popleft()
        batch: list[tuple[int, list[RecordedEvent]]] = []
        events = 0
        while (
            self._buffer and events < _BULK_EVENTS and self._buffer[0][0] == self._published + len(batch) + 1
        ):
            batch.append(self._buffer.popleft())
            events += len(batch[-1][1])
        return batch or await self._read()

    async def _read(self) -> list[tuple[int, list[RecordedEvent]]]:
        first, last = self._published + 1, min(self._published + _BULK_EVENTS, self._tail)
        attempt = 0
        while True:
            try:
                commits = await self._reader.read_log(self._lane, first, last)
                refs = [(c.stream, version) for c in commits for version in range(c.first, c.last + 1)]
                events = await self._reader.read_events(refs)
            except StoreUnavailable as error:
                attempt = await self._back_off("cannot read the backlog", error, attempt)
                continue
            if not commits or len(events) != len(refs):
                raise StoreError(f"the log of lane {self._lane} has a hole at {first}")
            found = iter(events)
            return [
                (commit.position.seq, [next(found) for _ in range(commit.first, commit.last + 1)])
                for commit in commits
            ]

    async def _publish(self, events: Sequence[RecordedEvent]) -> None:
        """Publish all events, in order, however long the broker is away."""
        with traces.publish_spans(self._topic, events) as traceparents:
            messages = [
                (event.stream, _message(event, traceparent))
                for event, traceparent in zip(events, traceparents, strict=True)
            ]
            for bulk in _bulks(messages):
                await self._publish_bulk(bulk)
        metrics.PUBLISHED_EVENTS.inc(len(events))

    async def _publish_bulk(self, messages: Sequence[Message]) -> None:
        attempt = 0
        while messages:
            try:
                failed = await self._sidecar.publish(self._topic, messages)
            except DaprError as error:
                attempt = await self._back_off("cannot publish", error, attempt)
                continue
            messages = [message for message in messages if message.entry_id in failed]
            if messages:
                attempt = await self._back_off("the broker refused some events", None, attempt)

    async def _back_off(self, what: str, error: Exception | None, attempt: int) -> int:
        _log.warning(what, lane=self._lane, error=str(error), backlog=self.backlog, attempt=attempt)
        await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
        return attempt + 1

    async def _write_mark(self) -> None:
        mark = self._published
        try:
            await self._sidecar.save(self._store, Write(keys.published(self._lane), orjson.dumps(mark)))
        except DaprError as error:
            # It stays behind until the next time, which costs a restart some duplicates.
            _log.warning("cannot save the watermark", lane=self._lane, error=str(error))
        else:
            self._marked = mark


def _message(event: RecordedEvent, traceparent: str | None) -> Message:
    return Message(
        entry_id=event.event_id,
        body=to_cloudevent_json(event, traceparent=traceparent),
        content_type=CONTENT_TYPE,
        metadata=publish_metadata(event.stream.tenant, event.stream.name, event.event_id),
    )


def _bulks(messages: Sequence[tuple[StreamId, Message]]) -> list[list[Message]]:
    """Messages in bulks that a sidecar takes, to be published one after the other.

    A bulk holds no two events of one stream: where a broker has no bulk publish of its own, as
    pubsub.jetstream has not, Dapr publishes a bulk's messages at the same time, in any order
    (dapr, pkg/runtime/pubsub/default_bulkpub.go).
    """
    waves: list[list[Message]] = []
    occurrences: Counter[StreamId] = Counter()
    for stream, message in messages:
        wave = occurrences[stream]
        occurrences[stream] += 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(message)
    return [bulk for wave in waves for bulk in _sized(wave)]


def _sized(messages: Sequence[Message]) -> list[list[Message]]:
    bulks: list[list[Message]] = [[]]
    size = 0
    for message in messages:
        if bulks[-1] and (len(bulks[-1]) == _BULK_EVENTS or size + len(message.body) > _BULK_BYTES):
            bulks.append([])
            size = 0
        bulks[-1].append(message)
        size += len(message.body)
    return bulks
