"""The outcome of a call whose other side dies in the middle of its answer."""

from __future__ import annotations

from typing import Any

import pytest

from annals.dapr import NotAnswered
from fixed_answer import JSON_BROKEN_OFF, head, sidecar


@pytest.mark.parametrize("body", JSON_BROKEN_OFF, ids=["no body", "half of it"])
@pytest.mark.parametrize("kind", [b"application/json", b"application/problem+json"])
async def test_json_that_breaks_off_is_no_answer(kind: bytes, body: bytes) -> None:
    async with sidecar(head(kind) + body) as invocation:
        with pytest.raises(NotAnswered, match="broke off"):
            await invocation.invoke("command", "GET", "anything")


async def test_a_status_alone_is_no_answer_unless_there_is_nothing_to_say() -> None:
    async with sidecar(head(b"text/plain") + b"0\r\n\r\n") as invocation:
        with pytest.raises(NotAnswered, match="not a word"):
            await invocation.invoke("command", "POST", "anything")
    async with sidecar(b"HTTP/1.1 204 No Content\r\n\r\n") as invocation:
        assert (await invocation.invoke("command", "POST", "anything")).ok


async def test_a_connection_that_breaks_off_is_no_answer() -> None:
    short = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
    async with sidecar(short) as invocation:
        with pytest.raises(NotAnswered):
            await invocation.invoke("command", "GET", "anything")


async def test_no_answer_in_time_is_no_answer() -> None:
    async with sidecar(None) as invocation:
        with pytest.raises(NotAnswered, match=r"^command did not answer within 0\.01 s$"):
            await invocation.invoke("command", "GET", "anything", within=0.01)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (b"application/json; charset=utf-8", b"2\r\n{}\r\n0\r\n\r\n", {}),
        (b"text/plain", b"2\r\nok\r\n0\r\n\r\n", "ok"),
    ],
)
async def test_what_is_whole_is_an_answer(kind: bytes, body: bytes, expected: Any) -> None:
    async with sidecar(head(kind) + body) as invocation:
        answer = await invocation.invoke("app", "GET", "anything")
    assert (answer.status, answer.body) == (200, expected)
