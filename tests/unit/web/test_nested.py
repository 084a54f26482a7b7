"""Whatever is accepted can be answered: nesting is limited to what can be written again."""

from __future__ import annotations

import orjson
import pytest

from annals.web.problems import Problem
from annals.web.request_body import json_value


def nested(opens: bytes, closes: bytes, depth: int) -> bytes:
    return opens * depth + b"1" + closes * depth


KINDS = [(b'{"a":', b"}", 200), (b"[", b"]", 200), (b'[{"a":', b"}]", 100), (b"[1,", b",{}]", 199)]


@pytest.mark.parametrize(("opens", "closes", "deepest"), KINDS)
def test_what_is_nested_deeply_is_refused_before_it_cannot_be_written(
    opens: bytes, closes: bytes, deepest: int
) -> None:
    taken = json_value(nested(opens, closes, deepest))
    orjson.dumps({"items": [{"data": {"command": {"data": taken}}}], "next": None})
    for depth in (deepest + 1, 250, 300, 1_000, 100_000):
        with pytest.raises(Problem) as raised:
            json_value(nested(opens, closes, depth))
        assert (raised.value.status, raised.value.type) == (400, "malformed")


def test_many_things_side_by_side_are_not_nested() -> None:
    assert json_value(b"[" + b'{"a":[{}]},' * 1_000 + b"1]")[1] == {"a": [{}]}
    assert json_value(b'["' + b"[" * 1_000 + b'"]') == ["[" * 1_000]
