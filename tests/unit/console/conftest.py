"""Runs the console on a loopback port, with a stand-in sidecar that records what it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from annals.free_ports import free_port
from annals_console.app import create
from annals_console.settings import AuthMode, ConsoleSettings
from oidc_issuer import CLIENT, Issuer, issuing, serving

Start = Callable[..., Awaitable[str]]


class Sidecar:
    """Answers every invocation with an echo of the request; `/stream` sends two events.

    If `stays` is set, the stream then stays open.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.stays = False
        self.answers: dict[str, Any] = {}
        """Answers that replace the echo, by method and path."""
        self.app = Starlette(
            routes=[
                Route("/v1.0/invoke/notification/method/stream", self.stream),
                Route("/{path:path}", self.echo, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )

    async def echo(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        app, _, rest = path.removeprefix("/v1.0/invoke/").partition("/method/")
        asked = {
            "app": app,
            "method": request.method,
            "path": rest,
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        }
        if rest in ("metrics", "store/lanes", "projections"):  # the console polls these
            return Response(status_code=503)
        self.asked.append(asked)
        if rest.endswith("conflict"):
            problem = {"type": "urn:annals:problem:conflict", "detail": "x", "actual": 4}
            media_type = "application/problem+json"
            return Response(json.dumps(problem), 409, {"etag": '"4"', "x-internal": "1"}, media_type)
        answer = self.answers.get(f"{request.method} {rest}", asked)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    async def stream(self, _request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"id: 0-1\ndata: {}\n\n"
            yield b"id: 0-2\ndata: {}\n\n"
            while self.stays:
                await asyncio.sleep(0.1)
                yield b"id: 0-2\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture(scope="package")
async def behind() -> AsyncIterator[tuple[Sidecar, int]]:
    """Serve the sidecar, once for all tests, and yield it with its port."""
    sidecar = Sidecar()
    async with serving(sidecar.app) as url:
        yield sidecar, int(url.rpartition(":")[2])


@pytest.fixture
def sidecar(behind: tuple[Sidecar, int]) -> Iterator[Sidecar]:
    """The sidecar, with all its records and answers cleared."""
    sidecar, _ = behind
    sidecar.asked.clear()
    sidecar.answers.clear()
    yield sidecar
    sidecar.stays = False


@pytest.fixture(scope="package")
async def starting(
    behind: tuple[Sidecar, int], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractAsyncContextManager[str]]:
    """Return a function that serves a console with the given settings and yields its address."""
    page = tmp_path_factory.mktemp("page")
    (page / "assets").mkdir()
    (page / "index.html").write_text("<!doctype html><title>Annals</title>")
    (page / "assets" / "app.js").write_text("1;" * 800)
    (page / "assets" / "app.js.br").write_bytes(b"packed")

    def begin(**given: Any) -> AbstractAsyncContextManager[str]:
        port = free_port()
        defaults = {
            "app_port": port,
            "dapr_http_port": behind[1],
            "page": page,
            "public_url": f"http://127.0.0.1:{port}",
        }
        return serving(create(ConsoleSettings(**(defaults | given))), port)

    return begin


@pytest.fixture
async def start(
    starting: Callable[..., AbstractAsyncContextManager[str]],
) -> AsyncIterator[Start]:
    """Return a function that starts consoles which stop with the test."""
    async with AsyncExitStack() as stack:

        async def begin(**given: Any) -> str:
            return await stack.enter_async_context(starting(**given))

        yield begin


@pytest.fixture
async def console(start: Start, issuer: Issuer) -> str:
    """Start a console with sign-in."""
    return await start(
        auth=AuthMode.OIDC, oidc_issuer=issuer.url, oidc_client_id=CLIENT, session_key="k" * 32
    )


@pytest.fixture(scope="package")
async def development(starting: Callable[..., AbstractAsyncContextManager[str]]) -> AsyncIterator[str]:
    """Serve one console for all tests in which everybody may be anybody; it keeps no state about them."""
    async with starting(auth=AuthMode.DEVELOPMENT) as url:
        yield url


def browsing(**given: Any) -> httpx.AsyncClient:
    """Return a client with cookies of its own.

    Nothing here speaks TLS, and loading the certificates would take as long as most tests.
    """
    return httpx.AsyncClient(timeout=30, verify=False, **given)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as http:
        yield http
