"""A server that gives every request the same answer, byte for byte, however malformed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from annals.dapr import ServiceInvocation

JSON_BROKEN_OFF = [b"0\r\n\r\n", b'7\r\n{"id":"\r\n0\r\n\r\n']
"""Chunked bodies of truncated JSON: one empty, one cut off in the middle."""


def head(kind: bytes) -> bytes:
    """Return the status line and headers of a chunked answer."""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: " + kind + b"\r\n\r\n"


@asynccontextmanager
async def sidecar(answer: bytes | None) -> AsyncIterator[ServiceInvocation]:
    """Yield an invocation through a sidecar that gives every call this answer; None as for `answering`."""
    async with answering(answer) as port:
        invocation = ServiceInvocation(port)
        try:
            yield invocation
        finally:
            await invocation.close()


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """Serve `answer` to every request and yield the server's port. With None, it says nothing."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(tell, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()
