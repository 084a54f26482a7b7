"""A service with a token answers its sidecar and nobody else."""

from __future__ import annotations

import pytest
from fastapi import Request, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from annals.web.settings import ServiceSettings
from unit.web.bare_app import bare_app


@pytest.fixture
def client() -> TestClient:
    settings = ServiceSettings(app_api_token="right")  # type: ignore[arg-type]
    app = bare_app(settings)

    @app.get("/asked")
    async def asked() -> str:
        return "answered"

    async def named(request: Request) -> Response:
        return Response(request.scope["path"].rpartition("/")[2])

    app.direct("/named", named)

    @app.websocket("/ws")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("answered")
        await socket.close()

    return TestClient(app)


@pytest.mark.parametrize("headers", [{}, {"dapr-api-token": "wrong"}])
def test_a_request_without_the_token_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/asked", headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"dapr-api-token": "wrong"}])
def test_a_request_that_is_answered_directly_is_refused_without_the_token(
    client: TestClient, headers: dict[str, str]
) -> None:
    assert client.post("/named/it", headers=headers).status_code == 401
    assert client.post("/named/it", headers={"dapr-api-token": "right"}).text == "it"


@pytest.mark.parametrize("headers", [{}, {"dapr-api-token": "wrong"}])
def test_a_websocket_without_the_token_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
        pass


def test_the_token_opens_both(client: TestClient) -> None:
    headers = {"dapr-api-token": "right"}

    assert client.get("/asked", headers=headers).json() == "answered"
    with client.websocket_connect("/ws", headers=headers) as socket:
        assert socket.receive_text() == "answered"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_need_no_token(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200
