"""The `/auth` routes: sign-in at the issuer (authorisation code with PKCE), the session, sign-out."""

from __future__ import annotations

import ssl
import time
import uuid
from typing import Any

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth, StarletteOAuth2App
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from annals.web.problems import Problem, unavailable
from annals_console import sessions
from annals_console.gateway import Authenticate
from annals_console.identity import Claims, Identity, NotRecognised, Role, TenantId, UserId, highest
from annals_console.settings import ConsoleSettings
from annals_console.tokens import IssuerUnavailable, Refused, Tokens

_NEXT = "next"


class Developer(BaseModel):
    """The identity to act as in development."""

    model_config = ConfigDict(extra="forbid")
    user: UserId
    name: str | None = Field(default=None, max_length=200)
    tenant: TenantId = "default"
    role: str = "operator"


def common(settings: ConsoleSettings, authenticate: Authenticate) -> APIRouter:
    """Return the routes for the current session and for signing out."""
    router = APIRouter(prefix="/auth", tags=["sign-in"])

    @router.get("/session", summary="Get the signed-in user, and what the page needs to know")
    async def session(request: Request) -> dict[str, Any]:
        try:
            identity = await authenticate(request)
        except Problem as problem:
            if (why := sessions.failure(request)) is None:
                raise
            raise Problem(401, "sign-in-failed", why) from problem
        about = {"auth": settings.auth, "zipkin": settings.zipkin_url}
        return identity.public() | about

    @router.post("/logout", status_code=204, summary="Sign out")
    async def logout(request: Request) -> None:
        sessions.end(request)

    return router


def of_development(settings: ConsoleSettings) -> APIRouter:
    """Return the routes with which a caller chooses an identity in development."""
    router = APIRouter(prefix="/auth", tags=["sign-in"])

    @router.post("/development", summary="Act as another user, in development only")
    async def become(request: Request, body: Developer) -> dict[str, Any]:
        role = highest(body.role)
        if role is None:
            raise Problem(400, "malformed", f"role: one of {', '.join(role.title for role in Role)}")
        identity = Identity(
            user=body.user,
            name=body.name or body.user,
            tenant=body.tenant,
            role=role,
            session=str(uuid.uuid4()),
            until=_until(settings),
        )
        sessions.begin(request, identity)
        return identity.public()

    @router.get("/login", include_in_schema=False)
    async def login() -> Response:
        return RedirectResponse("/", 303)

    return router


def of_issuer(
    settings: ConsoleSettings, tokens: Tokens, claims: Claims, trusted: ssl.SSLContext
) -> APIRouter:
    """Return the routes to the issuer and back; `trusted` holds the certificates to verify it with."""
    router = APIRouter(prefix="/auth", tags=["sign-in"])
    issuer, client_id = settings.oidc_issuer or "", settings.oidc_client_id or ""
    secret = settings.oidc_client_secret
    oauth: Any = OAuth  # Authlib has no types

    async def client() -> Any:
        """Return a client with the issuer's current addresses. Raises IssuerUnavailable."""
        said = await tokens.configuration()
        return oauth().register(
            "issuer",
            client_cls=_Client,
            client_id=client_id,
            client_secret=secret.get_secret_value() if secret else None,
            authorize_url=said["authorization_endpoint"],
            access_token_url=said["token_endpoint"],
            client_kwargs={
                "scope": settings.oidc_scope,
                "code_challenge_method": "S256",
                # Otherwise each sign-in, even one that is only begun, reads all the machine's certificates.
                "verify": trusted,
                **({} if secret else {"token_endpoint_auth_method": "none"}),
            },
        )

    callback = f"{(settings.public_url or '').rstrip('/')}/auth/callback"

    @router.get("/login", summary="Go to the issuer to sign in", status_code=302)
    async def login(request: Request) -> Response:
        wanted = request.query_params.get(_NEXT, "/")
        request.session[_NEXT] = wanted if _own_path(wanted) else "/"
        try:
            answer: Response = await (await client()).authorize_redirect(request, callback)
        except (IssuerUnavailable, OAuthError, ValueError, KeyError) as error:
            problem = unavailable(f"signing in at {issuer} does not work now: {error}", seconds=5)
            return _told(request, problem, request.session[_NEXT])
        return answer

    @router.get("/callback", summary="Where the issuer sends browsers back to", status_code=303)
    async def arrive(request: Request) -> Response:
        wanted = str(request.session.get(_NEXT, "/"))
        try:
            sessions.begin(request, await arrived(request))
        except Problem as problem:
            return _told(request, problem, wanted)
        return RedirectResponse(wanted, 303)

    async def arrived(request: Request) -> Identity:
        try:
            asking = await client()
            if not await asking.framework.get_state_data(request.session, request.query_params.get("state")):
                detail = "signing in failed: begun in another browser, too old, or already used"
                raise Problem(401, "unauthenticated", detail)
            token = await asking.authorize_access_token(request)
            found = await tokens.verify(str(token.get("id_token", "")), client_id)
            _require_of_this_sign_in(found, client_id, token.get("userinfo"))
            return claims.identity(found, str(uuid.uuid4()), _until(settings))
        except OAuthError as error:
            raise Problem(
                401, "unauthenticated", f"signing in failed: {error.description or error.error}"
            ) from error
        except Refused as error:
            raise Problem(401, "unauthenticated", str(error)) from error
        except NotRecognised as error:
            raise Problem(403, "forbidden", str(error)) from error
        except (IssuerUnavailable, httpx2.HTTPError, ValueError, KeyError) as error:
            raise unavailable(f"signing in at {issuer} does not work now: {error}", seconds=5) from error

    return router


def _told(request: Request, problem: Problem, wanted: str) -> Response:
    """Send a browser to the page, which shows the problem; raise the problem for other clients.

    A user who is still signed in sees the page as usual, without the problem.
    """
    if "text/html" not in request.headers.get("accept", ""):
        raise problem
    if sessions.current(request.session) is None:
        sessions.fail(request, problem.detail)
    return RedirectResponse(wanted, 303)


class _Client(StarletteOAuth2App):
    async def parse_id_token(self, token: Any, nonce: Any, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return the nonce that this sign-in expects; `Tokens` verifies the token, as it does all tokens."""
        return {"nonce": nonce}


def _require_of_this_sign_in(found: dict[str, Any], client_id: str, said: dict[str, Any] | None) -> None:
    """Check what OpenID Connect demands of a sign-in's token only (Core 1.0, 3.1.3.7). Raises Refused."""
    several = isinstance(found["aud"], list) and len(found["aud"]) > 1
    if found.get("azp", None if several else client_id) != client_id:
        raise Refused("the token is not valid: it was issued to another client (azp)")
    for name in ("sub", "iat"):
        if name not in found:
            raise Refused(f"the token is not valid: it has no {name}")
    if said is None or found.get("nonce") != said["nonce"]:
        raise Refused("the token is not valid: it belongs to another sign-in (nonce)")


def _until(settings: ConsoleSettings) -> float:
    """Return when a session that begins now expires, in seconds since the epoch."""
    return time.time() + settings.session_hours * 3600


def _own_path(path: str) -> bool:
    """Whether a path stays at the console: `//host` leads elsewhere, and browsers read `/\\host` likewise."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
