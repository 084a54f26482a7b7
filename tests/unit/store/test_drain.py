"""A store that was told to end, ends, whether its sidecar is there or not."""

from __future__ import annotations

import asyncio

from annals.dapr import DaprSidecar
from annals.store import DaprEventStore
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
