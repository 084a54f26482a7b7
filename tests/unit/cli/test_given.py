"""Input that no service could accept."""

from __future__ import annotations

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals

DEEP = "[" * 100_000
DIGITS = "9" * 5_000


def never(_: httpx.Request) -> httpx.Response:
    pytest.fail("it was asked")


@pytest.mark.parametrize(
    "arguments",
    [
        ("command", "member.register", "capacity=1e999"),
        ("command", "member.register", '{"capacity": 1e999}'),
        ("command", "member.register", '{"capacity": NaN}'),
        ("command", "member.register", '{"capacity": -Infinity}'),
        ("command", "member.register", f"capacity={DIGITS}"),
        ("command", "member.register", f"name={DEEP}"),
        ("command", "member.register", "name=\udcff"),
        ("command", "member.register", '{"name": "\\udcff"}'),
        ("sagas", "start", "task-handover", '{"task_id": NaN}'),
        ("sagas", "raise", "S1", "accept", DEEP),
        ("sagas", "cancel", "S1", "--reason", "\udcff"),
        ("dead-letters", "edit", "L1", "--reason", "x", "--data", DIGITS),
        ("dead-letters", "discard", "L1", "--reason", "\udcff"),
        ("query", "tasks", "text=\udcff"),
        ("query", "tasks", "text=" + "x" * 70_000),
        ("tail", "--stream", "\udcff"),
        ("--sidecar", "http://h:abc", "lanes"),
        ("--sidecar", "http://h:99999", "lanes"),
        ("--sidecar", "http://h/\x01", "lanes"),
        ("--sidecar", "http://\udcff", "lanes"),
        ("--sidecar", "localhost:3501", "lanes"),
        ("--sidecar", "", "lanes"),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_it_is_refused_in_one_line_before_anything_is_asked(
    annals: Annals, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(Failed) as raised:
        annals(never, *arguments)
    assert raised.value.code is Exit.USAGE
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 200


def test_standard_input_that_is_no_text_is_refused(annals: Annals) -> None:
    with pytest.raises(Failed, match="cannot be sent") as raised:
        annals(never, "command", "member.register", "-", stdin=b'{"name": "\xff"}')
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("given", "sent"),
    [("3", b"3"), ("NaN", b'"NaN"'), ("Infinity", b'"Infinity"'), ("[a", b'"[a"'), ('"3"', b'"3"')],
)
def test_a_value_is_json_or_else_a_text(annals: Annals, given: str, sent: bytes) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201, json={"stream": "member-n", "version": 1, "position": "0-1"})

    annals(answer, "command", "member.register", f"name={given}")
    assert asked[0].content == b'{"name":' + sent + b"}"
