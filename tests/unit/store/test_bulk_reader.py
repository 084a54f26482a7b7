"""Reads that share a round trip: nobody waits for a reader that has just gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from annals.dapr import DaprSidecar
from annals.dapr.sidecar import StateValue
from annals.store.bulk_reader import BulkReader


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
