"""Messages that nobody should send, both as delivered bodies and as published messages."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_TEXTS = ("", "\0", "x" * 300, "../../etc", "'; DROP TABLE tasks; --", "\u202e", "2030-01-01")
_MOMENTS = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
_ODD = _JSON | st.sampled_from((-1, 0, 2**31, 2**53, 2**63, 1e300, *_TEXTS, *_MOMENTS))


def nested(depth: int) -> bytes:
    """Return a JSON object nested `depth` deep."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def cloudevent(data: Any) -> dict[str, Any]:
    """Wrap an envelope in a CloudEvent."""
    return {"specversion": "1.0", "id": "fuzz", "type": "fuzz.ed", "source": "fuzz", "data": data}


def encoded(data: Any) -> bytes:
    """Return a CloudEvent as it is sent."""
    return json.dumps(cloudevent(data)).encode()


KNOWN: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "no JSON": lambda _: b"{",
    "a number": lambda _: b"1",
    "null": lambda _: b"null",
    "nothing": lambda _: b"",
    "NaN": lambda _: b'{"specversion":"1.0","data":{"a":NaN}}',
    "a lone surrogate": lambda _: b'{"specversion":"1.0","data":{"a":"\\ud800"}}',
    "no data": lambda _: b'{"specversion":"1.0","id":"1","type":"a.b","source":"x"}',
    "another specversion": lambda good: json.dumps(
        cloudevent(good | {"version": "7"}) | {"specversion": "0.3"}
    ).encode(),
    "nested 300 deep": lambda _: b'{"specversion":"1.0","data":' + nested(300) + b"}",
    "nested 1,000 deep": lambda _: b'{"specversion":"1.0","data":' + nested(1_000) + b"}",
    "nested 3,000 deep": lambda _: b'{"specversion":"1.0","data":' + nested(3_000) + b"}",
    "a tenant that cannot be": lambda good: encoded(good | {"tenant_id": "No/../Such"}),
    "a moment before the calendar": lambda good: encoded(good | {"timestamp": "0001-01-01T00:00:00+14:00"}),
    "a version far ahead": lambda good: encoded(good | {"version": 10**7}),
    "a version of no stream": lambda good: encoded(good | {"aggregate_id": "nowhere", "version": 10**7}),
    "a lane that cannot be": lambda good: encoded(good | {"aggregate_id": "nolane", "lane": 2**40}),
    "a NUL": lambda good: encoded(good | {"version": 2, "data": {"changes": {"title": "a\0b"}}}),
    "900 kB": lambda good: encoded(good | {"version": "x" * 900_000}),
}


@st.composite
def mutated(draw: st.DrawFn, good: dict[str, Any]) -> dict[str, Any]:
    """Draw a good envelope with some fields missing or odd; it never passes for an event of its stream."""
    envelope = copy.deepcopy(good)
    for name in draw(st.lists(st.sampled_from(sorted(good)), min_size=1, max_size=3, unique=True)):
        if draw(st.booleans()):
            envelope.pop(name)
        else:
            envelope[name] = draw(_ODD)
    # The event of a stream that does not exist: even if it is taken, it changes nothing that the tests check.
    if "aggregate_id" in envelope and envelope["aggregate_id"] == good["aggregate_id"]:
        envelope["aggregate_id"] = "fuzzed"
    return envelope
