"""What the orchestrator passes on of what the projector answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from annals.dapr import ServiceInvocation
from annals.dapr.invocation import Answer
from annals.sagas import SagaCatalog
from annals.web.problems import MEDIA_TYPE, Problem, on_problem
from annals_saga_orchestrator import api
from fixed_answer import answering

PROBLEM = b'{"type":"urn:annals:problem:unavailable","status":503,"detail":"the database is away"}'
NOBODY = b'{"errorCode":"ERR_DIRECT_INVOKE","message":"couldn\'t find service: projector"}'

Get = Callable[[str], Awaitable[httpx.Response]]


@asynccontextmanager
async def orchestrator(head: bytes, body: bytes) -> AsyncIterator[Get]:
    """Its API, where a sidecar answers so for the projector."""
    unused = cast("Any", None)
    async with answering(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)) as port:
        invocation = ServiceInvocation(port)
        app = FastAPI()
        app.add_exception_handler(Problem, on_problem)
        orchestrating: Any = type("Nobody", (), {"__getattr__": lambda *_: None})()
        app.include_router(api.routes(orchestrating, SagaCatalog(), invocation, unused))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as client:
            yield client.get
        await invocation.close()


async def test_a_sidecar_that_finds_no_projector_is_for_now() -> None:
    head = b"500 Internal Server Error\r\nContent-Type: application/json"
    async with orchestrator(head, NOBODY) as get:
        answer = await get("/sagas")
    assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE)
    assert answer.json()["type"] == "urn:annals:problem:unavailable"
    assert "couldn't find service" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"504 Gateway Timeout"])
async def test_what_the_projector_says_of_a_failure_comes_with_when_to_ask_again(status: bytes) -> None:
    head = status + b"\r\nContent-Type: application/problem+json\r\nRetry-After: 7"
    async with orchestrator(head, PROBLEM) as get:
        answer = await get("/sagas")
    assert (answer.status_code, answer.content) == (int(status[:3]), PROBLEM)
    assert (answer.headers["content-type"], answer.headers["retry-after"]) == (MEDIA_TYPE, "7")


async def test_a_list_is_passed_on() -> None:
    async with orchestrator(b"200 OK\r\nContent-Type: application/json", b'{"items":[],"next":null}') as get:
        answer = await get("/sagas?status=failed")
    assert (answer.status_code, answer.json()) == (200, {"items": [], "next": None})


class Projector:
    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def invoke(self, _app: str, _method: str, path: str, *, headers: dict[str, str]) -> Answer:
        self.asked.append((path, headers))
        return Answer(200, {"items": [], "next": None})


async def test_a_list_is_of_the_tenant_that_asks() -> None:
    projector, unused = Projector(), cast("Any", None)
    app = FastAPI()
    orchestrating: Any = type("Nobody", (), {"__getattr__": lambda *_: None})()
    app.include_router(api.routes(orchestrating, SagaCatalog(), cast("Any", projector), unused))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://o") as client:
        await client.get("/sagas?status=failed", headers={"x-tenant-id": "acme"})
    assert projector.asked == [("queries/sagas?status=failed", {"x-tenant-id": "acme"})]
