"""A small OpenID Connect issuer for tests: discovery, keys, authorisation code with PKCE, any token."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

CLIENT = "annals-console"
LIFE_SECONDS = 300


class Issuer:
    """Signs everybody in as `person`. A test may change `keys`, as a real issuer rotates its keys."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[ECKey | RSAKey] = [new_key("first")]
        self.others: list[dict[str, Any]] = []
        """Further JSON Web Keys to publish besides `keys`."""
        self.place = ""
        """The path below which people sign in; any other path answers 410."""
        self.person: dict[str, Any] = {
            "sub": "ada",
            "name": "Ada",
            "tenant": "default",
            "roles": ["operator"],
        }
        self.codes: dict[str, tuple[str, str]] = {}
        self.logins = 0
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.configuration),
                Route("/keys", self.public_keys),
                Route("/{place:path}authorize", self.authorize),
                Route("/{place:path}token", self.exchange, methods=["POST"]),
            ]
        )

    def token(self, **claims: Any) -> str:
        """Return a signed token for `person`. `claims` override its claims; None removes a claim."""
        now = int(time.time())
        said = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + LIFE_SECONDS} | self.person | claims
        key = self.keys[-1]
        header = {"alg": key.alg, "kid": key.kid}
        return jwt.encode(header, {name: value for name, value in said.items() if value is not None}, key)

    async def configuration(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/{self.place}authorize",
                "token_endpoint": f"{self.url}/{self.place}token",
                "jwks_uri": f"{self.url}/keys",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
                "id_token_signing_alg_values_supported": sorted({str(key.alg) for key in self.keys}),
            }
        )

    async def public_keys(self, _request: Request) -> Response:
        own = [key.as_dict(private=False) for key in self.keys]
        return JSONResponse({"keys": [*self.others, *own]})

    async def authorize(self, request: Request) -> Response:
        if request.path_params["place"] != self.place:
            return Response("nobody signs in here any more", 410)
        asked = request.query_params
        if asked["client_id"] != CLIENT or asked.get("code_challenge_method") != "S256":
            return Response("only this client, and only with PKCE", 400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = (asked["code_challenge"], asked["nonce"])
        self.logins += 1
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 302)

    async def exchange(self, request: Request) -> Response:
        if request.path_params["place"] != self.place:
            return Response("nobody signs in here any more", 410)
        form = dict(parse_qsl((await request.body()).decode()))
        challenge, nonce = self.codes.pop(form["code"], ("", ""))
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != challenge:
            return JSONResponse({"error": "invalid_grant"}, 400)
        tokens = {"access_token": self.token(nonce=nonce), "id_token": self.token(nonce=nonce)}
        return JSONResponse({"token_type": "Bearer", "expires_in": LIFE_SECONDS} | tokens)


def new_key(kid: str) -> ECKey:
    """Return a new key pair."""
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"}, private=True)


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve an application on loopback and yield its URL. A `port` of 0 picks a free port."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=2)
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        if running.done():
            await running
        await asyncio.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Run an issuer and yield it."""
    issuer = Issuer()
    async with serving(issuer.app) as url:
        issuer.url = url
        yield issuer
