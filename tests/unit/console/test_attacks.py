"""What attackers try first at an edge."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from urllib.parse import urlsplit

import httpx
import pytest

from annals_console.settings import AuthMode
from oidc_issuer import Issuer
from unit.console.conftest import Sidecar, Start

TASKS = "/api/projector/queries/tasks"


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_a_public_key_is_no_secret(console: str, issuer: Issuer, http: httpx.AsyncClient) -> None:
    _, payload, _ = issuer.token().split(".")
    for secret in (
        issuer.keys[-1].as_pem(private=False),
        json.dumps(issuer.keys[-1].as_dict(private=False)).encode(),
    ):
        for kid in (issuer.keys[-1].kid, "other"):
            signed = f"{_part({'alg': 'HS256', 'kid': kid})}.{payload}"
            mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
            token = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
            answer = await http.get(console + TASKS, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401


@pytest.mark.parametrize("token", [".", "..", "a.b.c", "e30.e30.", "e30", "\xff", "x" * 20_000])
async def test_no_token_is_a_crash(console: str, http: httpx.AsyncClient, token: str) -> None:
    headers = {b"authorization": b"Bearer " + token.encode("latin-1")}
    assert (await http.get(console + TASKS, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/command/commands/../store/export",
        "/api/command/commands/%2e%2e/store/export",
        "/api/command/commands/task.create%2f..%2f..%2fstore%2fexport",
        "/api/projector/queries/tasks/..",
        "/api/projector/queries/tasks/%2e%2e%2f%2e%2e%2fprojections",
        "/api/projector/queries/tasks/..%2fmembers",
        "/api/projector/queries/tasks/a%3fb",
        "/api/projector/queries/tasks/a%23b",
        "/api/projector/queries/tasks/a%0d%0ax: y",
        "/api/projector/queries/tasks/a%00b",
        "/api/notification/../command/store/export",
        "//api/projector/queries/tasks",
        "/api/command/v1.0/invoke/command/method/store/export",
    ],
)
async def test_no_path_leads_out_of_its_rule(development: str, sidecar: Sidecar, path: str) -> None:
    where = urlsplit(development)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)  # sent unchanged
    for method in ("GET", "POST"):
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-length: 0\r\n\r\n".encode()
        )
    writer.write_eof()
    answers = await reader.read()
    writer.close()
    assert answers.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 5" not in answers
    assert sidecar.asked == []


async def test_a_session_is_for_this_host_and_for_https_only_where_browsers_come_by_it(
    start: Start, http: httpx.AsyncClient
) -> None:
    for public_url, name, flags in (
        ("https://annals.example", "__Host-annals_session", {"httponly", "samesite=lax", "path=/", "secure"}),
        ("http://annals.example", "annals_session", {"httponly", "samesite=lax", "path=/"}),
    ):
        console = await start(auth=AuthMode.DEVELOPMENT, public_url=public_url)
        answer = await http.post(f"{console}/auth/development", json={"user": "ada"})
        cookie, *attributes = answer.headers["set-cookie"].lower().split("; ")
        assert cookie.startswith(f"{name}=".lower())
        assert {one for one in attributes if not one.startswith("max-age=")} == flags
        assert ("strict-transport-security" in answer.headers) is ("secure" in flags)


async def test_no_other_origin_is_let_in(development: str, http: httpx.AsyncClient) -> None:
    for method in ("GET", "OPTIONS"):
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        answer = await http.request(method, development + TASKS, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_no_stream_without_a_sign_in(console: str, http: httpx.AsyncClient) -> None:
    assert (await http.get(f"{console}/api/notification/stream")).status_code == 401
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for path in ("/api/notification/ws", "/api/notification/stream"):
        answer = await http.get(console + path, headers=upgrade)
        assert answer.status_code in (401, 403, 404)


async def test_a_second_request_cannot_hide_in_the_first(development: str, sidecar: Sidecar) -> None:
    """With both Content-Length and Transfer-Encoding, the connection ends whichever is believed."""
    where = urlsplit(development)
    erase = "POST /api/command/commands/subject.erase HTTP/1.1"
    hidden = f"{erase}\r\nhost: {where.netloc}\r\ncontent-length: 2\r\n\r\n{{}}"
    head = (
        f"POST /auth/logout HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"content-length: {len(hidden) + 5}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write((head + hidden).encode())
    writer.write_eof()
    await reader.read()
    writer.close()
    assert sidecar.asked == []
