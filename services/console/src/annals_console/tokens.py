"""Tokens of the configured issuer: its keys are fetched, kept a while, and fetched anew for a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

_ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
]
_KEEP_SECONDS = 600.0
_AGAIN_SECONDS = 10.0
_LEEWAY_SECONDS = 30


class Refused(Exception):
    """A token that does not hold; the text says why."""


class IssuerUnavailable(Exception):
    """The issuer's keys cannot be had, so nobody can be recognised."""


class Tokens:
    """Verifies the tokens of an issuer."""

    def __init__(
        self, issuer: str, http: httpx2.AsyncClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._http = http
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: KeySet | None = None
        self._fetched = float("-inf")

    async def verify(self, token: str, audience: str) -> dict[str, Any]:
        """The claims of a token that the issuer signed for an audience. Raises Refused, IssuerUnavailable."""
        keys = await self._key_set(_KEEP_SECONDS)
        try:
            decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            # A key that is not known may be new. Whoever makes one up has it looked for at most so often.
            keys = await self._key_set(_AGAIN_SECONDS)
            try:
                decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            except (JoseError, ValueError) as error:
                raise Refused(f"the token is not one that {self._issuer} has signed") from error
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        try:
            registry.validate(decoded.claims)
        except JoseError as error:
            raise Refused(f"the token does not hold: {error}") from error
        return dict(decoded.claims)

    async def _key_set(self, fresh: float) -> KeySet:
        async with self._lock:
            if self._keys is None or self._clock() - self._fetched > fresh:
                self._keys = await self._fetch()
                self._fetched = self._clock()
            return self._keys

    async def _fetch(self) -> KeySet:
        try:
            found = await self._http.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            configuration = found.raise_for_status().json()
            if configuration["issuer"] != self._issuer:
                raise IssuerUnavailable(f"{self._issuer} says that it is {configuration['issuer']}")
            keys = await self._http.get(configuration["jwks_uri"])
            return KeySet.import_key_set(keys.raise_for_status().json())
        except (httpx2.HTTPError, KeyError, ValueError) as error:
            raise IssuerUnavailable(f"the keys of {self._issuer} cannot be had: {error}") from error
