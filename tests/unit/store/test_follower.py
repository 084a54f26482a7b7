"""Who follows the store misses nothing of a stream that two instances wrote, parked or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, RecordedEvent
from annals.store import DOMAIN_LANES, Append, DaprEventStore, Follower, follower
from annals.testing.fake import FakeSidecar
from conftest import until
from event_stores import opened

NAME = "default/thing-torn"


class World:
    """Two instances that write, each its lane, and a follower whose handling can fail or wait."""

    def __init__(self, client: DaprSidecar, stores: tuple[DaprEventStore, DaprEventStore]) -> None:
        self.client = client
        self.stores = stores
        self.letters = DeadLetters(client, "eventstore", "test")
        self.handled: list[int] = []
        self.fails: set[int] = set()
        self.waits_at: str | None = None
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    async def append(self, lane: int, name: str, version: int = 1) -> None:
        event = DomainEvent(
            event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=name
        )
        appended = await self.stores[lane].append(Append(event.stream, (event,), version - 1))
        assert appended.position.lane == lane

    async def handle(self, event: RecordedEvent) -> None:
        if event.aggregate_id == self.waits_at:
            self.waiting.set()
            await self.go_on.wait()
        if str(event.stream) == NAME:
            if event.version in self.fails:
                raise ValueError("a bug of the handler")
            self.handled.append(event.version)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        one = Follower(self.client, "eventstore", "test", "me", DOMAIN_LANES, self.handle, self.letters)
        tasks = [asyncio.create_task(self.letters.run()), asyncio.create_task(one.run())]
        await until(_holds(lambda: one.placed))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def release(self) -> None:
        """As an operator does, at whichever replica."""
        other = DeadLetters(self.client, "eventstore", "test")
        await other.refresh()
        await other.release(other.parked("default"), "ada", "mended")
        await until(_holds(lambda: bool(self.letters.released())))

    @property
    def parked(self) -> list[int]:
        return [letter.version for letter in self.letters.parked("default")]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(follower, "_RETRY_SECONDS", (0.01, 0.01, 0.01))
    async with (
        FakeSidecar() as sidecar,
        opened(sidecar.grpc_port, "a") as one,
        opened(sidecar.grpc_port, "b") as other,
    ):
        client = DaprSidecar(sidecar.grpc_port)
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
        await world.waiting.wait()  # version 3 was passed over, the lane of version 2 is not there yet
        await world.release()
        world.go_on.set()
        await until(_holds(lambda: not world.parked))
    assert world.handled == [1, 2, 3]


def _holds(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return condition()

    return holds
