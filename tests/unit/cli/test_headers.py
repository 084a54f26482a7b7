"""The options that become headers."""

from __future__ import annotations

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals

COMMAND = ("command", "task.create", "title=Grüße")
DONE = {"stream": "task-a", "version": 1, "position": "0:1"}


def test_who_asks_and_with_which_key_is_said_in_headers(annals: Annals) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201, json=DONE)

    given = ("--tenant", "acme", "--user", "Ada L.", "--api-token", "secret")
    annals(answer, *given, *COMMAND, "--key", "once")
    names = ("x-tenant-id", "x-user-id", "dapr-api-token", "idempotency-key")
    assert [asked[0].headers[name] for name in names] == ["acme", "Ada L.", "secret", "once"]


@pytest.mark.parametrize("value", ["Jürgen", "größe", "a\nb", " ahead", "\udcff"])
@pytest.mark.parametrize("option", ["--tenant", "--user", "--api-token", "--key"])
def test_what_no_header_takes_is_refused_before_anything_is_asked(
    annals: Annals, option: str, value: str
) -> None:
    def never(_: httpx.Request) -> httpx.Response:
        pytest.fail("it was asked")

    arguments = (*COMMAND, option, value) if option == "--key" else (option, value, *COMMAND)
    with pytest.raises(Failed, match=option) as raised:
        annals(never, *arguments)
    assert raised.value.code is Exit.USAGE
    assert value not in str(raised.value)


@pytest.mark.parametrize("option", ["--tenant", "--user", "--api-token", "--key"])
def test_what_is_given_and_empty_is_not_passed_over(annals: Annals, option: str) -> None:
    def never(_: httpx.Request) -> httpx.Response:
        pytest.fail("it was asked")

    arguments = (*COMMAND, option, "") if option == "--key" else (option, "", *COMMAND)
    with pytest.raises(Failed, match=f"{option} is given, but empty") as raised:
        annals(never, *arguments)
    assert raised.value.code is Exit.USAGE


def test_an_empty_id_or_reason_is_for_the_service_to_refuse(annals: Annals) -> None:
    asked: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(400, json={"type": "urn:annals:problem:malformed", "detail": "empty"})

    for arguments in (("sagas", "start", "t", "{}", "--id", ""), ("sagas", "cancel", "S1", "--reason", "")):
        with pytest.raises(Failed, match="empty"):
            annals(refuse, *arguments)
    assert asked[0].url.params.multi_items() == [("id", "")]
    assert asked[1].content == b'{"reason":""}'
