"""HEAD is answered as GET is, without the body (RFC 9110, 9.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from oidc_issuer import serving
from unit.web.bare_app import bare_app


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/elsewhere"])
def test_head_has_the_status_and_the_headers_of_get(path: str) -> None:
    client = TestClient(bare_app())
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""


def test_head_is_refused_where_there_is_nothing_to_get() -> None:
    app = bare_app()
    app.add_api_route("/things", lambda: None, methods=["POST"])
    assert TestClient(app).head("/things").status_code == 405


async def test_a_stream_that_is_asked_for_its_head_ends() -> None:
    app, ended = bare_app(), asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: {}\n\n"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    async with serving(app) as address, httpx.AsyncClient() as client:
        head = await client.head(f"{address}/stream")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        await asyncio.wait_for(ended.wait(), 5)
        assert (await client.get(f"{address}/healthz")).status_code == 200
