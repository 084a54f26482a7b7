"""Tokens of the configured issuer: its keys are fetched, kept a while, and fetched anew for a new one.

While the issuer does not answer the keys that are known hold on, and nobody whose key is known waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx2
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, import_key

_log = structlog.get_logger(__name__)

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
_UNREADABLE = (JoseError, ValueError, TypeError)
"""What a token may come to, of whatever a stranger has put into its header."""
_KEEP_SECONDS = 600.0
_AGAIN_SECONDS = 10.0
_HOLD_SECONDS = 6 * 3600.0
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
        self._configuration: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")
        self._failure = ""

    async def verify(self, token: str, audience: str) -> dict[str, Any]:
        """The claims of a token that the issuer signed for an audience. Raises Refused, IssuerUnavailable."""
        keys = await self._known()
        try:
            decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
        except _UNREADABLE:
            # A key that is not known may be new. Whoever makes one up has it looked for at most so often.
            keys = await self._newer(_AGAIN_SECONDS)
            try:
                decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            except _UNREADABLE as error:
                if self._failure:
                    raise self._unavailable() from error  # it may be signed with a key that is not known yet
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

    async def configuration(self) -> dict[str, Any]:
        """What the issuer says of itself: it is asked anew with its keys. Raises IssuerUnavailable."""
        await self._known()
        return self._configuration

    async def _known(self) -> KeySet:
        """The keys as they were not long ago. Only who finds them old waits for new ones."""
        if not self._lock.locked() and self._due(_KEEP_SECONDS):
            return await self._newer(_KEEP_SECONDS)
        return self._held() or await self._newer(_AGAIN_SECONDS)

    async def _newer(self, seconds: float) -> KeySet:
        """The keys, asked for anew unless that was just tried, as by who held the lock before."""
        async with self._lock:
            if self._due(seconds):
                await self._try()
        held = self._held()
        if held is None:
            raise self._unavailable()
        return held

    def _unavailable(self) -> IssuerUnavailable:
        return IssuerUnavailable(f"the keys of {self._issuer} cannot be had: {self._failure}")

    def _due(self, seconds: float) -> bool:
        return self._clock() - self._tried > seconds

    def _held(self) -> KeySet | None:
        return self._keys if self._clock() - self._fetched <= _HOLD_SECONDS else None

    async def _try(self) -> None:
        try:
            self._configuration, self._keys = await self._fetch()
            self._fetched, self._failure = self._clock(), ""
        except (httpx2.HTTPError, JoseError, KeyError, TypeError, ValueError) as error:
            self._failure = str(error) or type(error).__name__
            _log.warning("the issuer's keys cannot be had now", issuer=self._issuer, error=self._failure)
        self._tried = self._clock()

    async def _fetch(self) -> tuple[dict[str, Any], KeySet]:
        found = await self._http.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        configuration = found.raise_for_status().json()
        if configuration["issuer"] != self._issuer:
            raise ValueError(f"it says that it is {configuration['issuer']}")
        keys = await self._http.get(configuration["jwks_uri"])
        understood = []
        for one in keys.raise_for_status().json()["keys"]:
            # One that is not understood is passed over, and the others hold: RFC 7517, 5.
            try:
                key = import_key(one)
                key.ensure_kid()
            except Exception as error:  # noqa: BLE001 - a curve that is not known is a KeyError
                _log.warning("a key of the issuer is not understood", issuer=self._issuer, error=repr(error))
            else:
                understood.append(key)
        if not understood:
            raise ValueError("it has no key that is understood")
        return configuration, KeySet(understood)
