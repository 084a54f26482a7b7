"""Reads that share a round trip: nobody waits for a reader that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from grpc.aio import UsageError

from annals.dapr import DaprSidecar
from annals.dapr.sidecar import StateValue
from annals.store.bulk_reader import BulkReader
from annals.testing.fake import FakeSidecar


class Sidecar:
    """Answers everything it was asked at the same moment, once the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.answering = asyncio.Event()

    async def get_bulk(self, _store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        self.asked += 1
        await self.answering.wait()
        return {key: StateValue(key.encode(), "1") for key in keys}


async def test_who_asks_again_while_all_readers_are_just_done_is_answered() -> None:
    sidecar = Sidecar()
    reader = BulkReader(cast("DaprSidecar", sidecar), "store")

    async def ask(*keys: str) -> None:
        for key in keys:
            assert await reader.get([key]) == {key: key.encode()}

    async with asyncio.timeout(30), asyncio.TaskGroup() as callers:
        callers.create_task(ask("first", "again"))
        while sidecar.asked < 1:
            await asyncio.sleep(0)
        callers.create_task(ask("second"))
        while sidecar.asked < 2:
            await asyncio.sleep(0)
        sidecar.answering.set()
    assert sidecar.asked == 3


class Counting(DaprSidecar):
    """Counts the reads that it has sent."""

    asked = 0

    async def get_bulk(self, store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        self.asked += 1
        return await super().get_bulk(store, keys)


async def test_who_waits_when_the_client_is_closed_is_let_go() -> None:
    async with FakeSidecar() as sidecar:
        client = Counting(sidecar.grpc_port)
        reader = BulkReader(client, "eventstore")
        callers = []
        for asked in (1, 2):
            callers.append(asyncio.create_task(reader.get(["key"])))
            while client.asked < asked:
                await asyncio.sleep(0)
        callers.append(asyncio.create_task(reader.get(["to be asked"])))
        await asyncio.sleep(0)
        await client.close()
        _, left = await asyncio.wait(callers, timeout=10)
        assert not left

        # As when the client itself is asked.
        with pytest.raises(UsageError):
            await asyncio.wait_for(reader.get(["later"]), 10)
