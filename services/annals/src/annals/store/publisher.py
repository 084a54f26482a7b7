"""The publisher: follows a lane behind its writer and publishes what was committed.

The lane is the outbox. The watermark says how far it is published, and is saved only after the broker has
taken the events: a crash causes duplicates but no gaps. The lane's next owner goes on from the watermark.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, Message, StateConflict, Write, publish_metadata
from annals.dapr.parts import parts
from annals.events import CONTENT_TYPE, RecordedEvent, StreamId, to_cloudevent_json
from annals.store import keys
from annals.store.event_pages import event_pages
from annals.store.group_commit import Committed
from annals.store.lease import watermark
from annals.store.protocol import EventReader, StoreError, StoreUnavailable, Undecodable
from annals.telemetry import metrics, traces
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_BULK_EVENTS = 100
_BULK_BYTES = 2_000_000
_FIRST_EVENTS = 8  # in the first page read from a backlog, before any size is known
_BUFFERED_BYTES = 20_000_000  # of commits kept in memory until they are published
_MARK_SECONDS = 0.5  # between two saves of the watermark
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_TOGETHER = 3  # tries of a bulk before its events are tried one by one
_REFUSALS = 10  # of one event, each while the broker takes another, before it is passed over
_NEAR = 20  # commits read in one search for such another event
_FAR = 1_000  # commits within which these searches stay


@dataclass(frozen=True, slots=True)
class _Unpublished:
    """A commit that waits to be published, `since` a wall-clock time of the instance that wrote it."""

    seq: int
    since: float
    events: list[RecordedEvent]
    size: int = 0
    """Approximate bytes that it takes in the buffer; 0 if it was read from the store."""


@dataclass(frozen=True, slots=True)
class _Outgoing:
    event: RecordedEvent
    message: Message

    @property
    def size(self) -> int:
        """Bytes of the message's body."""
        return len(self.message.body)


class Publisher:
    """Publishes one lane from its watermark on; `run` must be running."""

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
        self._taken: _Outgoing | None = None  # the smallest event that the broker took so far
        self._looks = 0  # searches for a nearby event
        self._buffer: deque[_Unpublished] = deque()
        self._buffered = 0
        self._said = Said()
        self._more = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._oldest_since = time.time() if self.backlog else None

    @property
    def backlog(self) -> int:
        """How many commits wait to be published."""
        return self._tail - self._published

    @property
    def backlog_age(self) -> float:
        """Seconds that the oldest commit has waited; while a backlog is unread, since the publisher began."""
        return 0.0 if self._oldest_since is None else max(0.0, time.time() - self._oldest_since)

    def offer(self, committed: Sequence[Committed]) -> None:
        """Add commits to the backlog.

        Their events are kept in memory while there is room; the others are read from the store later.
        """
        now = time.time()
        for commit in committed:
            seq, size = commit.appended.position.seq, commit.waiting.size
            if self._buffered + size <= _BUFFERED_BYTES:
                self._buffer.append(_Unpublished(seq, now, commit.events, size))
                self._buffered += size
            self._tail = seq
        self._caught_up.clear()
        if self._oldest_since is None:
            self._oldest_since = now
        self._more.set()

    async def run(self) -> None:
        """Publish the backlog, and what is added to it, until cancelled."""
        marked_at = time.monotonic()
        while True:
            while self.backlog:
                batch = await self._next()
                self._oldest_since = batch[0].since
                await self._publish([event for commit in batch for event in commit.events])
                self._published = batch[-1].seq
                if not self.backlog:
                    self._oldest_since = None
                if time.monotonic() - marked_at > _MARK_SECONDS:
                    await self._write_mark()
                    marked_at = time.monotonic()
            self._caught_up.set()
            self._more.clear()
            try:
                # Save the watermark of an idle lane too: a restart would publish the same commits again.
                async with asyncio.timeout(_MARK_SECONDS if self._marked < self._published else None):
                    await self._more.wait()
            except TimeoutError:
                await self._write_mark()
                marked_at = time.monotonic()

    async def drain(self) -> None:
        """Wait until `run` has published the backlog, and save the watermark."""
        while self.backlog:
            await self._caught_up.wait()
        if self._marked < self._published:
            # Otherwise the store has it: as it was found or saved, or as an import has set it since.
            await self._write_mark()

    async def _next(self) -> list[_Unpublished]:
        """Return the next commits with their events, from the buffer if it has them, else from the store."""
        while self._buffer and self._buffer[0].seq <= self._published:
            self._from_buffer()
        batch: list[_Unpublished] = []
        events = 0
        while (
            self._buffer and events < _BULK_EVENTS and self._buffer[0].seq == self._published + len(batch) + 1
        ):
            batch.append(self._from_buffer())
            events += len(batch[-1].events)
        return batch or await self._read()

    def _from_buffer(self) -> _Unpublished:
        first = self._buffer.popleft()
        self._buffered -= first.size
        return first

    async def _read(self) -> list[_Unpublished]:
        """Read the next commits from the store, however long it takes until it can be read."""
        first, last = self._published + 1, min(self._published + _BULK_EVENTS, self._tail)
        attempt = 0
        while True:
            try:
                return await self._read_log(first, last)
            except StoreError as error:
                _log.warning(
                    "cannot read the backlog", lane=self._lane, error=str(error), backlog=self.backlog
                )
                if isinstance(error, Undecodable):
                    last = first  # one at a time: the commits before the damaged one can be read
                attempt = await _pause(attempt)

    async def _read_log(self, first: int, last: int) -> list[_Unpublished]:
        commits = await self._reader.read_log(self._lane, first, last)
        if not commits:
            # The read broke off, or there is a real hole: then publishing waits here until it is repaired.
            raise StoreUnavailable(f"the log of lane {self._lane} has a hole between {first} and {last}")
        refs = [ref for commit in commits for ref in commit.refs]
        events: list[RecordedEvent] = []
        held = 0
        async for some, size in event_pages(self._reader, refs, first=_FIRST_EVENTS):
            events += some
            held += size
            # One bulk takes no more, and each lane that is looked after may hold this much for a long time.
            if held >= _BULK_BYTES and len(events) >= len(commits[0].versions):
                break
        found = iter(events)
        batch: list[_Unpublished] = []
        for commit in commits:
            own = list(islice(found, len(commit.versions)))
            if len(own) < len(commit.versions):
                break
            batch.append(_Unpublished(commit.position.seq, commit.time.timestamp(), own))
        return batch

    async def _publish(self, events: Sequence[RecordedEvent]) -> None:
        """Publish all events, in order within each stream, however long the broker is away."""
        with traces.publish_spans(self._topic, events) as traceparents:
            outgoing = [
                _Outgoing(event, _message(event, event.stream, traceparent))
                for event, traceparent in zip(events, traceparents, strict=True)
            ]
            for bulk in _bulks(outgoing):
                await self._publish_bulk(bulk)

    async def _publish_bulk(self, bulk: Sequence[_Outgoing]) -> None:
        """Publish a bulk, except for events that the broker keeps refusing while it takes others.

        If one event of a bulk was refused, a sidecar answers as if all were (dapr 1.18,
        pkg/api/grpc/grpc.go, bulkPublishEvent). So after some tries the events are published one by one.
        """
        waiting, refusals, attempt = list(bulk), Counter[str](), 0
        while True:
            if attempt < _TOGETHER:
                waiting = await self._offer_to_broker(waiting)
            else:
                waiting = await self._one_by_one(waiting, refusals)
            if not waiting:
                return
            attempt = await _pause(attempt)

    async def _offer_to_broker(self, outgoing: Sequence[_Outgoing]) -> list[_Outgoing]:
        """Publish events in one call; return those that were not taken, as far as the sidecar tells."""
        try:
            failed = await self._sidecar.publish(self._topic, [one.message for one in outgoing])
        except DaprError as error:
            _log.warning("cannot publish", lane=self._lane, error=str(error), backlog=self.backlog)
            return list(outgoing)
        refused = []
        for one in outgoing:
            if one.message.entry_id in failed:
                refused.append(one)
            elif self._taken is None or one.size < self._taken.size:
                self._taken = one
        if refused:
            _log.warning("the broker refused some events", lane=self._lane, events=len(refused))
        metrics.PUBLISHED_EVENTS.inc(len(outgoing) - len(refused))
        return refused

    async def _one_by_one(self, outgoing: Sequence[_Outgoing], refusals: Counter[str]) -> list[_Outgoing]:
        """Publish each event in a call of its own, while the broker is there; return those still to publish.

        `refusals` counts the refusals of each event so far. An event that is passed over is not lost: a
        consumer that must not miss it reads it from the store.
        """
        left: list[_Outgoing] = []
        for index, one in enumerate(outgoing):
            if not await self._offer_to_broker([one]):
                continue
            if not await self._takes_another(one.event):
                return [*left, *outgoing[index:]]
            refusals[one.event.event_id] += 1
            if refusals[one.event.event_id] < _REFUSALS:
                left.append(one)
                continue
            _log.error(
                "the broker refuses an event, and takes others: it is passed over",
                lane=self._lane,
                event_id=one.event.event_id,
                stream=str(one.event.stream),
                version=one.event.version,
                bytes=len(one.message.body),
            )
            metrics.PASSED_OVER_EVENTS.inc()
        return left

    async def _takes_another(self, refused: RecordedEvent) -> bool:
        """Return whether the broker takes another event, and so is not away.

        The other event is the smallest that the broker has taken, or a small one from a nearby commit. It is
        published under the refused event's key, because a single partition of a broker may be away.
        Consumers expect duplicates, so to publish it twice is harmless; but it must not overtake its stream.
        So it was published before or, if nothing of the lane was, it is the first of its stream.
        """
        other = self._taken.event if self._taken is not None else await self._near(refused.seq)
        if other is None:
            return False
        return not await self._offer_to_broker([_Outgoing(other, _message(other, refused.stream))])

    async def _near(self, seq: int) -> RecordedEvent | None:
        """Return the smallest of the first events of some nearby commits, or None.

        Each call looks further away, since the nearest ones may be refused too.
        """
        away = self._looks * _NEAR % min(self._published or self._tail, _FAR)
        self._looks += 1
        try:
            if self._published:
                last = self._published - away
                commits = await self._reader.read_log(self._lane, max(1, last - _NEAR + 1), last)
            else:
                commits = await self._reader.read_log(self._lane, 1 + away, min(self._tail, away + _NEAR))
                commits = [one for one in commits if one.first == 1 and one.position.seq != seq]
            events = await self._reader.read_events([(one.stream, one.first) for one in commits])
        except StoreError as error:
            _log.warning("cannot read the backlog", lane=self._lane, error=str(error), backlog=self.backlog)
            return None
        return min(events, key=lambda event: len(event.to_json()), default=None)

    async def _write_mark(self) -> None:
        """Save the watermark. It never goes back: another instance that publishes the lane may be further."""
        mark, key = self._published, keys.published(self._lane)
        while self._marked < mark:
            try:
                there = await self._sidecar.get(self._store, key)
                if watermark(self._lane, there, self._said) < mark:
                    await self._sidecar.save(self._store, Write.replacing(key, orjson.dumps(mark), there))
            except StateConflict:
                continue  # another instance was faster: compare again
            except DaprError as error:
                # The watermark stays behind until the next save: a restart would cause some duplicates.
                _log.warning("cannot save the watermark", lane=self._lane, error=str(error))
                return
            self._marked = mark


async def _pause(attempt: int) -> int:
    """Wait, longer after more attempts, and return the number of the next attempt."""
    await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
    return attempt + 1


def _message(event: RecordedEvent, key: StreamId, traceparent: str | None = None) -> Message:
    """Return the message of an event; the broker keeps its order among the messages of the stream `key`."""
    return Message(
        entry_id=event.event_id,
        body=to_cloudevent_json(event, traceparent=traceparent),
        content_type=CONTENT_TYPE,
        metadata=publish_metadata(key.tenant, key.name, event.event_id),
    )


def _bulks(outgoing: Sequence[_Outgoing]) -> list[list[_Outgoing]]:
    """Return events in bulks that a sidecar takes, to be published one after the other.

    A bulk has at most one event of each stream. For a broker without a bulk publish of its own, such as
    pubsub.jetstream, Dapr publishes the messages of a bulk at the same time, in any order
    (dapr, pkg/runtime/pubsub/default_bulkpub.go).
    """
    waves: list[list[_Outgoing]] = []
    occurrences: Counter[StreamId] = Counter()
    for one in outgoing:
        wave = occurrences[one.event.stream]
        occurrences[one.event.stream] += 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(one)
    return [bulk for wave in waves for bulk in parts(wave, lambda one: one.size, _BULK_BYTES, _BULK_EVENTS)]
