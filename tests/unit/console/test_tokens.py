"""The issuer's keys: who waits for them, and for how long they hold."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import httpx2
import orjson
import pytest
from joserfc import jwt

from annals_console.tokens import IssuerUnavailable, Refused, Tokens
from oidc_issuer import CLIENT, new_key

ISSUER = "http://issuer.test"
MINUTE, HOUR = 60.0, 3600.0


class Issuer:
    """Answers at once or, while `hangs` is set, only when the test sets that event."""

    def __init__(self) -> None:
        self.key = new_key("first")
        self.asked = 0
        self.published: list[Any] | None = None
        """The keys to publish instead of its own."""
        self.says_it_is = ISSUER
        self.hangs: asyncio.Event | None = None
        self.now = 0.0
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        self.tokens = Tokens(ISSUER, http, clock=lambda: self.now)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
            raise httpx2.ReadTimeout("it does not answer")
        if request.url.path == "/keys":
            own = [self.key.as_dict(private=False)]
            return httpx2.Response(200, json={"keys": own if self.published is None else self.published})
        return httpx2.Response(200, json={"issuer": self.says_it_is, "jwks_uri": f"{ISSUER}/keys"})

    def token(self) -> str:
        claims = {"iss": ISSUER, "aud": CLIENT, "sub": "ada", "exp": int(time.time() + 300)}
        return jwt.encode({"alg": "ES256", "kid": self.key.kid}, claims, self.key)

    async def verify(self, token: str) -> str:
        return str((await self.tokens.verify(token, CLIENT))["sub"])


@pytest.fixture
async def issuer() -> Issuer:
    """An issuer whose keys have been fetched."""
    issuer = Issuer()
    await issuer.verify(issuer.token())
    return issuer


async def asked(issuer: Issuer, times: int) -> None:
    while issuer.asked < times:
        await asyncio.sleep(0)


async def test_nobody_whose_key_is_known_waits_for_an_issuer_that_hangs(issuer: Issuer) -> None:
    issuer.hangs, issuer.now = asyncio.Event(), MINUTE
    made_up = [asyncio.create_task(issuer.verify("x.y.z")) for _ in range(5)]
    await asked(issuer, 3)

    async with asyncio.timeout(30):
        assert await issuer.verify(issuer.token()) == "ada"

    issuer.hangs.set()
    answers = await asyncio.gather(*made_up, return_exceptions=True)
    assert {type(answer) for answer in answers} == {IssuerUnavailable}, "nobody knows whose key that is"
    assert issuer.asked == 3, "it was asked once for all of them"
    issuer.hangs, issuer.now = None, 2 * MINUTE
    with pytest.raises(Refused, match=f"is no JWT that {ISSUER} signed"):
        await issuer.verify("x.y.z")


async def test_keys_that_are_known_hold_while_the_issuer_is_away_for_some_hours(issuer: Issuer) -> None:
    issuer.hangs = asyncio.Event()
    issuer.hangs.set()
    issuer.now = HOUR
    assert await issuer.verify(issuer.token()) == "ada"
    assert issuer.asked == 3
    assert await issuer.verify(issuer.token()) == "ada"
    assert issuer.asked == 3, "it is not asked again so soon"
    issuer.now = 7 * HOUR
    with pytest.raises(IssuerUnavailable, match="does not answer"):
        await issuer.verify(issuer.token())


async def test_keys_that_are_not_known_are_asked_for_once_by_all_who_wait_for_them() -> None:
    issuer = Issuer()
    issuer.hangs = asyncio.Event()
    waiting = [asyncio.create_task(issuer.verify(issuer.token())) for _ in range(5)]
    await asked(issuer, 1)
    issuer.hangs.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {IssuerUnavailable}
    assert issuer.asked == 1

    issuer.hangs, issuer.now = None, MINUTE
    assert await issuer.verify(issuer.token()) == "ada"


async def test_all_tokens_of_a_new_key_are_taken_though_they_come_together(issuer: Issuer) -> None:
    issuer.key, issuer.now = new_key("second"), MINUTE
    found = await asyncio.gather(*(issuer.verify(issuer.token()) for _ in range(5)))
    assert found == ["ada"] * 5
    assert issuer.asked == 4


async def test_keys_of_who_says_that_it_is_somebody_else_are_not_taken() -> None:
    issuer = Issuer()
    issuer.says_it_is = "http://elsewhere.test"
    with pytest.raises(IssuerUnavailable, match="it says that it is"):
        await issuer.verify(issuer.token())


@pytest.mark.parametrize(
    "odd",
    [
        {"kty": "EC", "crv": "BP-256", "kid": "tomorrow", "use": "sig", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-256", "kid": "no point", "x": "AAAA", "y": "AAAA"},
        {"kty": "RSA", "kid": "half", "e": "AQAB"},
        {"kty": "RSA", "kid": "tls", "use": "tls", "e": "AQAB", "n": "AAAA"},
        {"kty": "AKP", "alg": "ML-DSA-65", "kid": "quantum", "pub": "AAAA"},
        {"kty": []},
        None,
    ],
)
async def test_a_key_that_is_not_understood_does_not_keep_the_others_from_holding(odd: Any) -> None:
    issuer = Issuer()
    issuer.published = [odd, issuer.key.as_dict(private=False), odd]
    assert await issuer.verify(issuer.token()) == "ada"


async def test_when_none_is_understood_the_keys_that_were_known_hold_and_it_is_said_why(
    issuer: Issuer,
) -> None:
    issuer.published, issuer.now = [{"kty": "EC", "crv": "BP-256", "x": "AAAA", "y": "AAAA"}], HOUR
    assert await issuer.verify(issuer.token()) == "ada"
    issuer.now = 7 * HOUR
    with pytest.raises(IssuerUnavailable, match="no key that is understood"):
        await issuer.verify(issuer.token())


@pytest.mark.parametrize(
    "header", [{"alg": "ES256", "crit": 5}, {"alg": "ES256", "kid": []}, {"alg": None}, 5, [], "ES256"]
)
async def test_whatever_a_stranger_has_in_a_tokens_header_it_is_refused(issuer: Issuer, header: Any) -> None:
    _, payload, signature = issuer.token().split(".")
    issuer.now = MINUTE
    with pytest.raises(Refused, match="or not with an accepted algorithm"):
        await issuer.verify(
            f"{base64.urlsafe_b64encode(orjson.dumps(header)).decode()}.{payload}.{signature}"
        )
