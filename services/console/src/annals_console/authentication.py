"""Authentication of callers: by session cookie or bearer token; in development, as whoever they choose."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from fastapi import Request

from annals.web.problems import Problem, unavailable
from annals_console import sessions
from annals_console.identity import Claims, Identity, NotRecognised, Role
from annals_console.tokens import IssuerUnavailable, Refused, Tokens

DEVELOPER = Identity(
    user="you",
    name="You",
    tenant="default",
    role=Role.SUITE_OPERATOR,
    session="development",
    until=float("inf"),
)
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def of_issuer(tokens: Tokens, claims: Claims, audience: str) -> Callable[[Request], Awaitable[Identity]]:
    """Return a function that authenticates a request by its bearer token, otherwise by its session."""

    async def authenticate(request: Request) -> Identity:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not kind:
            identity = sessions.current(request.session)
            if identity is None:
                detail = "sign in, or send a bearer token"
                raise Problem(401, "unauthenticated", detail, headers=_CHALLENGE)
        elif kind.lower() == "bearer" and token:
            identity = await _bearer(tokens, claims, audience, token.strip())
        else:
            raise Problem(401, "unauthenticated", "only bearer tokens are accepted", headers=_CHALLENGE)
        return _of_own_tenant(request, identity)

    return authenticate


async def of_development(request: Request) -> Identity:
    """Return the identity that the caller has chosen, otherwise `DEVELOPER`."""
    return _of_own_tenant(request, sessions.current(request.session) or DEVELOPER)


async def _bearer(tokens: Tokens, claims: Claims, audience: str, token: str) -> Identity:
    try:
        found = await tokens.verify(token, audience)
        session = found.get("sid") or found.get("jti") or hashlib.sha256(token.encode()).hexdigest()[:32]
        return claims.identity(found, str(session)[:256], float(found["exp"]))
    except Refused as error:
        raise Problem(401, "unauthenticated", str(error), headers=_CHALLENGE) from error
    except NotRecognised as error:
        raise Problem(403, "forbidden", str(error)) from error
    except IssuerUnavailable as error:
        raise unavailable(str(error), seconds=5) from error


def _of_own_tenant(request: Request, identity: Identity) -> Identity:
    """Return the identity. Raises a Problem, not to ignore it, if the request names another tenant."""
    asked = request.headers.get("x-tenant-id")
    if asked is not None and asked != identity.tenant:
        raise Problem(403, "forbidden", f"you belong to the tenant {identity.tenant}, not to {asked[:64]}")
    return identity
