"""A follower misses nothing of a stream that two instances wrote, parked or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import pytest
from structlog.testing import capture_logs

from annals.dapr import DaprError, DatabaseError, SidecarUnavailable, StatementRefused, Write
from annals.deadletters import DeadLetters, TooManyParked, of_event
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.store import (
    Append,
    AppendTooLarge,
    DaprEventReader,
    DaprEventStore,
    Follower,
    StoreUnavailable,
    Undecodable,
    follower,
    keys,
)
from annals.testing.fake import FakeSidecar
from conftest import until
from event_stores import BrokenOff, opened

NAME = "default/thing-torn"


class Client(BrokenOff):
    """The client of one instance; the store may be away, or the reply to a save be lost."""

    away = False
    loses_reply = False
    refused = 0

    async def save(self, store: str, write: Write) -> None:
        if self.away:
            self.refused += 1
            raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")
        await super().save(store, write)
        if self.loses_reply:
            self.loses_reply = False
            raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "the reply is lost")


class World:
    """Two instances that each write a lane, and a follower whose handler can fail or wait."""

    def __init__(self, client: Client, stores: tuple[DaprEventStore, DaprEventStore]) -> None:
        self.client = client
        self.stores = stores
        self.letters = DeadLetters(client, "eventstore", "test")
        self.handled: list[int] = []
        self.told: dict[str, Any] = {}
        self.fails: set[int] = set()
        self.error: Exception = ValueError("a bug of the handler")
        self.tries = 0
        self.waits_at: str | None = None
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.stopped = False
        self.now = self.at_once = 0

    async def append(self, lane: int, name: str, version: int = 1) -> None:
        event = DomainEvent(
            event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=name
        )
        appended = await self.stores[lane].append(Append(event.stream, (event,), version - 1))
        assert appended.position.lane == lane

    async def handle(self, event: RecordedEvent) -> None:
        if event.aggregate_id == self.waits_at:
            self.waiting.set()
            self.now += 1
            self.at_once = max(self.at_once, self.now)
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.stopped = True
                raise
            finally:
                self.now -= 1
        if str(event.stream) == NAME:
            self.tries += 1
            if event.version in self.fails:
                raise self.error
            self.handled.append(event.version)
            self.told = event.data

    @asynccontextmanager
    async def following(self, owner: str = "me") -> AsyncIterator[None]:
        one = Follower(self.client, "eventstore", "test", owner, self.handle, self.letters)
        tasks = [asyncio.create_task(self.letters.run()), asyncio.create_task(one.run())]
        try:
            await until(_holds(lambda: one.placed))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def lease(self) -> dict[str, Any]:
        """Return the lease: who follows, until when, and how far."""
        value = await self.client.get("eventstore", keys.follower("test"))
        assert value is not None
        return dict(orjson.loads(value.data))

    def lease_beyond(self, moment: float) -> Callable[[], Awaitable[bool]]:
        async def is_beyond() -> bool:
            return bool((await self.lease())["expires"] > moment)

        return is_beyond

    def saved(self, seen: dict[str, int]) -> Callable[[], Awaitable[bool]]:
        async def is_saved() -> bool:
            return bool((await self.lease())["seen"] == seen)

        return is_saved

    async def correct(self, data: dict[str, Any] | None) -> None:
        """Correct the parked letters, as an operator does at any replica; None discards them."""
        other = DeadLetters(self.client, "eventstore", "test")
        await other.refresh()
        for letter in other.parked("default"):
            await other.correct(letter, data, "ada", "it was nonsense")

    async def release(self) -> None:
        """Release the parked letters, as an operator does at any replica."""
        other = DeadLetters(self.client, "eventstore", "test")
        await other.refresh()
        await other.release(other.parked("default"), "ada", "mended")
        await until(_holds(lambda: bool(self.letters.released()) or not self.parked))

    @property
    def parked(self) -> list[int]:
        return [letter.version for letter in self.letters.parked("default")]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(follower, "_RETRY_SECONDS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(follower, "_SAVE_SECONDS", 0.0)
    async with (
        FakeSidecar() as sidecar,
        opened(sidecar.grpc_port, "a") as one,
        opened(sidecar.grpc_port, "b") as other,
    ):
        client = Client(sidecar.grpc_port)
        world = World(client, (one, other))
        for lane in (0, 1):
            await world.append(lane, f"first-{lane}")
        async with world.following():
            pass
        yield world
        await client.close()


async def test_what_comes_late_from_another_lane_is_handled_though_its_stream_is_parked(
    world: World,
) -> None:
    await world.append(1, "torn", 1)
    await world.append(0, "torn", 2)
    world.fails = {2}
    async with world.following():
        await until(_holds(lambda: world.parked == [2]))
        await until(_holds(lambda: world.handled == [1]))
        world.fails = set()
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1, 2]


async def test_what_comes_late_from_another_lane_and_fails_is_parked_before_the_rest(world: World) -> None:
    await world.append(1, "torn", 1)
    await world.append(0, "torn", 2)
    world.fails = {1, 2}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        world.fails = set()
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1, 2]


async def test_a_replay_waits_for_a_lane_that_lags_behind_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEAST_COMMITS", 1)
    monkeypatch.setattr(follower, "_MOST_COMMITS", 1)
    await world.append(0, "torn", 1)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
    for number in range(5):
        await world.append(1, f"filler-{number}")
    await world.append(1, "torn", 2)
    await world.append(0, "torn", 3)
    world.fails, world.waits_at = set(), "filler-2"
    async with world.following():
        await until(
            _holds(world.waiting.is_set)
        )  # version 3 was skipped, and the lane of version 2 has not come yet
        await world.release()
        world.go_on.set()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1, 2, 3]


async def test_a_page_that_takes_longer_than_the_lease_is_handled_by_one_instance(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    await world.append(0, "long")
    await world.append(0, "torn")
    world.waits_at = "long"
    async with world.following():
        await until(_holds(world.waiting.is_set))
        begun = (await world.lease())["expires"]
        async with world.following("another"):
            await until(world.lease_beyond(begun + 3.0))
            assert (await world.lease())["owner"] == "me"
            world.go_on.set()
            await until(world.saved({"0": 3, "1": 1}))
    assert world.handled == [1]


async def test_what_is_large_is_held_a_few_events_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEAST_COMMITS", 200)
    read, most = 0, 0

    async def counted(
        self: DaprEventReader, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        nonlocal read, most
        read += len(refs)
        most = max(most, read - len(world.handled))
        return await reads(self, refs, certain=certain)

    reads = DaprEventReader.read_raw_events
    monkeypatch.setattr(DaprEventReader, "read_raw_events", counted)
    for version in range(1, 151):
        await world.append(0, "torn", version)
    async with world.following():
        await until(world.saved({"0": 151, "1": 1}))
    assert world.handled == list(range(1, 151))
    assert most < 150


async def test_an_instance_that_lost_its_lease_handles_nothing_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    await world.append(0, "long")
    world.waits_at = "long"
    async with world.following():
        await until(_holds(world.waiting.is_set))
        taken = await world.lease() | {"owner": "another", "expires": time.time() + 60}
        write = Write(keys.follower("test"), orjson.dumps(taken))
        await world.client.save("eventstore", write)
        await until(_holds(lambda: world.stopped))
    assert await world.lease() == taken


async def test_an_instance_whose_renewal_was_saved_and_not_answered_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    monkeypatch.setattr(follower, "_SAVE_SECONDS", 0.05)
    await world.append(0, "long")
    world.waits_at = "long"
    async with world.following():
        await until(_holds(world.waiting.is_set))
        world.client.loses_reply = True
        await until(_holds(lambda: not world.client.loses_reply))
        await until(world.lease_beyond((await world.lease())["expires"]))
        assert not world.stopped
        world.go_on.set()
        await until(world.saved({"0": 2, "1": 1}))
    assert not world.stopped


async def leave(world: World, ahead: float) -> None:
    """Save a lease as an instance would whose clock is `ahead` of all others."""
    lease = await world.lease() | {"owner": "of another clock", "expires": time.time() + ahead + 1.0}
    await world.client.save("eventstore", Write(keys.follower("test"), orjson.dumps(lease)))


@pytest.mark.parametrize("ahead", [600.0, -600.0])
async def test_one_that_is_gone_is_waited_for_no_longer_than_a_lease_whatever_its_clock_said(
    world: World, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 1.0)
    await world.append(0, "torn")
    await leave(world, ahead)
    async with world.following():
        await until(_holds(lambda: world.handled == [1]))
    assert (await world.lease())["owner"] == "me"


async def test_one_that_renews_its_lease_is_left_alone_though_its_clock_is_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    await world.append(0, "torn")
    await leave(world, 600.0)
    async with world.following():
        for _ in range(12):
            await asyncio.sleep(0.3)
            assert (await world.lease())["owner"] == "of another clock"
            await leave(world, 600.0)
    assert world.handled == []


async def test_an_instance_that_cannot_renew_its_lease_handles_nothing_beyond_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    monkeypatch.setattr(follower, "_SAVE_SECONDS", 0.05)
    await world.append(0, "long")
    world.waits_at = "long"
    async with world.following():
        await until(_holds(world.waiting.is_set))
        world.client.away = True
        await until(_holds(lambda: world.stopped))
        world.stopped = False
        world.waiting.clear()
        world.client.away = False
        await until(_holds(world.waiting.is_set))
        world.go_on.set()
        await until(world.saved({"0": 2, "1": 1}))
    assert not world.stopped


async def test_nothing_of_a_page_goes_on_when_one_of_its_streams_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")

    monkeypatch.setattr(world.letters, "park", away)
    await world.append(0, "long")
    await world.append(0, "torn")
    world.fails, world.waits_at = {1}, "long"
    async with world.following():
        await until(_holds(world.waiting.is_set))
        await until(_holds(lambda: world.stopped))
        world.waiting.clear()
        await until(_holds(world.waiting.is_set))
    assert world.at_once == 1
    assert not any("_handle_stream" in repr(task) for task in asyncio.all_tasks())


@pytest.mark.parametrize("turns", range(8))
async def test_it_ends_when_it_is_told_to_in_the_moment_in_which_it_fails(turns: int) -> None:
    class Failing(Follower):
        def __init__(self) -> None:
            self._key = "test"

        async def _acquire(self) -> bool:
            return True

        async def _follow(self) -> None:
            await asyncio.sleep(0)
            raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")

        async def _renew(self) -> None:
            await asyncio.Event().wait()

    following = asyncio.create_task(Failing().run())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert following.cancelling() == 0
    following.cancel()
    await asyncio.wait([following], timeout=5)
    assert following.cancelled()


async def test_what_is_parked_waits_also_if_it_is_read_again(world: World) -> None:
    """As after a crash between the parking and the saving of the place."""
    before = await world.lease()
    await world.append(0, "torn")
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
    world.fails, tried = set(), world.tries
    await world.client.save("eventstore", Write(keys.follower("test"), orjson.dumps(before)))
    async with world.following():
        await until(world.saved(before["seen"] | {"0": 2}))
        assert (world.parked, world.tries) == ([1], tried)
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1]


async def test_what_is_discarded_is_passed_over_and_the_rest_goes_on(world: World) -> None:
    await world.append(0, "torn", 1)
    await world.append(0, "torn", 2)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        await world.correct(None)
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert (world.handled, world.parked) == ([2], [])


async def test_what_is_edited_is_handled_as_it_was_mended(world: World) -> None:
    await world.append(0, "torn")
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        world.fails = set()
        await world.correct({"text": "mended"})
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert (world.handled, world.told) == ([1], {"text": "mended"})


async def test_what_fails_again_in_a_replay_goes_on_holding_up_the_rest(world: World) -> None:
    await world.append(0, "torn", 1)
    await world.append(0, "torn", 2)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        await world.release()
        await until(_holds(lambda: world.parked == [1] and world.letters.parked("default")[0].attempts > 5))
        assert world.handled == []
        world.fails = set()
        await world.release()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1, 2]


async def test_what_another_consumer_parked_is_left_to_it(world: World) -> None:
    await world.append(0, "torn")
    world.fails = {1}
    (event,) = [one async for one in world.stores[0].read_stream(StreamId("default", "thing-torn"))]
    await world.letters.park(*of_event("another", event, ValueError("a bug of its own"), attempts=1))
    async with world.following():
        await until(_holds(lambda: world.parked == [1, 1]))
        world.fails = set()
        await world.release()
        await until(_holds(lambda: len(world.parked) < 2))
    assert [letter.consumer for letter in world.letters.released()] == ["another"]
    assert world.handled == [1]


async def test_events_that_a_read_left_out_are_read_again(world: World) -> None:
    await world.append(0, "torn", 1)
    event = keys.event(StreamId("default", "thing-torn"), 1)
    world.client.left_out = frozenset({event})
    async with world.following():
        await until(_holds(lambda: world.client.asked[event] >= 2))
        world.client.left_out = frozenset()
        await until(_holds(lambda: world.handled == [1]))


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("away"),
        SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away"),
        DatabaseError("away"),
    ],
    ids=["store", "sidecar", "database"],
)
async def test_what_passes_is_waited_for_however_often_it_fails(world: World, error: Exception) -> None:
    await world.append(0, "torn")
    world.fails, world.error = {1}, error
    async with world.following():
        await until(_holds(lambda: world.tries >= 10 or bool(world.parked)))
        assert not world.parked
        world.fails = set()
        await until(_holds(lambda: world.handled == [1]))


@pytest.mark.parametrize(
    "error",
    [
        AppendTooLarge("it is what it is"),
        DaprError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much"),
        Undecodable("stream/default/thing-x/head", KeyError("hash")),
        StatementRefused("no such text"),
    ],
    ids=["append", "message", "damaged", "statement"],
)
async def test_what_never_passes_is_parked(world: World, error: Exception) -> None:
    await world.append(0, "torn")
    world.fails, world.error = {1}, error
    async with world.following():
        await until(_holds(lambda: world.tries > 5 or world.parked == [1]))
    assert world.tries == 5


async def test_a_follower_that_waits_for_people_says_so_once_for_as_long_as_it_lasts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_RETRY_SECONDS", (0.01,) * 5)
    asked = 0
    full = True

    def require_fresh(_consumer: str) -> None:
        nonlocal asked
        asked += 1
        if full:
            raise TooManyParked("1000 sequences of test are parked: something general is wrong")

    monkeypatch.setattr(world.letters, "require_fresh", require_fresh)
    await world.append(0, "torn")
    with capture_logs() as logs:
        async with world.following():
            await until(_holds(lambda: asked > 5))
            full = False
            await until(_holds(lambda: world.handled == [1]))
            full = True
            await world.append(0, "torn", 2)
            before = asked
            await until(_holds(lambda: asked > before + 5))
    told = [(log["log_level"], log["event"], log["follower"]) for log in logs if "parked:" in str(log)]
    waits = "the event store is not followed until dead letters are settled"
    assert told == [("error", waits, "follower/test")] * 2


async def test_a_store_that_is_away_is_said_once_to_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_RETRY_SECONDS", (0.01,) * 5)
    one = Follower(world.client, "eventstore", "test", "me", world.handle, world.letters)
    world.client.away = True
    with capture_logs() as logs:
        running = asyncio.create_task(one.run())
        await until(_holds(lambda: world.client.refused > 5))
        world.client.away = False
        await until(_holds(lambda: one.placed))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [log["event"] for log in logs].count("the event store cannot be followed now") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("invalid literal: 'born on 7 May'"), "ValueError"),
        (StoreUnavailable("the store is away"), "the store is away"),
    ],
)
async def test_what_people_wrote_is_not_logged_when_an_event_is_handled_again(
    world: World, error: Exception, said: str
) -> None:
    """A handler's error may quote it, and the log outlives an erasure."""
    world.fails, world.error = {1}, error
    await world.append(0, "torn")
    with capture_logs() as logs:
        async with world.following():
            await until(_holds(lambda: world.tries > 1))
    told = [log for log in logs if log["event"] == "an event is handled again"]
    assert {(log["follower"], log["tenant"], log["stream"], log["error"]) for log in told} == {
        ("follower/test", "default", "thing-torn", said)
    }


async def test_a_damaged_event_waits_until_it_is_mended(world: World) -> None:
    await world.append(0, "torn")
    key = keys.event(StreamId("default", "thing-torn"), 1)
    whole = await world.client.get("eventstore", key)
    assert whole is not None
    await world.client.save("eventstore", Write(key, b"{"))
    with capture_logs() as logs:
        async with world.following():
            await until(_holds(lambda: any(key in str(log.get("error")) for log in logs)))
            await world.client.save("eventstore", Write(key, whole.data))
            await until(_holds(lambda: world.handled == [1]))


@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"owner": "me", "expires": 0, "seen": {"0": null}}'])
async def test_a_place_that_was_damaged_is_named_and_waited_for(world: World, damaged: bytes) -> None:
    await world.append(0, "torn")
    key = keys.follower("test")
    whole = await world.client.get("eventstore", key)
    assert whole is not None
    await world.client.save("eventstore", Write(key, damaged))
    one = Follower(world.client, "eventstore", "test", "me", world.handle, world.letters)
    with capture_logs() as logs:
        tasks = [asyncio.create_task(world.letters.run()), asyncio.create_task(one.run())]
        await until(_holds(lambda: tasks[1].done() or any(key in str(log.get("error")) for log in logs)))
        await world.client.save("eventstore", Write(key, whole.data))
        await until(_holds(lambda: tasks[1].done() or world.handled == [1]))
    assert not tasks[1].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lane_whose_mark_of_an_import_was_damaged_waits_by_itself(world: World) -> None:
    key = keys.imported(0)
    await world.client.save("eventstore", Write(key, b"{"))
    await world.append(0, "torn")
    await world.append(1, "other")
    with capture_logs() as logs:
        async with world.following():
            await until(world.saved({"0": 1, "1": 2}))
            assert world.handled == []
            await world.client.save("eventstore", Write(key, b"0"))
            await until(_holds(lambda: world.handled == [1]))
    told = [(log["log_level"], log["lane"]) for log in logs if key in str(log.get("error"))]
    assert told == [("error", 0)]


@pytest.mark.parametrize("of", ["event", "log"])
async def test_a_lane_with_a_damaged_value_waits_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    handled: list[str] = []

    async def handle(event: RecordedEvent) -> None:
        handled.append(event.aggregate_id)

    monkeypatch.setattr(world, "handle", handle)
    for name in ("before", "torn", "behind"):
        await world.append(0, name)
    for number in range(40):
        await world.append(1, f"other-{number}")
    key = keys.event(StreamId("default", "thing-torn"), 1) if of == "event" else keys.log(0, 3)
    whole = await world.client.get("eventstore", key)
    assert whole is not None
    await world.client.save("eventstore", Write(key, b"{"))
    with capture_logs() as logs:
        async with world.following():
            await until(world.saved({"0": 2, "1": 41}))
        async with world.following():
            await world.append(1, "later")
            await until(world.saved({"0": 2, "1": 42}))
            looks = world.client.asked[key]
            await until(_holds(lambda: world.client.asked[key] > looks + 2))
            await world.client.save("eventstore", Write(key, whole.data))
            await until(world.saved({"0": 4, "1": 42}))
    others = {f"other-{number}" for number in range(40)}
    assert set(handled) == {"before", "torn", "behind", "later"} | others
    assert len(handled) == len(set(handled)), "none is handled again and again"
    told = [(log["log_level"], log["lane"]) for log in logs if key in str(log.get("error"))]
    assert told == [("error", 0)] * 2, "once by each instance"


async def test_a_replay_of_a_stream_with_a_damaged_event_holds_up_no_other(world: World) -> None:
    await world.append(0, "torn", 1)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        world.fails = set()
        key = keys.event(StreamId("default", "thing-torn"), 1)
        whole = await world.client.get("eventstore", key)
        assert whole is not None
        await world.client.save("eventstore", Write(key, b"{"))
        await world.release()
        with capture_logs() as logs:
            await world.append(1, "other")
            await until(world.saved({"0": 2, "1": 2}))
        told = [(log["log_level"], log["stream"]) for log in logs if key in str(log.get("error"))]
        assert told == [("error", NAME)]
        await world.client.save("eventstore", Write(key, whole.data))
        await until(_holds(lambda: world.handled == [1]))


async def test_an_instance_that_dies_while_it_tries_again_has_not_said_that_it_was_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LEASE_SECONDS", 3.0)
    await world.append(0, "torn")
    world.fails, world.error = {1}, StoreUnavailable("away")
    async with world.following():
        await until(_holds(lambda: world.tries > 0))
        begun = (await world.lease())["expires"]
        await until(world.lease_beyond(begun))
    world.fails = set()
    async with world.following():
        await until(world.saved({"0": 2, "1": 1}))
    assert world.handled == [1]


async def test_nothing_is_handled_while_what_is_parked_is_not_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")

    await world.append(0, "torn", 1)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        await until(world.saved({"0": 2, "1": 1}))
    world.fails = set()
    await world.append(0, "torn", 2)
    world.letters = DeadLetters(world.client, "eventstore", "test")
    commit = keys.log(0, 3)
    world.client.asked.clear()
    with monkeypatch.context() as outage:
        outage.setattr(world.letters, "refresh", away)
        async with world.following():
            await until(_holds(lambda: world.client.asked[commit] >= 3 or bool(world.handled)))
    async with world.following():
        await until(world.saved({"0": 3, "1": 1}))
        assert (world.handled, world.parked) == ([], [1])


async def test_so_many_parked_that_it_is_something_general_stop_it_until_they_are_released(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MAX_PARKED", 1)
    await world.append(0, "torn", 1)
    world.fails = {1}
    async with world.following():
        await until(_holds(lambda: world.parked == [1]))
        await world.append(0, "another")
        world.client.asked.clear()
        await until(_holds(lambda: world.client.asked[keys.log(0, 3)] >= 3))
        assert (await world.lease())["seen"]["0"] < 3
        world.fails = set()
        await world.release()
        await until(_holds(lambda: bool(world.handled)))
        await until(world.saved({"0": 3, "1": 1}))
    assert world.handled == [1]


def _holds(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return condition()

    return holds
