"""A store that is told to stop does so, with or without its sidecar."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from annals.dapr import DaprSidecar, Write
from annals.free_ports import free_port
from annals.store import DaprEventStore, OutcomeUnknown, dapr_store, keys, lane
from annals.store.lease import Leases
from annals.testing.fake import FakeSidecar
from event_store_conformance import new_stream, to_append
from event_stores import lane_held, opened


async def test_a_store_whose_sidecar_never_came_ends_when_told() -> None:
    sidecar = DaprSidecar(free_port(), timeout=1.0)
    store = DaprEventStore(sidecar, owner="test")
    running = asyncio.create_task(store.run())
    await asyncio.sleep(0)

    await store.drain()

    async with asyncio.timeout(30):
        await running
    await sidecar.close()


async def test_a_store_that_is_away_is_said_to_be_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dapr_store, "_PROBE_SECONDS", 0.01)
    async with FakeSidecar() as sidecar:
        sidecar.faults.fail("ExecuteStateTransaction", times=4)
        with capture_logs() as logs:
            async with opened(sidecar.grpc_port):
                pass
    assert [log["event"] for log in logs].count("the state store cannot be probed yet") == 1


async def test_an_instance_without_a_lane_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_RETRY_SECONDS", 0.01)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test", lanes=range(0))
        with capture_logs() as logs:
            running = asyncio.create_task(store.run())
            while not logs:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            await store.drain()
            await running
        await client.close()
    assert [log["event"] for log in logs] == ["no lane could be leased yet"]


async def test_an_idle_store_that_ends_leaves_the_watermark_that_an_import_set() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        async with opened(sidecar.grpc_port) as store:
            assert store.lane == 0
            await client.save("eventstore", Write(keys.published(0), b"30"))

        mark = await client.get("eventstore", keys.published(0))
        assert mark is not None
        assert mark.data == b"30"
        await client.close()


@pytest.mark.parametrize("drained_first", [True, False])
async def test_a_store_that_does_not_answer_an_append_is_left_with_the_lane_still_leased(
    monkeypatch: pytest.MonkeyPatch, drained_first: bool
) -> None:
    monkeypatch.setattr(lane, "_DRAIN_SECONDS", 0.5)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        sidecar.faults.fail("ExecuteStateTransaction", times=10_000)
        appending = asyncio.create_task(store.append(to_append(new_stream(), 0)))
        await asyncio.sleep(0 if drained_first else 0.3)

        await store.drain()

        async with asyncio.timeout(10):
            with pytest.raises(OutcomeUnknown):
                await appending
            await running
        held, _ = (await Leases(client, "eventstore", "other").read())[0]
        assert not held.free(time.time()), "what was sent may still be applied"
        await client.close()


async def test_a_lane_that_cannot_be_released_is_said_to_be_no_backlog() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        await store.append(to_append(new_stream(), 0))
        while not sidecar.dapr.broker.log("domain-events"):
            await asyncio.sleep(0.01)
        with capture_logs() as logs:
            sidecar.faults.fail("SaveState", times=10_000)
            await store.drain()
            async with asyncio.timeout(30):
                await running
        await client.close()
    (told,) = [log for log in logs if log["event"].startswith(("left", "cannot release"))]
    assert told["event"] == "cannot release the lane; its lease will run out"
    assert (told["lane"], "told to fail" in told["error"]) == (0, True)


async def test_a_lane_that_is_left_with_a_backlog_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_DRAIN_SECONDS", 0.5)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        sidecar.faults.fail("BulkPublishEvent", times=10_000)
        await store.append(to_append(new_stream(), 0))
        with capture_logs() as logs:
            await store.drain()
            async with asyncio.timeout(30):
                await running
        await client.close()
    (told,) = [log for log in logs if log["event"].startswith("left the lane")]
    assert (told["lane"], told["backlog"]) == (0, 1)


async def test_an_append_that_the_store_answers_meanwhile_is_told_its_outcome() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        sidecar.faults.fail("ExecuteStateTransaction", times=3)
        appending = asyncio.create_task(store.append(to_append(new_stream(), 0)))
        await asyncio.sleep(0.1)

        await store.drain()

        assert (await appending).version == 1
