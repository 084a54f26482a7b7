"""The publisher: a lane goes on whatever one of its events is, and waits while the broker is away."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from annals.dapr import DaprError, DaprSidecar, Message, StateConflict, StateValue, Write
from annals.events import RecordedEvent, StreamId
from annals.store import Append, MemoryEventStore, Undecodable, publisher
from annals.store.group_commit import Committed, Waiting
from annals.store.protocol import Appended, Commit
from annals.store.publisher import Publisher
from conftest import until
from event_store_conformance import saying

LARGEST = 10_000


class Sidecar:
    """A sidecar on a broker that refuses messages beyond a size, and some of whose partitions may be away."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.watermark = 0
        self.between = 0  # the watermark that another publisher saves right after this one looked
        self.away: Callable[[Message], bool] = lambda _: False
        self.asked = 0

    async def publish(self, _topic: str, messages: Sequence[Message]) -> frozenset[str]:
        self.asked += 1
        refused = [one for one in messages if len(one.body) > LARGEST or self.away(one)]
        self.taken += [one.entry_id for one in messages if one not in refused]
        if refused:
            raise DaprError(grpc.StatusCode.INTERNAL, "error when publishing")
        return frozenset()

    async def get(self, _store: str, _key: str) -> StateValue | None:
        mark = self.watermark
        self.watermark = max(mark, self.between)
        return StateValue(str(mark).encode(), str(mark)) if mark else None

    async def save(self, _store: str, write: Write) -> None:
        if write.etag != (str(self.watermark) if self.watermark else None):
            raise StateConflict(grpc.StatusCode.ABORTED, "possible etag mismatch")
        self.watermark = int(write.value)


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Sidecar:
    monkeypatch.setattr(publisher, "_RETRY_SECONDS", (0.001,))
    return Sidecar()


@asynccontextmanager
async def publishing(
    sidecar: Sidecar, store: MemoryEventStore, published: int, tail: int
) -> AsyncIterator[Publisher]:
    one = Publisher(cast("DaprSidecar", sidecar), "store", store, "events", 0, published, tail)
    running = asyncio.create_task(one.run())
    yield one
    assert not running.done(), "it publishes for ever"
    running.cancel()


async def append(store: MemoryEventStore, name: str, size: int = 10) -> str:
    event = saying(name, "x" * size)
    head, _ = await store.load(event.stream)
    await store.append(Append(event.stream, (event,), head.version if head else 0))
    return event.event_id


def published(one: Publisher, left: int = 0) -> Callable[[], Awaitable[bool]]:
    async def done() -> bool:
        return one.backlog == left

    return done


@pytest.mark.parametrize("place", [0, 3, 6])
async def test_an_event_that_the_broker_refuses_does_not_hold_its_lane(sidecar: Sidecar, place: int) -> None:
    store = MemoryEventStore()
    sizes = [10] * 7
    sizes[place] = 2 * LARGEST
    events = [await append(store, f"t{number}", size) for number, size in enumerate(sizes)]

    async with publishing(sidecar, store, 0, len(events)) as one:
        await until(published(one))
        await one.drain()

    assert set(sidecar.taken) == set(events) - {events[place]}
    assert sidecar.watermark == len(events)


@pytest.mark.parametrize("others", [3, 7])
async def test_a_watermark_of_another_who_has_published_more_stays(sidecar: Sidecar, others: int) -> None:
    store = MemoryEventStore()
    for number in range(5):
        await append(store, f"t{number}")
    sidecar.between = others

    async with publishing(sidecar, store, 0, 5) as one:
        await one.drain()

    assert sidecar.watermark == max(5, others)


@pytest.mark.parametrize("before", [0, 4])
async def test_the_others_of_a_stream_keep_their_order_while_one_is_refused(
    sidecar: Sidecar, before: int
) -> None:
    store = MemoryEventStore()
    for number in range(before):
        await append(store, f"t{number}")
    await append(store, "big", 2 * LARGEST)
    events = [await append(store, "small", size) for size in (30, 20, 1)]

    async with publishing(sidecar, store, before, before + 4) as one:
        await until(published(one))

    first = [sidecar.taken.index(event) for event in events]
    assert first == sorted(first), "none came before the ones before it"


async def test_the_last_event_of_a_lane_may_be_refused_and_so_may_several(sidecar: Sidecar) -> None:
    store = MemoryEventStore()
    for number in range(3):
        await append(store, f"t{number}")
    for number in range(2):
        await append(store, f"big{number}", 2 * LARGEST)

    async with publishing(sidecar, store, 3, 5) as one:
        await until(published(one))


@pytest.mark.parametrize("size", [1, 2 * LARGEST])
async def test_any_number_in_a_row_may_be_refused_for_whatever_reason(sidecar: Sidecar, size: int) -> None:
    store = MemoryEventStore()
    refused: set[str] = set()
    sidecar.away = lambda message: message.entry_id in refused
    async with publishing(sidecar, store, 0, 0) as one:
        await offer(one, store, 1, size=100)
        await until(published(one))
        for number in range(2, publisher._NEAR + 4):
            refused.add(await offer(one, store, number, size=size))
            await until(published(one), what=f"{number} to be passed over")
        last = await offer(one, store, publisher._NEAR + 4, size=100)
        await until(published(one))
    assert last in sidecar.taken
    assert not refused.intersection(sidecar.taken)


@pytest.mark.parametrize("size", [1, 2 * LARGEST])
@pytest.mark.parametrize("before", [0, 30])
async def test_after_a_restart_what_the_broker_takes_is_looked_for_far_away(
    sidecar: Sidecar, before: int, size: int
) -> None:
    store = MemoryEventStore()
    for number in range(before):
        await append(store, f"taken{number}", 100)
    refused = [await append(store, f"t{number}", size) for number in range(3 * publisher._NEAR)]
    last = await append(store, "last", 100)
    sidecar.away = lambda message: message.entry_id in refused
    at = len(refused) // 2 if before else 0

    async with publishing(sidecar, store, before + at, before + len(refused) + 1) as one:
        await until(published(one))

    assert last in sidecar.taken
    assert not set(refused).intersection(sidecar.taken)


async def test_nothing_is_passed_over_while_the_broker_is_away(sidecar: Sidecar) -> None:
    store = MemoryEventStore()
    events = [await append(store, f"t{number}") for number in range(5)]
    sidecar.away = lambda _: True

    async with publishing(sidecar, store, 0, 5) as one:
        await until(_asked(sidecar, 100))
        assert one.backlog == 5
        sidecar.away = lambda _: False
        await until(published(one))

    assert set(sidecar.taken) == set(events)


async def test_nothing_is_passed_over_while_its_partition_of_the_broker_is_away(sidecar: Sidecar) -> None:
    store = MemoryEventStore()
    events = [await append(store, f"t{number}") for number in range(5)]
    sidecar.away = lambda message: message.metadata["partitionKey"] == "default/thing-t2"

    async with publishing(sidecar, store, 0, 5) as one:
        await until(_asked(sidecar, 100))
        assert one.backlog == 5
        sidecar.away = lambda _: False
        await until(published(one))

    assert set(sidecar.taken) == set(events)


async def test_the_age_of_a_backlog_is_that_of_its_oldest_commit(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000_000.0
    monkeypatch.setattr(publisher.time, "time", lambda: now)
    store = MemoryEventStore()
    sidecar.away = lambda message: message.metadata["partitionKey"] == "default/thing-t150"
    async with publishing(sidecar, store, 0, 0) as one:
        for number in range(1, 201):
            await offer(one, store, number)
            now += 1.0
        await until(published(one, left=100))
        assert one.backlog_age == 100.0, "the first hundred are published, the others are not"
        now += 60.0
        assert one.backlog_age == 160.0
        sidecar.away = lambda _: False
        await until(published(one))
        assert one.backlog_age == 0.0


async def test_what_another_left_behind_is_as_old_as_its_commit_says(sidecar: Sidecar) -> None:
    store = MemoryEventStore()
    await append(store, "t0")
    sidecar.away = lambda _: True
    started = time.time()
    async with publishing(sidecar, store, 0, 1) as one:
        await until(_asked(sidecar, 1))
        (commit,) = await store.read_log(0, 1, 1)
        assert one.backlog_age >= started - commit.time.timestamp()


class Forgetful(MemoryEventStore):
    """Leaves the last event out of its reads, the first few times."""

    leaves_out = 20

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        self.leaves_out -= 1
        events = await super().read_events(refs)
        return events[:-1] if self.leaves_out >= 0 else events


async def test_events_that_a_read_left_out_are_read_again(sidecar: Sidecar) -> None:
    store = Forgetful()
    events = [await append(store, f"t{number}") for number in range(3)]
    async with publishing(sidecar, store, 0, 3) as one:
        await until(published(one))
    assert sidecar.taken == events


async def test_a_damaged_event_waits_until_it_is_mended(sidecar: Sidecar) -> None:
    class Damaged(MemoryEventStore):
        reads = 0

        async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
            self.reads += 1
            if self.reads < 3:
                raise Undecodable("stream/default/thing-t/1", ValueError("no JSON"))
            return await super().read_events(refs)

    store = Damaged()
    events = [await append(store, "t")]
    async with publishing(sidecar, store, 0, 1) as one:
        await until(published(one))
    assert sidecar.taken == events


async def test_what_is_before_a_damaged_event_is_published(sidecar: Sidecar) -> None:
    class Damaged(MemoryEventStore):
        damaged: StreamId | None = None

        async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
            if self.damaged in (stream for stream, _ in refs):
                raise Undecodable(f"stream/{self.damaged}/1", ValueError("no JSON"))
            return await super().read_events(refs)

    store = Damaged()
    events = [await append(store, f"t{number}") for number in range(5)]
    store.damaged = StreamId("default", "thing-t3")
    async with publishing(sidecar, store, 0, 5) as one:
        await until(published(one, left=2))
        assert sidecar.taken == events[:3]
        store.damaged = None
        await until(published(one))
    assert sidecar.taken == events


async def test_of_a_backlog_with_large_events_a_few_are_read_at_a_time(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_BULK_BYTES", 20_000)

    class Counting(MemoryEventStore):
        held = 0

        async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
            events = await super().read_events(refs)
            self.held += sum(len(event.to_json()) for event in events)
            return events

    most = 0

    def taken(_: Message) -> bool:
        nonlocal most
        most = max(most, store.held)
        store.held = 0
        return False

    store = Counting()
    sidecar.away = taken
    together = [saying("together", "x" * (LARGEST // 2)) for _ in range(20)]
    await store.append(Append(together[0].stream, tuple(together), 0))
    first = [one.event_id for one in together]
    rest = [await append(store, f"t{number}", LARGEST // 2) for number in range(99)]
    async with publishing(sidecar, store, 0, 100) as one:
        await until(published(one))
    assert [one for one in sidecar.taken if one in first] == first
    assert [one for one in sidecar.taken if one not in first] == rest
    assert most < 200_000, "it has 600 kB"


async def test_a_bulk_is_no_larger_than_what_a_sidecar_takes(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_BULK_BYTES", 20_000)
    bulks: list[int] = []

    class Weighing(Sidecar):
        async def publish(self, topic: str, messages: Sequence[Message]) -> frozenset[str]:
            bulks.append(sum(len(one.body) for one in messages))
            return await super().publish(topic, messages)

    store, weighing = MemoryEventStore(), Weighing()
    committed = []
    for number in range(12):
        event = saying(f"t{number}", "x" * (LARGEST // 2))
        appended = await store.append(Append(event.stream, (event,), 0))
        [recorded] = await store.read_events([(event.stream, 1)])
        waiting = Waiting(Append(event.stream, (event,), 0), "", LARGEST // 2, asyncio.Future())
        committed.append(Committed(waiting, appended, [recorded]))
    async with publishing(weighing, store, 0, 0) as one:
        one.offer(committed)
        await until(published(one))
    assert len(weighing.taken) == 12
    assert max(bulks) <= 20_000
    assert len(bulks) == 4, "three of them fit into one"


async def test_what_waits_while_the_broker_is_away_takes_little_memory(sidecar: Sidecar) -> None:
    store = MemoryEventStore()
    sidecar.away = lambda _: True
    async with publishing(sidecar, store, 0, 0) as one:
        events = [await append(store, f"t{number}", LARGEST * 9 // 10) for number in range(6_000)]
        tracemalloc.start()
        try:
            for number in range(1, len(events) + 1):
                await tell(one, store, number)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 40_000_000, "the store has 60 MB of them"
        sidecar.away = lambda _: False
        await until(published(one))
    assert sidecar.taken == events


async def test_what_found_no_room_in_memory_is_published_in_its_place(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_BUFFERED_BYTES", 3_000)
    store = MemoryEventStore()
    sidecar.away = lambda _: True
    async with publishing(sidecar, store, 0, 0) as one:
        events = [await offer(one, store, number, size) for number, size in enumerate((10, 5_000, 10), 1)]
        sidecar.away = lambda _: False
        await until(published(one))
    assert sidecar.taken == events


async def test_what_was_published_makes_room_in_memory(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(MemoryEventStore):
        reads = 0

        async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
            self.reads += 1
            return await super().read_log(lane, first, last)

    monkeypatch.setattr(publisher, "_BUFFERED_BYTES", 3_000)
    store = Counting()
    async with publishing(sidecar, store, 0, 0) as one:
        for number in range(1, 21):
            await offer(one, store, number)
            await until(published(one))
    assert store.reads == 20, "those of this test itself"


async def test_a_watermark_that_could_not_be_saved_is_saved_later(sidecar: Sidecar) -> None:
    class Away(Sidecar):
        away_too = True

        async def save(self, store: str, write: Write) -> None:
            if self.away_too:
                raise DaprError(grpc.StatusCode.INTERNAL, "the database is away")
            await super().save(store, write)

    store, away = MemoryEventStore(), Away()
    await append(store, "t")
    async with publishing(away, store, 0, 1) as one:
        await one.drain()
        assert (one.backlog, away.watermark) == (0, 0)
        away.away_too = False
        await one.drain()
        assert away.watermark == 1


async def test_a_hole_in_the_log_is_waited_for_until_it_is_repaired(sidecar: Sidecar) -> None:
    class Holed(MemoryEventStore):
        reads = 0

        async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
            self.reads += 1
            return [] if self.reads < 5 else await super().read_log(lane, first, last)

    store = Holed()
    events = [await append(store, f"t{number}") for number in range(3)]
    async with publishing(sidecar, store, 0, 3) as one:
        await until(published(one))
    assert sidecar.taken == events


async def test_the_watermark_of_an_idle_lane_is_saved(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_MARK_SECONDS", 0.05)
    store = MemoryEventStore()

    async def saved() -> bool:
        return sidecar.watermark == 1

    async with publishing(sidecar, store, 0, 0) as one:
        await offer(one, store, 1)
        await until(saved)


async def test_a_bulk_has_one_event_of_each_stream(sidecar: Sidecar) -> None:
    """Some brokers are given the messages of a bulk in any order."""
    bulks: list[list[str]] = []

    class Recording(Sidecar):
        async def publish(self, topic: str, messages: Sequence[Message]) -> frozenset[str]:
            bulks.append([one.metadata["partitionKey"] for one in messages])
            return await super().publish(topic, messages)

    store, recording = MemoryEventStore(), Recording()
    events = [await append(store, name) for name in "aababc"]
    async with publishing(recording, store, 0, len(events)) as one:
        await until(published(one))
    assert bulks == [
        ["default/thing-a", "default/thing-b", "default/thing-c"],
        ["default/thing-a", "default/thing-b"],
        ["default/thing-a"],
    ]
    assert recording.taken == [events[place] for place in (0, 2, 5, 1, 4, 3)]


async def offer(one: Publisher, store: MemoryEventStore, number: int, size: int = 10) -> str:
    event = await append(store, f"t{number}", size)
    await tell(one, store, number)
    return event


async def tell(one: Publisher, store: MemoryEventStore, number: int) -> None:
    """Offer the commit at a position to the publisher."""
    (commit,) = await store.read_log(0, number, number)
    events = await store.read_events([(commit.stream, 1)])
    appended = Appended(commit.stream, 1, commit.position)
    # The lane offers events of its own, together with their size.
    events = [RecordedEvent.from_json(event.to_json()) for event in events]
    waiting = Waiting(cast("Any", None), "", sum(len(event.to_json()) for event in events), asyncio.Future())
    one.offer([Committed(waiting, appended, events)])


def _asked(sidecar: Sidecar, times: int) -> Callable[[], Awaitable[bool]]:
    async def done() -> bool:
        return sidecar.asked >= times

    return done
