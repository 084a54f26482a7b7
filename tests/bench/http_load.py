"""A small HTTP load generator: many keep-alive connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What a run came to; latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


async def measure(port: int, path: str, body: bytes, *, connections: int, seconds: float) -> Measured:
    """POST the same body over and over."""
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    latencies: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (started := time.perf_counter()) < end:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await _read_body(reader, head.lower())
                latencies.append((time.perf_counter() - started) * 1000)
                failed += head[9:10] != b"2"
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    took = time.perf_counter() - started
    latencies.sort()
    return Measured(
        len(latencies) / took, latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100], failed
    )


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    marker = b"content-length: "
    at = head.find(marker)
    if at >= 0:
        await reader.readexactly(int(head[at + len(marker) : head.index(b"\r\n", at)]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
