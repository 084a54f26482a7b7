"""A database that comes back without its last commits, as a standby that was behind does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import pytest

from annals.dapr import DaprSidecar, Write
from annals.store import DaprEventStore, keys
from annals.store.lane import CommitsLost
from annals.testing.fake import FakeDapr, FakeSidecar, FakeState
from annals.testing.fake.state import Operation
from event_store_conformance import new_stream, to_append
from event_stores import lane_held


@pytest.fixture(autouse=True)
def _quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.store.lane.LEASE_SECONDS", 0.3)


class Database(FakeState):
    """One with a standby."""

    def values(self) -> dict[str, bytes]:
        now = datetime.now(UTC)
        return {key: stored.data for key in self.keys(now) if (stored := self.get(key, now)) is not None}

    def fail_over(self, standby: dict[str, bytes]) -> None:
        """Have what the standby has, and nothing more."""
        now = datetime.now(UTC)
        gone: dict[str, bytes | None] = dict.fromkeys(self.keys(now))
        for key, data in (gone | standby).items():
            self.write(Operation(key, data), now)


@dataclass
class World:
    database: Database
    client: DaprSidecar

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[DaprEventStore, asyncio.Task[None]]]:
        store = DaprEventStore(self.client, owner="test")
        task = asyncio.create_task(store.run())
        try:
            yield store, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    database = Database()
    async with FakeSidecar(dapr=FakeDapr(stores={"eventstore": database})) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        yield World(database, client)
        await client.close()


async def add(store: DaprEventStore, count: int) -> int:
    """The last sequence of some commits."""
    return [(await store.append(to_append(new_stream(), 0))).position.seq for _ in range(count)][-1]


def lost(error: BaseException | None) -> bool:
    return isinstance(error, ExceptionGroup) and error.subgroup(CommitsLost) is not None


async def ended(task: asyncio.Task[None]) -> BaseException | None:
    await asyncio.wait([task], timeout=10)
    return task.exception() if task.done() else None


@pytest.mark.parametrize("behind", [0, 3])
async def test_a_lane_is_not_written_on_behind_a_hole(world: World, behind: int) -> None:
    async with world.running() as (store, task):
        await lane_held(store)
        await add(store, 3)
        standby = world.database.values()
        await add(store, 2)
        world.database.fail_over(standby)
        if behind:
            assert await add(store, behind) == 5 + behind
        assert lost(await ended(task))
    lease = orjson.loads(world.database.values()[keys.lease(0)])
    assert lease["tail"] <= 3, "whoever takes the lane next finds where it ends"


async def test_who_leaves_a_lane_does_not_say_that_it_has_what_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.store.lane.LEASE_SECONDS", 60.0)
    async with world.running() as (store, task):
        await lane_held(store)
        standby = world.database.values()
        await add(store, 2)
        world.database.fail_over(standby)
        await store.drain()
        assert lost(await ended(task))


async def test_a_lane_is_not_taken_whose_watermark_is_of_what_was_lost(world: World) -> None:
    async with world.running() as (store, _):
        await lane_held(store)
        await add(store, 3)
        standby = world.database.values()
        await add(store, 5)
    world.database.fail_over(standby | {keys.published(0): b"5"})
    for seq in (7, 8):  # and somebody wrote behind the hole
        world.database.write(Operation(keys.log(0, seq), b"{}"), datetime.now(UTC))
    async with world.running() as (store, task):
        assert isinstance(await ended(task), CommitsLost)
        assert store.lane is None


async def test_without_what_says_how_far_it_was_a_lane_goes_on_where_it_ends(world: World) -> None:
    """What docs/operating.md has of a database that lost commits for good."""
    async with world.running() as (store, _):
        await lane_held(store)
        await add(store, 3)
        standby = world.database.values()
        await add(store, 5)
        behind = {key: data for key, data in world.database.values().items() if key.startswith("log/0/")}
    del behind[keys.log(0, 4)], behind[keys.log(0, 5)]
    world.database.fail_over(standby | behind | {keys.published(0): b"8"})
    for key in (keys.lease(0), keys.published(0)):
        world.database.write(Operation(key), datetime.now(UTC))
    async with world.running() as (store, _):
        await lane_held(store)
        assert await add(store, 2) == 5
        assert await add(store, 1) == 9
        commits = await store.read_log(0, 1, 100)
        assert [commit.position.seq for commit in commits] == list(range(1, 10))


async def test_what_is_still_to_be_imported_was_not_lost(world: World) -> None:
    for key in (keys.imported(0), keys.published(0)):
        await world.client.save("eventstore", Write(key, b"30"))
    async with world.running() as (store, task):
        await lane_held(store)
        assert await add(store, 1) == 31
        await asyncio.wait([task], timeout=0.5)
        assert not task.done()
        await store.drain()
        assert await ended(task) is None
