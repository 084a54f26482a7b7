"""Who is let in at the edge, against a real issuer."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from typing import Any

import httpx
import pytest
from itsdangerous import TimestampSigner
from joserfc.jwk import RSAKey

from annals_console import tokens
from annals_console.settings import AuthMode, ConsoleSettings
from oidc_issuer import CLIENT, Issuer, new_key
from unit.console.conftest import Sidecar, Start, browsing

TASKS = "/api/projector/queries/tasks"
REBUILD = "/api/projector/projections/tasks/rebuild"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_valid_token_is_somebody_to_the_services(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    answer = await http.get(console + TASKS, headers=bearer(issuer.token(tenant="acme", sid="s-1")))

    assert answer.status_code == 200
    headers = sidecar.asked[-1]["headers"]
    assert headers["x-user-id"] == "ada"
    assert headers["x-tenant-id"] == "acme"
    assert headers["x-session-id"] == "s-1"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert "authorization" not in headers, "the token is the edge's own"


async def test_what_is_done_with_a_token_that_names_no_session_is_told_apart_by_the_token(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    one, other = issuer.token(n=1), issuer.token(n=2)
    for token in (one, one, other, issuer.token(jti="j-1")):
        await http.get(console + TASKS, headers=bearer(token))
    first, again, another, named = (asked["headers"]["x-session-id"] for asked in sidecar.asked)
    assert first == again != another
    assert first not in one, "the session is in the audit trail: it lets nobody in"
    assert named == "j-1"


@pytest.mark.parametrize(
    ("claims", "status", "says"),
    [
        ({"iss": "http://elsewhere.example"}, 401, "iss"),
        ({"iss": None}, 401, "iss"),
        ({"aud": "another-application"}, 401, "aud"),
        ({"aud": None}, 401, "aud"),
        ({"exp": int(time.time()) - 60}, 401, "exp"),
        ({"exp": None}, 401, "exp"),
        ({"roles": []}, 403, "roles"),
        ({"roles": ["admin-of-something-else"]}, 403, "roles"),
        ({"tenant": None}, 403, "tenant"),
        (
            {"tenant": "No Tenant!"},
            403,
            "'No Tenant!' (tenant) is not a tenant: expected up to 63 lower-case letters",
        ),
        (
            {"sub": "auth0|5f"},
            403,
            "'auth0|5f' (sub) is not a user id: expected up to 128 letters, digits and ._~@:-",
        ),
    ],
)
async def test_a_token_that_does_not_hold_is_refused(
    console: str,
    issuer: Issuer,
    sidecar: Sidecar,
    http: httpx.AsyncClient,
    claims: dict[str, Any],
    status: int,
    says: str,
) -> None:
    answer = await http.get(console + TASKS, headers=bearer(issuer.token(**claims)))

    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert sidecar.asked == []


async def test_nobody_is_refused(console: str, sidecar: Sidecar, http: httpx.AsyncClient) -> None:
    for headers in ({}, bearer("nonsense"), {"authorization": "Basic YWRhOmFkYQ=="}):
        answer = await http.get(console + TASKS, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert sidecar.asked == []


async def test_a_token_of_another_key_is_refused_and_one_of_a_new_key_is_taken(
    console: str, issuer: Issuer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_AGAIN_SECONDS", 0.0)
    assert (await http.get(console + TASKS, headers=bearer(issuer.token()))).status_code == 200
    first = issuer.keys
    for name in ("first", "another"):
        issuer.keys = [new_key(name)]
        forged = issuer.token()
        issuer.keys = first
        assert (await http.get(console + TASKS, headers=bearer(forged))).status_code == 401
    issuer.keys = [*first, new_key("second")]
    assert (await http.get(console + TASKS, headers=bearer(issuer.token()))).status_code == 200


async def test_an_unsigned_token_is_refused(console: str, issuer: Issuer, http: httpx.AsyncClient) -> None:
    _, payload, _ = issuer.token().split(".")
    unsigned = f"eyJhbGciOiJub25lIn0.{payload}."
    assert (await http.get(console + TASKS, headers=bearer(unsigned))).status_code == 401


async def test_an_issuer_may_call_suite_operators_something_else(
    start: Start, issuer: Issuer, http: httpx.AsyncClient
) -> None:
    console = await start(
        auth=AuthMode.OIDC,
        oidc_issuer=issuer.url,
        oidc_client_id=CLIENT,
        session_key="k" * 32,
        oidc_suite_role="annals-root",
    )
    for role, status in (("annals-root", 200), ("suite-operator", 403)):
        headers = bearer(issuer.token(roles=[role, "operator"]))
        answer = await http.post(console + REBUILD, headers=headers, json={"reason": "x"})
        assert answer.status_code == status


STREAM = "/api/notification/stream"
LIVES_SECONDS = 4


async def ended(http: httpx.AsyncClient, console: str, **given: Any) -> float:
    """Wait until a live stream ends, and return that time in seconds since the epoch."""
    async with asyncio.timeout(30), http.stream("GET", console + STREAM, **given) as answer:
        assert answer.status_code == 200
        async for _ in answer.aiter_bytes():
            pass
    return time.time()


async def test_a_live_stream_ends_with_the_token_it_was_opened_with(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    sidecar.stays = True
    expires = int(time.time()) + LIVES_SECONDS
    assert await ended(http, console, headers=bearer(issuer.token(exp=expires))) >= expires


async def test_a_live_stream_ends_with_the_session_it_was_opened_in(
    start: Start, issuer: Issuer, sidecar: Sidecar
) -> None:
    sidecar.stays = True
    console = await start(
        auth=AuthMode.OIDC,
        oidc_issuer=issuer.url,
        oidc_client_id=CLIENT,
        session_key="k" * 32,
        session_hours=LIVES_SECONDS / 3600,
    )
    async with browsing(follow_redirects=True) as browser:
        began = time.time()
        await browser.get(f"{console}/auth/login")
        assert await ended(browser, console) >= began + LIVES_SECONDS
        assert (await browser.get(console + STREAM)).status_code == 401


async def test_a_session_of_the_version_before_holds(console: str, issuer: Issuer) -> None:
    session = {
        "identity": {"user": "ada", "name": "Ada", "tenant": "t", "role": 3, "session": "s"},
        "until": time.time() + 60,
    }
    signed = TimestampSigner("k" * 32).sign(base64.b64encode(json.dumps(session).encode())).decode()
    async with browsing(cookies={"annals_session": signed}) as browser:
        assert (await browser.get(f"{console}/auth/session")).json()["user"] == "ada"


async def test_a_session_that_is_over_is_nobodys(console: str) -> None:
    """The cookie is signed anew while it is used, so its signature alone would hold for ever."""
    identity = {"user": "ada", "name": "Ada", "tenant": "t", "role": 3, "session": "s"}
    for until, status in ((time.time() + 60, 200), (time.time() - 1, 401)):
        session = json.dumps({"identity": identity, "until": until}).encode()
        signed = TimestampSigner("k" * 32).sign(base64.b64encode(session)).decode()
        async with browsing(cookies={"annals_session": signed}) as browser:
            assert (await browser.get(console + TASKS)).status_code == status


async def test_a_session_that_this_version_does_not_understand_is_nobodys(console: str) -> None:
    session = {"identity": {"user": "ada", "role": "of before"}, "until": time.time() + 60}
    signed = TimestampSigner("k" * 32).sign(base64.b64encode(json.dumps(session).encode())).decode()
    async with browsing(cookies={"annals_session": signed}) as browser:
        assert (await browser.get(console + TASKS)).status_code == 401


async def test_a_new_session_key_ends_every_session(console: str, start: Start, issuer: Issuer) -> None:
    renewed = await start(
        auth=AuthMode.OIDC, oidc_issuer=issuer.url, oidc_client_id=CLIENT, session_key="n" * 32
    )
    async with browsing(follow_redirects=True) as browser:
        await browser.get(f"{console}/auth/login")
        assert (await browser.get(console + TASKS)).status_code == 200
        assert (await browser.get(renewed + TASKS)).status_code == 401


async def test_another_tenant_is_refused(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    headers = bearer(issuer.token(tenant="acme")) | {"x-tenant-id": "globex"}
    answer = await http.get(console + TASKS, headers=headers)

    assert answer.status_code == 403
    assert "acme" in answer.json()["detail"]
    assert sidecar.asked == []


async def test_signing_in_with_code_and_pkce_and_out_again(
    console: str, issuer: Issuer, sidecar: Sidecar
) -> None:
    async with browsing(follow_redirects=True) as browser:
        arrived = await browser.get(f"{console}/auth/login", params={"next": "/sagas?status=running"})
        assert str(arrived.url) == f"{console}/sagas?status=running"
        assert issuer.logins == 1
        cookie = next(iter(browser.cookies.jar))
        assert cookie.has_nonstandard_attr("httponly") or cookie.has_nonstandard_attr("HttpOnly")

        assert (await browser.get(f"{console}/auth/session")).json()["role"] == "operator"
        assert (await browser.get(console + TASKS)).status_code == 200
        assert sidecar.asked[-1]["headers"]["x-user-id"] == "ada"
        assert "cookie" not in sidecar.asked[-1]["headers"]

        await browser.post(f"{console}/auth/logout")
        assert (await browser.get(console + TASKS)).status_code == 401


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil"])
async def test_signing_in_leads_nowhere_else(console: str, wanted: str) -> None:
    async with browsing(follow_redirects=True) as browser:
        arrived = await browser.get(f"{console}/auth/login", params={"next": wanted})
        assert str(arrived.url) == f"{console}/"


async def sent_back(browser: httpx.AsyncClient, console: str) -> dict[str, str]:
    """Sign in at the issuer, and return what it sends the browser back with."""
    to_issuer = await browser.get(f"{console}/auth/login")
    back = await browser.get(to_issuer.headers["location"])
    return dict(httpx.URL(back.headers["location"]).params)


async def test_a_code_of_somebody_elses_sign_in_is_refused(console: str) -> None:
    async with browsing() as browser, browsing() as other:
        own, stolen = await sent_back(browser, console), await sent_back(other, console)
        for sent in (stolen, own | {"code": stolen["code"]}):
            refused = await browser.get(f"{console}/auth/callback", params=sent)
            assert refused.status_code == 401
        assert (await browser.get(console + TASKS)).status_code == 401


async def arrives(browser: httpx.AsyncClient, console: str, **sent: str) -> httpx.Response:
    """Request the callback, as a browser does that the issuer sends back."""
    return await browser.get(f"{console}/auth/callback", params=sent, headers={"accept": "text/html,*/*"})


async def test_who_signs_in_in_two_tabs_is_shown_the_page_in_both(console: str) -> None:
    async with browsing(headers={"accept": "text/html,*/*"}) as browser:
        to_issuer = [await browser.get(f"{console}/auth/login") for _ in range(2)]
        first, last = [(await browser.get(one.headers["location"])).headers["location"] for one in to_issuer]
        for back, status in ((first, 401), (last, 200), (first, 200)):
            shown = await browser.get(back)
            assert (shown.status_code, shown.headers["location"]) == (303, "/")
            assert (await browser.get(f"{console}/auth/session")).status_code == status


async def test_who_could_not_be_signed_in_is_shown_the_page_which_says_why_once(
    console: str, issuer: Issuer
) -> None:
    issuer.person["roles"] = ["accountant"]
    async with browsing() as browser:
        to = await browser.get(f"{console}/auth/login", params={"next": "/sagas"})
        back = (await browser.get(to.headers["location"])).headers["location"]
        shown = await browser.get(back, headers={"accept": "text/html"})
        assert (shown.status_code, shown.headers["location"]) == (303, "/sagas")
        said = await browser.get(f"{console}/auth/session")
        assert (said.status_code, said.json()["type"]) == (401, "urn:annals:problem:sign-in-failed")
        assert "none of the roles" in said.json()["detail"]
        again = await browser.get(f"{console}/auth/session")
        assert (again.status_code, again.json()["type"]) == (401, "urn:annals:problem:unauthenticated")


async def test_a_page_says_of_a_sign_in_only_what_was_begun_in_it(console: str) -> None:
    async with browsing() as browser:
        for sent in (
            {"code": "stolen", "state": "made-up"},
            {"error": "x", "error_description": "call this number", "state": "made-up"},
            {},
        ):
            assert (await arrives(browser, console, **sent)).headers["location"] == "/"
            said = (await browser.get(f"{console}/auth/session")).json()
            assert said["detail"] == "signing in failed: begun in another browser, too old, or already used"
            assert (await browser.get(console + TASKS)).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        *({"nonce": "of-another"}, {"nonce": None}),
        *({"iat": 9_999_999_999}, {"iat": None}, {"exp": 1}, {"exp": None}, {"sub": None}),
        *({"iss": "http://elsewhere.example"}, {"aud": "another"}, {"aud": [CLIENT, "another"]}),
        *({"azp": "another"}, {"aud": [CLIENT, "another"], "azp": "another"}),
    ],
)
async def test_a_sign_in_that_does_not_hold_is_refused(
    console: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any]
) -> None:
    honest = issuer.token
    monkeypatch.setattr(issuer, "token", lambda **said: honest(**(said | claims)))
    async with browsing(follow_redirects=True) as browser:
        refused = await browser.get(f"{console}/auth/login")
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:annals:problem:unauthenticated")


async def signs_in(console: str) -> int:
    """Sign in with a new browser and return the status that it ends with."""
    async with browsing(follow_redirects=True) as browser:
        return (await browser.get(f"{console}/auth/login")).status_code


async def test_whoever_signs_in_is_let_in_whatever_key_the_issuer_has_by_now(
    console: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_AGAIN_SECONDS", 0.0)
    assert await signs_in(console) == 200
    issuer.keys = [new_key("first")]
    assert await signs_in(console) == 200, "another under the name of the one before"
    rsa = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig", "alg": "RS256"}, private=True)
    issuer.keys = [rsa]
    assert await signs_in(console) == 200, "of another kind"
    issuer.others = [{"kty": "EC", "crv": "BP-256", "kid": "x", "x": "AAAA", "y": "AAAA"}]
    issuer.keys = [new_key("second")]
    assert await signs_in(console) == 200, "beside one that is not understood"


async def test_to_sign_in_reads_no_certificates(console: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading certificates blocks everybody for a tenth of a second, and anybody may start a sign-in."""
    read: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *given: read.append(given))
    assert await signs_in(console) == 200
    assert read == []


async def test_people_sign_in_where_the_issuer_has_moved_to(
    console: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await signs_in(console) == 200
    issuer.place = "realms/new/"
    assert await signs_in(console) == 410
    monkeypatch.setattr(tokens, "_KEEP_SECONDS", 0.0)
    assert await signs_in(console) == 200


async def test_a_token_for_several_that_was_issued_to_the_console_is_taken(
    console: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = issuer.token
    monkeypatch.setattr(issuer, "token", lambda **said: honest(**said, aud=[CLIENT, "another"], azp=CLIENT))
    assert await signs_in(console) == 200


async def test_a_cookie_that_was_tampered_with_is_nobody(console: str) -> None:
    async with browsing(follow_redirects=True) as browser:
        await browser.get(f"{console}/auth/login")
        value = browser.cookies["annals_session"]
        browser.cookies.clear()
        browser.cookies.set("annals_session", ("A" if value[0] != "A" else "B") + value[1:])
        assert (await browser.get(console + TASKS)).status_code == 401


async def test_an_issuer_that_is_away_lets_nobody_in(start: Start, http: httpx.AsyncClient) -> None:
    away = "http://127.0.0.1:9"
    console = await start(auth=AuthMode.OIDC, oidc_issuer=away, oidc_client_id="x", session_key="k" * 32)
    assert (await http.get(console + TASKS, headers=bearer("a.b.c"))).status_code == 503
    login = await http.get(f"{console}/auth/login")
    assert login.status_code == 503
    assert login.json()["detail"].startswith(f"signing in at {away} does not work now: ")
    shown = await http.get(f"{console}/auth/login?next=/sagas", headers={"accept": "text/html"})
    assert (shown.status_code, shown.headers["location"]) == (303, "/sagas")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "ANNALS_AUTH is not set"),
        (
            {"auth": "oidc"},
            "ANNALS_OIDC_ISSUER, ANNALS_OIDC_CLIENT_ID, ANNALS_SESSION_KEY, ANNALS_PUBLIC_URL",
        ),
        (
            {
                "auth": "oidc",
                "oidc_issuer": "http://x",
                "oidc_client_id": "x",
                "public_url": "http://x",
                "session_key": "short",
            },
            "32 characters",
        ),
    ],
)
def test_it_does_not_start_without_saying_who_may_come_in(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], says: str
) -> None:
    monkeypatch.delenv("ANNALS_AUTH", raising=False)
    with pytest.raises(ValueError, match=says):
        ConsoleSettings(**given)
