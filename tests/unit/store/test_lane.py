"""What the owner of a lane finds there that it did not write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import grpc
import orjson
import pytest
from dapr.proto import api_v1
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from annals.dapr import DaprError, DaprSidecar, Message, StateValue, Write
from annals.events import DomainEvent, Position, StreamId
from annals.store import (
    Append,
    Appended,
    Backpressure,
    ConflictError,
    DaprEventReader,
    DaprEventStore,
    StoreUnavailable,
    keys,
    lane,
    lease,
    publisher,
)
from annals.store.group_commit import GroupCommit, Waiting
from annals.store.lease import Leases, StoreEmptied
from annals.testing.fake import FakeDapr, FakeSidecar
from annals.testing.fake.state import FakeState, Operation
from conftest import until
from event_store_conformance import new_stream, to_append
from event_stores import Bounded, lane_held, opened


def waiting_for(append: object) -> Waiting:
    return Waiting(append, "", 100, asyncio.get_running_loop().create_future())  # type: ignore[arg-type]


async def test_what_a_former_owner_wrote_late_is_published_though_nobody_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "LEASE_SECONDS", 0.3)
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        first = await store.append(to_append(new_stream(), 0))
        late = to_append(new_stream(), 0)
        client = DaprSidecar(sidecar.grpc_port)
        former = GroupCommit(client, "eventstore", 60)
        (committed,) = await former.commit(first.position.lane, first.position.seq, [waiting_for(late)])

        async def published() -> bool:
            messages = sidecar.dapr.broker.log("domain-events")
            return any(late.events[0].event_id.encode() in message.body for message in messages)

        await until(published)
        await lane_held(store)
        behind = await store.append(to_append(new_stream(), 0))
        assert behind.position.seq == committed.appended.position.seq + 1
        await client.close()


class BetweenTwoReads(DaprSidecar):
    """Leaves the key `unseen` out of one read, as if it and its events had been written right afterwards."""

    def __init__(self, grpc_port: int) -> None:
        super().__init__(grpc_port)
        self.unseen: str | None = None

    async def get_certain(self, store: str, wanted: list[str]) -> dict[str, StateValue]:  # type: ignore[override]
        values = await super().get_certain(store, wanted)
        if self.unseen in values:
            del values[self.unseen]
            self.unseen = None
        return values


async def test_a_stream_that_comes_to_be_between_two_reads_is_a_conflict() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port, "other") as other:
        client = BetweenTwoReads(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        stream = new_stream()
        await other.append(to_append(stream, 0))
        client.unseen = keys.head(stream)
        outcomes = await asyncio.gather(
            store.append(to_append(stream, 0)),
            store.append(to_append(new_stream(), 0)),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [ConflictError, Appended]
        assert client.unseen is None
        await store.drain()
        await running
        await client.close()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lane, "LEASE_SECONDS", 2.0)


class Broker:
    """A broker that is slow, or away for some streams, for all replicas alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.away: set[StreamId] = set()
        publish = DaprSidecar.publish

        async def slow(client: DaprSidecar, topic: str, messages: Sequence[Message]) -> frozenset[str]:
            await asyncio.sleep(self.seconds)
            away = {f"{stream.tenant}/{stream.name}" for stream in self.away}
            if any(message.metadata["partitionKey"] in away for message in messages):
                raise DaprError(grpc.StatusCode.INTERNAL, "error when publishing")
            return await publish(client, topic, messages)

        monkeypatch.setattr(DaprSidecar, "publish", slow)
        monkeypatch.setattr(publisher, "_RETRY_SECONDS", (0.05,))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


async def left_behind(client: DaprSidecar, broker: Broker, owner: str, events: int) -> StreamId:
    """Write a stream whose instance then dies without having published any of it."""
    broker.seconds = 3600.0
    store = DaprEventStore(client, owner=owner)
    running = asyncio.create_task(store.run())
    await lane_held(store)
    stream = new_stream()
    for version in range(events):
        await store.append(to_append(stream, version))
    running.cancel()
    await asyncio.wait([running])
    broker.seconds = 0.0
    return stream


def versions(sidecar: FakeSidecar, stream: StreamId) -> list[int]:
    """Return the versions of a stream's published events, in the topic's order."""
    events = [orjson.loads(message.body) for message in sidecar.dapr.broker.log("domain-events")]
    return [int(event["streamversion"]) for event in events if event["subject"] == stream.name]


def has(sidecar: FakeSidecar, stream: StreamId, version: int) -> Callable[[], Awaitable[bool]]:
    async def published() -> bool:
        return version in versions(sidecar, stream)

    return published


def backlog(commits: int) -> Callable[[], Awaitable[bool]]:
    async def counted() -> bool:
        return REGISTRY.get_sample_value("annals_publish_backlog_commits") == float(commits)

    return counted


async def test_what_another_left_behind_is_published_once_however_long_it_takes(
    short_leases: None, broker: Broker
) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        stream = await left_behind(client, broker, "gone", 50)
        broker.seconds = 0.1
        async with (
            opened(sidecar.grpc_port, "one"),
            opened(sidecar.grpc_port, "two"),
            opened(sidecar.grpc_port, "three"),
        ):
            leases = Leases(client, "eventstore", "test")

            async def marked() -> bool:
                return await leases.published(0) == 50

            await until(marked)
            await asyncio.sleep(2.5)  # during which each of the others looks again
        assert versions(sidecar, stream) == list(range(1, 51))
        await client.close()


async def test_a_lane_that_cannot_go_on_keeps_no_other_waiting_and_its_backlog_is_counted(
    short_leases: None, broker: Broker
) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        stuck = await left_behind(client, broker, "gone", 3)
        other = await left_behind(client, broker, "lost", 2)
        broker.away.add(stuck)
        async with opened(sidecar.grpc_port):
            await until(has(sidecar, other, 2))
            await until(backlog(3))
            age = REGISTRY.get_sample_value("annals_publish_backlog_age_seconds")
            assert age is not None
            assert age > 0.0
            broker.away.clear()
            await until(has(sidecar, stuck, 3))
            await until(backlog(0))
        assert versions(sidecar, stuck) == [1, 2, 3]
        await client.close()


async def test_who_has_lost_the_lane_that_it_publishes_for_another_stops(
    short_leases: None, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        stream = await left_behind(client, broker, "gone", 3)
        broker.away.add(stream)
        async with opened(sidecar.grpc_port):
            await until(backlog(3))
            monkeypatch.setattr(lease, "LEASE_SECONDS", 60.0)
            thief = Leases(client, "eventstore", "thief")

            async def stolen() -> bool:
                return await thief.take(0, 3, (await thief.read())[0][1])

            await until(stolen)
            await until(backlog(0))
            broker.away.clear()
            await asyncio.sleep(2.5)
            assert versions(sidecar, stream) == []
        await client.close()


async def test_who_finds_all_lanes_leased_waits_until_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_RETRY_SECONDS", 0.05)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        waiting = DaprEventStore(client, owner="another", lanes=range(1))
        async with opened(sidecar.grpc_port, lanes=range(1)) as store:
            running = asyncio.create_task(waiting.run())
            await asyncio.sleep(0.3)
            assert (store.lane, waiting.lane, running.done()) == (0, None, False)
        async with asyncio.timeout(lease.LEASE_SECONDS / 2):  # before it runs out: it was given back
            await lane_held(waiting)
        assert (await waiting.append(to_append(new_stream(), 0))).position.lane == 0
        await waiting.drain()
        await running
        await client.close()


async def leave(client: DaprSidecar, ahead: float) -> None:
    """Save a lease of lane 0 as an instance would whose clock is `ahead` of all others."""
    value = await client.get("eventstore", keys.lease(0))
    tail = orjson.loads(value.data)["tail"] if value else 0
    left = {"owner": "of another clock", "expires": time.time() + ahead, "tail": tail}
    await client.save("eventstore", Write(keys.lease(0), orjson.dumps(left)))


@pytest.mark.parametrize("ahead", [600.0, -600.0])
async def test_a_lane_of_one_that_is_gone_is_leased_no_longer_whatever_its_clock_said(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(lane, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        await leave(client, ahead)
        async with opened(sidecar.grpc_port, lanes=range(1)) as store:
            assert store.lane == 0
        await client.close()


async def test_a_lane_whose_lease_is_renewed_is_nobody_elses_though_its_owners_clock_is_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        await leave(client, 600.0)
        store = DaprEventStore(client, owner="test", lanes=range(1))
        running = asyncio.create_task(store.run())
        for _ in range(12):
            await asyncio.sleep(0.3)
            assert store.lane is None
            await leave(client, 600.0)
        await store.drain()
        await running
        await client.close()


async def test_what_one_left_behind_that_is_gone_is_published_though_its_clock_was_ahead(
    short_leases: None, broker: Broker
) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        stream = await left_behind(client, broker, "gone", 2)
        await leave(client, 600.0)
        async with opened(sidecar.grpc_port):
            await until(has(sidecar, stream, 2))
        await client.close()


async def test_one_that_remembers_what_a_store_had_that_was_emptied_ends(short_leases: None) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        emptied = api_v1.DeleteStateRequest(store_name="eventstore", key=keys.lease(0))
        await client.call("DeleteState", emptied)
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(running, 10)
        assert raised.group_contains(StoreEmptied)
        await client.close()


DAMAGED = [b"{", b"{}", b"[]", b'{"owner": "gone", "expires": "never", "tail": null}']


def is_whole(client: DaprSidecar, lane: int) -> Callable[[], Awaitable[bool]]:
    async def decodes() -> bool:
        value = await client.get("eventstore", keys.lease(lane))
        return value is not None and value.data not in DAMAGED

    return decodes


async def test_a_damaged_watermark_of_an_idle_lane_is_said_once_and_again_when_it_is_damaged_anew() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        reader = DaprEventReader(client)
        with capture_logs() as logs:
            for value in (b"{", b"{", b"7", b"{"):
                await client.save("eventstore", Write(keys.published(3), value))
                assert await reader.tails() == ({3: 7} if value == b"7" else {})
        await client.close()
    assert [log["event"] for log in logs] == ["the watermark of a lane is damaged, and is taken to be 0"] * 2


@pytest.mark.parametrize("damaged", DAMAGED)
@pytest.mark.parametrize("of", [0, 5])
async def test_a_lane_whose_lease_was_damaged_is_named_and_passed_over_and_ends_nobody(
    short_leases: None, of: int, damaged: bytes
) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        await client.save("eventstore", Write(keys.lease(of), damaged))
        with capture_logs() as logs:
            async with opened(sidecar.grpc_port) as store:
                appended = await store.append(to_append(new_stream(), 0))
                await asyncio.sleep(2.5)  # during which it looks for orphans again
                assert (await store.reached(), appended.position.seq) == ({appended.position.lane: 1}, 1)
                assert store.lane == (1 if of == 0 else 0)
        assert any(str(log.get("error")).startswith(f"{keys.lease(of)} cannot") for log in logs)
        assert not await is_whole(client, of)()
        await client.close()


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lane_with_a_hole_is_not_taken_for_one_that_ends_there_though_its_lease_was_damaged(
    short_leases: None, lost: int
) -> None:
    state = FakeState()
    async with FakeSidecar(dapr=FakeDapr(stores={"eventstore": state})) as sidecar:
        client, stream = DaprSidecar(sidecar.grpc_port), new_stream()
        async with opened(sidecar.grpc_port) as store:
            for version in range(3):
                await store.append(to_append(stream, version))
        state.write(Operation(keys.log(0, lost)), datetime.now(UTC))
        # A publisher that waits before the hole leaves this watermark.
        await client.save("eventstore", Write(keys.published(0), orjson.dumps(lost - 1)))
        whole = await client.get("eventstore", keys.lease(0))
        assert whole is not None
        await client.save("eventstore", Write(keys.lease(0), b"{"))
        async with opened(sidecar.grpc_port) as store:
            await asyncio.sleep(2.5)
            assert (await store.append(to_append(new_stream(), 0))).position == Position(1, 1)
        await client.save("eventstore", Write(keys.lease(0), whole.data))
        leased = Leases(client, "eventstore", "test")
        assert await leased.tail(0) == 3
        assert await leased.acquire() == 0
        await client.close()


async def test_who_writes_a_lane_keeps_it_though_its_lease_was_damaged(short_leases: None) -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        client = DaprSidecar(sidecar.grpc_port)
        await store.append(to_append(new_stream(), 0))
        await client.save("eventstore", Write(keys.lease(0), b"{"))
        await until(is_whole(client, 0))
        leased, _ = (await Leases(client, "eventstore", "another").read())[0]
        assert (store.lane, leased.owner, leased.tail) == (0, "test", 1)
        await client.close()


@pytest.mark.parametrize("of", [0, 1])
async def test_where_a_watermark_was_damaged_all_of_the_lane_is_published_again(
    short_leases: None, of: int
) -> None:
    async with FakeSidecar() as sidecar:
        client, stream = DaprSidecar(sidecar.grpc_port), new_stream()
        leases = Leases(client, "eventstore", "test")

        async def marked() -> bool:
            return await leases.published(of) == 3

        async with opened(sidecar.grpc_port, "one") as store:
            async with opened(sidecar.grpc_port, "two") as other:
                for version in range(3):
                    await (store, other)[of].append(to_append(stream, version))
            await until(marked)
            if of == 1:  # of an instance that has left the lane to others
                await client.save("eventstore", Write(keys.published(of), b"{"))
                assert (await store.tails())[of] == 3
                await until(marked)
        if of == 0:
            await client.save("eventstore", Write(keys.published(of), b"{"))
            async with opened(sidecar.grpc_port, "three"):
                await until(marked)
        assert versions(sidecar, stream) == [1, 2, 3, 1, 2, 3]
        await client.close()


@pytest.mark.parametrize(("bound", "most"), [("_WAITING_COMMITS", 2), ("_WAITING_BYTES", 4_000)])
@pytest.mark.parametrize("leaves", [True, False])
async def test_whoever_waits_no_more_is_not_in_the_line_which_is_bounded(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int, leaves: bool
) -> None:
    monkeypatch.setattr(lane, bound, most)
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        sidecar.faults.fail("ExecuteStateTransaction", times=5)
        begun = asyncio.create_task(store.append(to_append(new_stream(), 0)))
        await asyncio.sleep(0.1)
        deadline = asyncio.get_running_loop().time() + 0.3
        waiting = [
            asyncio.create_task(store.append(to_append(new_stream(), 0, deadline=deadline))) for _ in "ab"
        ]
        await asyncio.sleep(0)
        with pytest.raises(Backpressure, match="2 commands of"):
            await store.append(to_append(new_stream(), 0))

        if leaves:
            for one in waiting:
                one.cancel()
        for one in waiting:
            with pytest.raises(asyncio.CancelledError if leaves else StoreUnavailable):
                await one
        assert not begun.done(), "the store is still away"
        later = await store.append(to_append(new_stream(), 0))
        assert [(await begun).position.seq, later.position.seq] == [1, 2]


async def test_what_is_too_much_together_is_written_in_turns() -> None:
    async with FakeSidecar() as sidecar:
        client = Bounded(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        appends = []
        for _ in range(30):
            stream = new_stream()
            event = DomainEvent(
                event_type="thing.happened",
                source="test",
                tenant_id=stream.tenant,
                aggregate_type="thing",
                aggregate_id=stream.name.partition("-")[2],
                data={"text": "x" * 200_000},
            )
            appends.append(Append(stream, (event,), 0))
        appended = await asyncio.gather(*map(store.append, appends))
        assert sorted(one.position.seq for one in appended) == list(range(1, 31))
        running.cancel()
        await asyncio.wait([running])
        await client.close()
