"""What the orchestrator passes on of the projector's answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from annals.dapr import Configuration, DaprSidecar, NotAnswered, ServiceInvocation
from annals.dapr.invocation import Answer
from annals.live import LiveSettings
from annals.sagas import SagaCatalog
from annals.sagas.claims import ClaimContended
from annals.sagas.history import SagaKey
from annals.store import OutcomeUnknown, StoreUnavailable, Undecodable
from annals.testing.fake import FakeConfiguration, FakeDapr, FakeSidecar
from annals.web.admission import admit
from annals.web.background import background
from annals.web.problems import MEDIA_TYPE, Problem, on_problem
from annals_saga_orchestrator import api, unmoved
from annals_saga_orchestrator.settings import SagaLive
from conftest import until
from fixed_answer import answering, sidecar

PROBLEM = b'{"type":"urn:annals:problem:unavailable","status":503,"detail":"the database is away"}'
NOBODY = b'{"errorCode":"ERR_DIRECT_INVOKE","message":"couldn\'t find service: projector"}'

Get = Callable[[str], Awaitable[httpx.Response]]


@asynccontextmanager
async def orchestrator(head: bytes, body: bytes) -> AsyncIterator[Get]:
    """Serve the orchestrator's API with a sidecar that answers this for the projector."""
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

    async def invoke(
        self, _app: str, _method: str, path: str, *, headers: dict[str, str], **_: Any
    ) -> Answer:
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


async def test_a_projector_that_does_not_answer_in_time_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LIST_SECONDS", 0.01)
    monkeypatch.setattr(unmoved, "_PAGE_SECONDS", 0.01)
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    async with sidecar(None) as silent:
        app.include_router(api.routes(cast("Any", Writing()), SagaCatalog(), silent, cast("Any", None)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://o") as client:
            answer = await client.get("/sagas")
        assert answer.json()["detail"] == "projector did not answer within 0.01 s"
        with pytest.raises(NotAnswered, match=r"did not answer within 0\.01 s"):
            await unmoved.unmoved(silent, 60)()


class Writing:
    """An orchestrator that fails the test when it is asked for anything."""

    def __getattr__(self, name: str) -> Any:
        async def asked(*_: Any, **__: Any) -> Any:
            raise AssertionError(f"{name} was asked for")

        return asked


@pytest.mark.parametrize("path", ["any", "one/events/accept", "one/cancel", "one/restart"])
async def test_nothing_is_written_while_the_suite_is_read_only(path: str) -> None:
    """Writes are refused even before the setting is known: in a restore, services start before the import."""
    settings = FakeConfiguration(**{"command.read_only": "true", "command.max_backlog": "1"})
    async with FakeSidecar(dapr=FakeDapr(configuration={"settings": settings})) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        live = LiveSettings("saga-orchestrator", SagaLive(), Configuration(client, "settings"))
        app, unused = FastAPI(), cast("Any", None)
        app.add_exception_handler(Problem, on_problem)
        admitted = partial(admit, live)
        app.include_router(api.routes(cast("Any", Writing()), SagaCatalog(), unused, unused, admitted))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://o") as http:
            unknown = await http.post(f"/sagas/{path}", json={})
            assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
            async with background(live.run(), "live settings"):
                await asyncio.wait_for(live.asked.wait(), 10)
                refused = await http.post(f"/sagas/{path}", json={})
                assert (refused.status_code, refused.json()["type"]) == (503, "urn:annals:problem:read-only")
                settings.set("command.read_only", "false")

                async def taken() -> bool:
                    return not live.read_only

                await until(taken)
                with pytest.raises(AssertionError, match="was asked for"):
                    await http.post(f"/sagas/{path}", json={})
        await client.close()


class Failing:
    """An orchestrator whose every operation fails; `ids` are of the sagas that it was asked for."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.ids: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def asked(key: SagaKey, *_: Any, **__: Any) -> Any:
            self.ids.append(key.id)
            raise self.error

        return asked


UNKNOWN = [ClaimContended("no answer"), OutcomeUnknown("no answer"), StoreUnavailable("no answer")]


@asynccontextmanager
async def failing(error: Exception) -> AsyncIterator[tuple[httpx.AsyncClient, Failing]]:
    orchestrating, unused = Failing(error), cast("Any", None)
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.include_router(api.routes(cast("Any", orchestrating), SagaCatalog(), unused, unused))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://o") as client:
        yield client, orchestrating


@pytest.mark.parametrize("error", UNKNOWN)
async def test_a_start_that_may_have_succeeded_says_under_which_id_to_send_it_again(error: Exception) -> None:
    """Without its id, the repeat would be another start."""
    async with failing(error) as (http, orchestrating):
        started = await http.post("/sagas/handover", json={})
        again = await http.post("/sagas/handover", json={}, params={"id": orchestrating.ids[0]})
        keyed = await http.post("/sagas/handover", json={}, headers={"idempotency-key": "k-1"})
    assert [one.status_code for one in (started, again, keyed)] == [503] * 3
    assert orchestrating.ids[1] == orchestrating.ids[0]
    says = f"no answer; send it again with the id {orchestrating.ids[0]}: it takes effect once"
    assert started.json()["detail"] == says
    same = "no answer; send it again with the same id or Idempotency-Key: it takes effect once"
    assert (again.json()["detail"], keyed.json()["detail"]) == (same, same)


@pytest.mark.parametrize("error", UNKNOWN)
@pytest.mark.parametrize("path", ["events/accept", "cancel", "restart"])
async def test_a_request_on_a_saga_may_be_repeated_as_it_is(path: str, error: Exception) -> None:
    async with failing(error) as (http, _):
        answer = await http.post(f"/sagas/s-1/{path}")
    assert answer.json()["detail"] == "no answer; send it again: a repeat does no harm"


@pytest.mark.parametrize("path", ["handover", "s-1/events/accept", "s-1/cancel"])
async def test_a_damaged_record_is_named_and_not_asked_for_again_at_once(path: str) -> None:
    async with failing(Undecodable("stream/default/saga-s-1/head", ValueError("no JSON"))) as (http, _):
        answer = await http.post(f"/sagas/{path}", json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    detail = answer.json()["detail"]
    assert detail.startswith("stream/default/saga-s-1/head cannot be decoded")
    assert detail.endswith("it is damaged, or another release wrote it")
