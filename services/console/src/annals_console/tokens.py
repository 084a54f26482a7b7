"""Verifies tokens of the configured issuer.

The issuer's keys are fetched, kept for a while, and fetched again for a token that they do not verify. While
the issuer does not answer, the known keys stay in use for some hours. Of the requests whose key is known,
only the one that finds the keys old waits for the issuer.
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
"""What decoding a token may raise: a stranger may have put anything into its header."""
_KEEP_SECONDS = 600.0  # until the keys are fetched again
_AGAIN_SECONDS = 10.0  # at least, between two fetches for tokens that the keys do not verify
_HOLD_SECONDS = 6 * 3600.0  # for which fetched keys are used while the issuer does not answer
_LEEWAY_SECONDS = 30  # between the issuer's clock and this one


class Refused(Exception):
    """A token is not valid; the text says why."""


class IssuerUnavailable(Exception):
    """The issuer's keys cannot be fetched, so no token can be verified."""


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
        """Return the claims of a token that is valid for `audience`. Raises Refused and IssuerUnavailable."""
        keys = await self._known()
        try:
            decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
        except _UNREADABLE:
            # The token's key may be new. Tokens with made-up keys cause no more than a fetch every 10 s.
            keys = await self._newer(_AGAIN_SECONDS)
            try:
                decoded = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            except _UNREADABLE as error:
                if self._failure:
                    raise self._unavailable() from error  # it may be signed with a key that is not known yet
                raise Refused(
                    f"the token is no JWT that {self._issuer} signed, or not with an accepted algorithm"
                ) from error
        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        try:
            registry.validate(decoded.claims)
        except JoseError as error:
            raise Refused(f"the token is not valid: {error}") from error
        return dict(decoded.claims)

    async def configuration(self) -> dict[str, Any]:
        """Return the issuer's configuration, which is fetched with its keys. Raises IssuerUnavailable."""
        await self._known()
        return self._configuration

    async def _known(self) -> KeySet:
        """Return the keys. Only the first caller that finds them old waits for new ones."""
        if not self._lock.locked() and self._due(_KEEP_SECONDS):
            return await self._newer(_KEEP_SECONDS)
        return self._held() or await self._newer(_AGAIN_SECONDS)

    async def _newer(self, seconds: float) -> KeySet:
        """Fetch the keys, unless tried in the last `seconds`, and return them. Raises IssuerUnavailable."""
        async with self._lock:
            if self._due(seconds):
                await self._try()
        held = self._held()
        if held is None:
            raise self._unavailable()
        return held

    def _unavailable(self) -> IssuerUnavailable:
        return IssuerUnavailable(f"the keys of {self._issuer} cannot be fetched: {self._failure}")

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
            _log.warning("the issuer's keys cannot be fetched now", issuer=self._issuer, error=self._failure)
        self._tried = self._clock()

    async def _fetch(self) -> tuple[dict[str, Any], KeySet]:
        found = await self._http.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        configuration = found.raise_for_status().json()
        if configuration["issuer"] != self._issuer:
            raise ValueError(f"it says that it is {configuration['issuer']}")
        keys = await self._http.get(configuration["jwks_uri"])
        understood = []
        for one in keys.raise_for_status().json()["keys"]:
            # A key that is not understood is ignored, and the others are used: RFC 7517, 5.
            try:
                key = import_key(one)
                key.ensure_kid()
            except Exception as error:  # noqa: BLE001 - an unknown curve is a KeyError
                _log.warning("a key of the issuer is not understood", issuer=self._issuer, error=repr(error))
            else:
                understood.append(key)
        if not understood:
            raise ValueError("it has no key that is understood")
        return configuration, KeySet(understood)
