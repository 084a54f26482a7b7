"""Messages that a sidecar delivers in bulk."""

from __future__ import annotations

import pytest

from annals.web import Problem
from annals.web.deliveries import delivery
from fuzz.messages import nested

GOOD = b'{"specversion":"1.0","data":{"n":1.5,"m":7,"t":"\\u00e4"}}'


@pytest.mark.parametrize("depth", [900, 3_000, 9_000, 500_000])
def test_an_entry_that_is_nested_deeply_keeps_no_other_from_being_read(depth: int) -> None:
    deep, good = (b'{"entryId":"%s","event":%s}' % one for one in ((b"deep", nested(depth)), (b"good", GOOD)))
    first, second = delivery(b'{"entries":[' + deep + b"," + good + b"]}")["entries"]
    assert first["entryId"] == "deep"
    assert second == {
        "entryId": "good",
        "event": {"specversion": "1.0", "data": {"n": 1.5, "m": 7, "t": "ä"}},
    }
    assert type(second["event"]["data"]["n"]) is float


@pytest.mark.parametrize("body", [b"", b"{", b'{"entries":[' + nested(3_000), b"nothing", b"\xff"])
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Problem, match="not JSON"):
        delivery(body)


def test_entries_are_as_the_sidecar_sends_them() -> None:
    for entries in (b'"x"', b"[1]", b"[{}]", b'[{"entryId":1}]'):
        with pytest.raises(Problem):
            delivery(b'{"entries":' + entries + b',"more":' + nested(3_000) + b"}")
