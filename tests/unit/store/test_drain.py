"""A store that was told to end, ends, whether its sidecar is there or not."""

from __future__ import annotations

import asyncio

from annals.dapr import DaprSidecar, Write
from annals.store import DaprEventStore, keys
from annals.testing.fake import FakeSidecar
from event_stores import opened
from suite.ports import free_port


async def test_a_store_whose_sidecar_never_came_ends_when_told() -> None:
    sidecar = DaprSidecar(free_port(), timeout=1.0)
    store = DaprEventStore(sidecar, owner="test")
    running = asyncio.create_task(store.run())
    await asyncio.sleep(0)

    await store.drain()

    async with asyncio.timeout(30):
        await running
    await sidecar.close()


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
