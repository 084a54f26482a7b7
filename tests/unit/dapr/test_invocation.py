"""What came of a call, when the other side dies in the middle of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from annals.dapr import NotAnswered, ServiceInvocation


@asynccontextmanager
async def sidecar(answer: bytes) -> AsyncIterator[ServiceInvocation]:
    """Something that gives every request the same answer, byte for byte."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(tell, "127.0.0.1", 0)
    invocation = ServiceInvocation(server.sockets[0].getsockname()[1])
    try:
        yield invocation
    finally:
        await invocation.close()
        server.close()
        await server.wait_closed()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("body", [b"0\r\n\r\n", b'7\r\n{"id":"\r\n0\r\n\r\n'], ids=["no body", "half of it"])
@pytest.mark.parametrize("kind", [b"application/json", b"application/problem+json"])
async def test_json_that_breaks_off_is_no_answer(kind: bytes, body: bytes) -> None:
    async with sidecar(HEAD + b"Content-Type: " + kind + b"\r\n\r\n" + body) as invocation:
        with pytest.raises(NotAnswered, match="broke off"):
            await invocation.invoke("command", "GET", "anything")


async def test_a_connection_that_breaks_off_is_no_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    async with sidecar(head + b"{") as invocation:
        with pytest.raises(NotAnswered):
            await invocation.invoke("command", "GET", "anything")


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (b"application/json; charset=utf-8", b"2\r\n{}\r\n0\r\n\r\n", {}),
        (b"text/plain", b"0\r\n\r\n", ""),
        (b"text/plain", b"2\r\nok\r\n0\r\n\r\n", "ok"),
    ],
)
async def test_what_is_whole_is_an_answer(kind: bytes, body: bytes, expected: Any) -> None:
    async with sidecar(HEAD + b"Content-Type: " + kind + b"\r\n\r\n" + body) as invocation:
        answer = await invocation.invoke("app", "GET", "anything")
    assert (answer.status, answer.body) == (200, expected)
