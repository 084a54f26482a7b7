"""What the CLI makes of answers that no service gives on purpose."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed, Sidecar
from fixed_answer import JSON_BROKEN_OFF, answering, head
from unit.cli.conftest import Annals

BROKEN_OFF = [
    *(head(b"application/json") + body for body in JSON_BROKEN_OFF),
    head(b"application/json") + b'8\r\n{"id":"\xc3\r\n0\r\n\r\n',
    b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("answer", BROKEN_OFF, ids=["no body", "half of it", "half a letter", "its status"])
async def test_an_answer_that_broke_off_is_said_to_be_none(answer: bytes) -> None:
    async with answering(answer) as port:
        sidecar = Sidecar(f"http://127.0.0.1:{port}", {})
        with pytest.raises(Failed, match="broke off") as raised:
            await asyncio.to_thread(sidecar.call, "POST", "command", "commands/task.create", body={})
        assert raised.value.code is Exit.UNAVAILABLE
        sidecar.http.close()


def test_who_only_asked_is_not_told_that_something_may_have_been_done(annals: Annals) -> None:
    with pytest.raises(Failed, match=r"in the middle of its answer$") as raised:
        annals(
            lambda _: httpx.Response(200, content=b'{"it', headers={"content-type": "application/json"}),
            "lanes",
        )
    assert raised.value.code is Exit.UNAVAILABLE


NEVER_ANSWERED = [
    (httpx.ReadTimeout("timed out"), "the sidecar at http://127.0.0.1:3501 did not answer within 30 s"),
    (httpx.RemoteProtocolError("gone"), "the sidecar at http://127.0.0.1:3501 broke off: gone"),
    (httpx.ReadError(""), "the sidecar at http://127.0.0.1:3501 broke off: ReadError"),
    (
        httpx.Response(500, json={"errorCode": "ERR_DIRECT_INVOKE", "message": "error reading: EOF"}),
        "the service command did not answer: error reading: EOF",
    ),
]


@pytest.mark.parametrize(("answer", "said"), NEVER_ANSWERED)
def test_who_gets_no_answer_is_told_whether_something_may_have_been_done(
    annals: Annals, answer: httpx.Response | Exception, said: str
) -> None:
    def service(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    for arguments, effect in (
        (("lanes",), ""),
        (("command", "task.create"), "; command may have done what was asked"),
    ):
        with pytest.raises(Failed) as raised:
            annals(service, *arguments)
        assert (str(raised.value), raised.value.code) == (said + effect, Exit.UNAVAILABLE)


def test_how_long_an_answer_was_awaited_is_said(annals: Annals) -> None:
    def silent(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    with pytest.raises(Failed, match=r"did not answer within 600 s$"):
        annals(silent, "projections", "difference", "tasks", "2")


def test_a_host_that_does_not_answer_has_no_sidecar(annals: Annals) -> None:
    def silent(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    with pytest.raises(Failed, match=r"^no sidecar answers at http://127.0.0.1:3501: ") as raised:
        annals(silent, "command", "task.create")
    assert raised.value.code is Exit.UNAVAILABLE


def test_an_answer_that_is_no_json_did_not_break_off(annals: Annals) -> None:
    lines = httpx.Response(200, content=b"{}\n{}\n", headers={"content-type": "application/x-ndjson"})
    with pytest.raises(Failed, match="answers in application/x-ndjson, not in JSON") as raised:
        annals(lambda _: lines, "query", "audit/export")
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize("status", [403, 409, 413, 422])
def test_what_is_refused_is_said_to_be(annals: Annals, status: int) -> None:
    problem = {"type": "urn:annals:problem:refused", "detail": "not that"}
    with pytest.raises(Failed, match="not that") as raised:
        annals(lambda _: httpx.Response(status, json=problem), "command", "task.create", "title=x")
    assert raised.value.code is Exit.REFUSED


async def test_an_answer_without_a_body_is_one() -> None:
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        sidecar = Sidecar(f"http://127.0.0.1:{port}", {})
        assert await asyncio.to_thread(sidecar.call, "DELETE", "notification", "recurrences/one") is None
        sidecar.http.close()


@pytest.mark.parametrize("command", [("lanes",), ("projections", "difference", "tasks", "2"), ("tail",)])
def test_that_no_host_is_there_is_said_long_before_an_answer_is_late(
    annals: Annals, command: tuple[str, ...]
) -> None:
    limits: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"]["connect"])
        raise httpx.ConnectTimeout("timed out")

    with pytest.raises(Failed, match="no sidecar answers"):
        annals(answer, *command)
    assert limits == [3.0]
