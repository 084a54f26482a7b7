"""Routes answered without FastAPI's layers answer as they do with them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from fastapi import APIRouter, Request, Response
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect
from starlette.types import Message
from structlog.testing import capture_logs

from annals.web import Problem
from unit.web.bare_app import bare_app


async def _post(request: Request) -> Response:
    name = request.scope["path"].rpartition("/")[2]
    if name == "refused":
        raise Problem(409, "conflict", "it is there", headers={"Retry-After": "1"})
    if name == "broken":
        raise RuntimeError("a defect")
    return Response(name + (await request.body()).decode(), 201)


def _client(*, direct: bool) -> TestClient:
    app = bare_app()
    router = APIRouter()
    router.add_route("/things/{name}", _post, methods=["POST"])
    app.include_router(router)
    if direct:
        app.direct("/things", _post)
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/things/one"),
        ("POST", "/things/two%20words"),
        ("POST", "/things/refused"),
        ("POST", "/things/broken"),
        ("POST", "/things/"),
        ("POST", "/things/one/more"),
        ("POST", "/other/one"),
        ("GET", "/things/one"),
    ],
)
def test_direct_or_not_the_answer_is_the_same(method: str, path: str) -> None:
    through, direct = (_client(direct=one).request(method, path, content=b"!") for one in (False, True))
    assert (direct.status_code, direct.content) == (through.status_code, through.content)
    assert direct.headers == through.headers


@pytest.mark.parametrize("direct", [False, True])
async def test_who_goes_away_in_the_middle_of_asking_is_no_failure(direct: bool) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    app = _client(direct=direct).app
    scope = {"type": "http", "method": "POST", "path": "/things/one", "headers": [], "query_string": b""}
    # Starlette's own middleware raises again the error that it has answered.
    with capture_logs() as logs, suppress(ClientDisconnect):
        await app(scope, receive, send)
    assert [one for one in logs if one["log_level"] == "error"] == []
    assert sent[0]["status"] == 400


@pytest.mark.parametrize("direct", [False, True])
def test_a_request_that_fails_is_found_in_the_log_by_what_its_answer_says(direct: bool) -> None:
    trace_id = "a" * 32
    asked_by = {"x-tenant-id": "acme", "traceparent": f"00-{trace_id}-{'b' * 16}-01"}
    with capture_logs() as logs:
        answer = _client(direct=direct).post("/things/broken", headers=asked_by)
        without = _client(direct=direct).post("/things/broken")
    assert answer.json()["detail"] == f"internal error; the service's log says more, at trace_id {trace_id}"
    assert without.json()["detail"] == "internal error; the service's log says more"
    said, _ = (one for one in logs if one["event"] == "request failed")
    assert (said["tenant"], said["trace_id"], said["path"]) == ("acme", trace_id, "/things/broken")
