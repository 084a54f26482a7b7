"""A thousand clients of live streams: what they add in time and memory."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import httpx
import psutil
import pytest
import results

from conftest import until
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "1000"))
EVENTS = 20
COMMAND = "http://127.0.0.1:3501/v1.0/invoke/command/method/commands/task.create"
PORT = 8004


class Listener:
    """One client, which notes when each event's line arrives."""

    def __init__(self) -> None:
        self.arrived: list[float] = []
        self.ready = asyncio.Event()

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        try:
            writer.write(b"GET /stream?type=task.created HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            while line := await reader.readline():
                if line.startswith(b"retry:"):
                    self.ready.set()
                elif line.startswith(b'data: {"'):
                    self.arrived.append(time.perf_counter())
        finally:
            writer.close()


async def lags(listeners: list[Listener], http: httpx.AsyncClient) -> list[float]:
    """Return the milliseconds from each command's answer until each client has its event."""
    before = len(listeners[0].arrived)
    sent: list[float] = []
    for number in range(EVENTS):
        answer = await http.post(COMMAND, json={"title": "A task"})
        answer.raise_for_status()
        sent.append(time.perf_counter())

        async def all_told(wanted: int = before + number + 1) -> bool:
            return all(len(one.arrived) >= wanted for one in listeners)

        await until(all_told, 30)
    return sorted(
        (arrived - at) * 1000
        for one in listeners
        for arrived, at in zip(one.arrived[before:], sent, strict=True)
    )


async def test_a_thousand_clients(suite: Suite) -> None:
    pid = suite.processes["notification"].pid
    assert pid is not None
    process = psutil.Process(pid)
    async with httpx.AsyncClient(timeout=30) as http:
        found: dict[int, tuple[list[float], float]] = {}
        listeners: list[Listener] = []
        tasks: list[asyncio.Task[None]] = []
        for clients in (1, CLIENTS):
            while len(listeners) < clients:
                more = [Listener() for _ in range(min(50, clients - len(listeners)))]
                tasks += [asyncio.create_task(one.run()) for one in more]
                await asyncio.gather(*(one.ready.wait() for one in more))
                listeners += more
            for one in listeners:
                one.arrived.clear()
            found[clients] = await lags(listeners, http), process.memory_info().rss / 1024
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    told = {
        clients: {"p50": lag[len(lag) // 2], "p99": lag[len(lag) * 99 // 100], "memory": memory / 1024}
        for clients, (lag, memory) in found.items()
    }
    each = (found[CLIENTS][1] - found[1][1]) / (CLIENTS - 1)
    sys.stdout.write(f"told, in ms after the command's answer: {told}; {each:.0f} KiB for each client\n")
    results.write("streams", {"told": told, "KiB for each client": each})
