"""What the sidecar itself answers to a caller it does not let in."""

from __future__ import annotations

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed, SidecarRefused
from unit.cli.conftest import Annals

DENIED = "fail to invoke, id: command, err: access control policy has denied access to id: spiffe://a/ns/b/c"


def denied(_: httpx.Request) -> httpx.Response:
    return httpx.Response(403, json={"errorCode": "ERR_DIRECT_INVOKE", "message": DENIED})


def without_token(request: httpx.Request) -> httpx.Response:
    """Answer as daprd 1.18 does; its health needs no token."""
    if request.url.path == "/v1.0/healthz/outbound":
        return httpx.Response(204)
    return httpx.Response(401, text="invalid api token\n")


def test_whom_the_access_control_refuses_is_told_so(annals: Annals) -> None:
    with pytest.raises(SidecarRefused) as raised:
        annals(denied, "lanes")
    assert (str(raised.value), raised.value.code) == (DENIED, Exit.REFUSED)


def test_who_has_not_the_token_is_told_how_to_say_it(annals: Annals) -> None:
    with pytest.raises(SidecarRefused) as raised:
        annals(without_token, "lanes")
    assert str(raised.value) == "invalid api token: set DAPR_API_TOKEN"


@pytest.mark.parametrize("status", [401, 403])
def test_the_refusal_of_a_service_is_its_own(annals: Annals, status: int) -> None:
    problem = {"type": "urn:annals:problem:forbidden", "detail": "not you"}
    with pytest.raises(Failed) as raised:
        annals(lambda _: httpx.Response(status, json=problem), "lanes")
    assert (type(raised.value), str(raised.value)) == (Failed, "not you")


@pytest.mark.parametrize("body", [b"", b"[1]", b'"no"', b"\xff"])
def test_an_error_is_told_whatever_its_body_is(annals: Annals, body: bytes) -> None:
    for status in (403, 404, 500):
        with pytest.raises(Failed):
            annals(lambda _, status=status: httpx.Response(status, content=body), "lanes")


def test_without_the_token_the_doctor_finds_one_thing_wrong(annals: Annals) -> None:
    result = annals(without_token, "doctor")
    assert result.exit_code == Exit.FOUND_WRONG
    wrong, mend = result.output.splitlines()
    assert wrong == "wrong sidecar: invalid api token: set DAPR_API_TOKEN"
    assert "DAPR_API_TOKEN" in mend


def test_the_doctor_advises_to_start_nothing_where_a_sidecar_answers_that_it_is_not_ready(
    annals: Annals,
) -> None:
    result = annals(lambda _: httpx.Response(500), "doctor")
    assert result.exit_code == Exit.FOUND_WRONG
    wrong, mend = result.output.splitlines()
    assert wrong.endswith("is not ready (HTTP 500)")
    assert "make logs APP=command-dapr" in mend


def test_the_doctor_gives_whom_a_service_refuses_no_advice_on_the_service(annals: Annals) -> None:
    result = annals(
        lambda asked: denied(asked) if "invoke" in asked.url.path else httpx.Response(204), "doctor"
    )
    lines = result.output.splitlines()
    assert lines[0].startswith("ok    sidecar")
    assert lines[1] == f"wrong command: {DENIED}"
    assert {line for line in lines[2::2] if "--sidecar URL" not in line} == set()
