"""Lanes on a real sidecar: late leases, orphans, back-pressure, unknown outcomes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from annals.dapr import DaprSidecar
from annals.events import Position
from annals.store import Backpressure, DaprEventReader, DaprEventStore, lane, lease
from annals.store.lease import Leases
from conftest import until, write_secrets
from event_store_conformance import new_stream, numbers, to_append
from event_stores import opened
from integration.test_dapr_store import resources
from suite.paths import ROOT
from suite.process import Process
from suite.sidecar import SidecarPorts

Open = Callable[..., Awaitable[DaprEventStore]]


@pytest.fixture
async def at(database: str, bare_sidecar: Callable[..., Any], tmp_path: Path) -> tuple[Process, SidecarPorts]:
    write_secrets(tmp_path, postgres=database)
    folder = resources(tmp_path, "stores/postgresql/eventstore.yaml")
    started: tuple[Process, SidecarPorts] = await bare_sidecar(folder, restart=True)
    return started


@pytest.fixture
async def open_store(at: tuple[Process, SidecarPorts]) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def start(owner: str) -> DaprEventStore:
            return await stack.enter_async_context(opened(at[1].grpc, owner))

        yield start


async def test_two_that_hold_one_lane_lose_and_double_nothing(open_store: Open) -> None:
    one, two = await open_store("the-same"), await open_store("the-same")
    assert one.lane == two.lane == 0
    streams = [new_stream() for _ in range(60)]
    appended = await asyncio.gather(
        *((one if index % 2 else two).append(to_append(stream, 0)) for index, stream in enumerate(streams))
    )
    assert sorted(one.position.seq for one in appended) == list(range(1, 61))
    for stream, answer in zip(streams, appended, strict=True):
        assert [event.position async for event in one.read_stream(stream)] == [answer.position]


async def test_instances_lease_lanes_of_their_own(open_store: Open) -> None:
    one, two = await open_store("one"), await open_store("two")
    await asyncio.gather(one.append(to_append(new_stream(), 0)), two.append(to_append(new_stream(), 0)))
    assert {one.lane, two.lane} == {0, 1}
    assert list(await one.tails()) == [0, 1]


async def test_what_an_instance_left_unpublished_is_published_by_another(
    at: tuple[Process, SidecarPorts], open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lane, "LEASE_SECONDS", 1.0)
    client = DaprSidecar(at[1].grpc)
    gone = DaprEventStore(client, owner="gone", topic="nowhere")
    running = asyncio.create_task(gone.run())
    await until(lambda: asyncio.sleep(0, gone.lane is not None))
    for _ in range(5):
        await gone.append(to_append(new_stream(), 0))
    orphan = gone.lane
    assert orphan is not None
    running.cancel()
    await asyncio.wait([running])

    other = await open_store("other")
    leases = Leases(client, "eventstore", "test")

    async def published() -> bool:
        return await leases.published(orphan) == 5

    await until(published)
    assert other.lane is not None
    await client.close()


async def test_a_damaged_lease_is_repaired_as_the_page_says(
    at: tuple[Process, SidecarPorts], open_store: Open, database: str
) -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    [statements] = re.findall(r"### A damaged lease\n.*?```sql\n(.*?)```", page, re.DOTALL)
    tail_of, repair = (one.replace("/3/", "/0/") for one in statements.split(";")[:2])
    async with opened(at[1].grpc, "gone") as gone:
        for _ in range(12):
            await gone.append(to_append(new_stream(), 0))
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as connection:
        await connection.execute("UPDATE annals_state SET value = $1 WHERE key = 'lane/0/lease'", b"{")
        tail = await connection.fetchval(tail_of)
        assert tail == 12
        assert await connection.execute(repair.replace("1234", str(tail))) == "UPDATE 1"
    other = await open_store("other")
    assert (await other.append(to_append(new_stream(), 0))).position == Position(0, 13)


async def test_past_a_backlog_commands_are_refused_with_a_time(at: tuple[Process, SidecarPorts]) -> None:
    client = DaprSidecar(at[1].grpc)
    store = DaprEventStore(client, owner="test", topic="nowhere", max_backlog=lambda: 3)
    running = asyncio.create_task(store.run())
    await until(lambda: asyncio.sleep(0, store.lane is not None))
    for _ in range(4):
        await store.append(to_append(new_stream(), 0))
    with pytest.raises(Backpressure) as refused:
        await store.append(to_append(new_stream(), 0))
    assert refused.value.retry_after > 0
    running.cancel()
    await asyncio.wait([running])
    await client.close()


async def test_a_lost_reply_is_resolved_to_one_commit(
    at: tuple[Process, SidecarPorts], open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is applied but its reply is lost; the store sends it again and finds the commit."""
    store = await open_store("test")
    sidecar = store._sidecar
    transact, lost = sidecar.transact, 0

    async def lossy(name: str, writes: Any) -> None:
        nonlocal lost
        await transact(name, writes)
        if lost == 0:
            lost += 1
            at[0].kill()
            await transact(name, [])

    monkeypatch.setattr(sidecar, "transact", lossy)
    stream = new_stream()
    appended = await store.append(to_append(stream, 0))
    assert lost == 1
    assert await numbers(store, stream) == [1]
    reader = DaprEventReader(sidecar)
    assert [commit.stream for commit in await reader.read_log(0, 1, 10)] == [stream]
    assert appended.position.seq == 1
