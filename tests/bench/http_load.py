"""A small HTTP load generator: keep-alive connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

Request = tuple[str, bytes]
Script = Callable[[], Iterator[Request]]
"""Yields the requests of one connection, each a path and a body; each connection has its own iterator."""


@dataclass(frozen=True)
class Measured:
    """The result of a run; latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    p999: float
    count: int
    failed: int

    @classmethod
    def of(cls, latencies: Sequence[float], seconds: float, failed: int) -> Self:
        """Make the result from the latency of each request."""
        took = sorted(latencies)
        p50, p99, p999 = (took[len(took) * share // 1000] for share in (500, 990, 999))
        return cls(len(took) / seconds, p50, p99, p999, len(took), failed)


def median(runs: list[Measured]) -> Measured:
    """Return the median of each figure by itself over several runs; failures are added up."""
    figures = {
        field.name: statistics.median([getattr(run, field.name) for run in runs])
        for field in fields(Measured)
    }
    return Measured(**figures | {"failed": sum(run.failed for run in runs)})


def always(path: str, body: bytes) -> Script:
    """Send the same request again and again."""
    return lambda: itertools.repeat((path, body))


def creates(prefix: str) -> Script:
    """Create a new task with each request."""

    def script() -> Iterator[Request]:
        while True:
            yield _create(prefix, str(uuid.uuid4()))

    return script


def lives(prefix: str) -> Script:
    """Create, assign and complete one new task after another."""

    def script() -> Iterator[Request]:
        while True:
            task = str(uuid.uuid4())
            yield _create(prefix, task)
            yield f"{prefix}/commands/task.assign", json.dumps({"id": task, "assignee": "ada"}).encode()
            yield f"{prefix}/commands/task.complete", json.dumps({"id": task}).encode()

    return script


def _create(prefix: str, task: str) -> Request:
    body = {"id": task, "title": "Write the report", "due": "2030-01-01T09:00:00Z"}
    return f"{prefix}/commands/task.create", json.dumps(body).encode()


async def saturate(port: int, script: Script, *, connections: int, seconds: float) -> Measured:
    """Measure the highest rate: each connection sends a request once the one before is answered."""
    latencies: list[float] = []
    failed = 0
    begun = time.perf_counter()

    async def one() -> None:
        nonlocal failed
        requests = script()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (started := time.perf_counter()) < begun + seconds:
                failed += not await _ask(reader, writer, next(requests))
                latencies.append((time.perf_counter() - started) * 1000)
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return Measured.of(latencies, time.perf_counter() - begun, failed)


async def at_rate(port: int, script: Script, *, rate: float, connections: int, seconds: float) -> Measured:
    """Send `rate` requests a second, however long the answers take.

    A latency starts when its request is due, even if no connection is free then. A short stall is thus
    charged to every request that had to wait.
    """
    latencies: list[float] = []
    failed = 0
    numbers = iter(range(int(rate * seconds)))
    begun = time.perf_counter()

    async def one() -> None:
        nonlocal failed
        requests = script()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for number in numbers:
                due = begun + number / rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                failed += not await _ask(reader, writer, next(requests))
                latencies.append((time.perf_counter() - due) * 1000)
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return Measured.of(latencies, time.perf_counter() - begun, failed)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> bool:
    """Send a request and return whether the answer is 2xx."""
    path, body = request
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    await _read_body(reader, answer.lower())
    return answer[9:10] == b"2"


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    marker = b"content-length: "
    at = head.find(marker)
    if at >= 0:
        await reader.readexactly(int(head[at + len(marker) : head.index(b"\r\n", at)]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
