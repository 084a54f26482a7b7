"""The console on a loopback port, before a sidecar that says what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from annals_console.app import create
from annals_console.settings import AuthMode, ConsoleSettings
from oidc_issuer import CLIENT, Issuer, issuing, serving
from suite import ports

Start = Callable[..., Awaitable[str]]


class Sidecar:
    """Answers every invocation with what arrived; `/stream` sends two events, and may stay."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.stays = False
        self.answers: dict[str, Any] = {}
        """What is answered at a path instead."""
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
        if rest in ("metrics", "store/lanes", "projections"):  # the console's own looks at the services
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


@pytest.fixture
async def sidecar() -> Sidecar:
    return Sidecar()


@pytest.fixture
async def start(sidecar: Sidecar, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a console with these settings, and gives its address."""
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html><title>Annals</title>")
    (page / "assets" / "app.js").write_text("1;" * 800)
    (page / "assets" / "app.js.br").write_bytes(b"packed")
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(serving(sidecar.app))

        async def begin(**given: Any) -> str:
            port = ports.free_port()
            defaults = {
                "app_port": port,
                "dapr_http_port": int(behind.rsplit(":", 1)[1]),
                "page": page,
                "public_url": f"http://127.0.0.1:{port}",
            }
            settings = ConsoleSettings(**(defaults | given))
            return await stack.enter_async_context(serving(create(settings), port))

        yield begin


@pytest.fixture
async def console(start: Start, issuer: Issuer) -> str:
    """A console that people sign in to."""
    return await start(
        auth=AuthMode.OIDC, oidc_issuer=issuer.url, oidc_client_id=CLIENT, session_key="k" * 32
    )


@pytest.fixture
async def development(start: Start) -> str:
    """A console where everybody may be anybody."""
    return await start(auth=AuthMode.DEVELOPMENT)


def browsing(**given: Any) -> httpx.AsyncClient:
    """A browser of its own. Nothing here speaks TLS, and to read certificates takes as long as most tests."""
    return httpx.AsyncClient(timeout=30, verify=False, **given)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with browsing() as http:
        yield http
