"""A token leads on to the next page; one that somebody made up is refused before the database is asked."""

from __future__ import annotations

import base64
from datetime import datetime

import orjson
import pytest

from annals.web.paging import decode_cursor, encode_cursor
from annals.web.problems import Problem


def test_a_page_goes_on_where_the_one_before_ended() -> None:
    cursor = encode_cursor("due", "2030-01-01 10:00:00.5+01", "t1")
    assert decode_cursor(cursor, str, datetime, str) == ["due", "2030-01-01T09:00:00.500000+00:00", "t1"]


def test_what_is_never_due_comes_last_and_leads_on_too() -> None:
    assert decode_cursor(encode_cursor("infinity", "t1"), datetime, str) == ["infinity", "t1"]


def test_the_first_page_has_no_token() -> None:
    assert decode_cursor(None, str, datetime) == [None, None]


@pytest.mark.parametrize(
    "values",
    [
        "text",
        {"a": "b"},
        7,
        ["2030-01-01T00:00:00Z"],
        ["2030-01-01T00:00:00Z", "t1", "t2"],
        [None, "t1"],
        [1, "t1"],
        ["soon", "t1"],
        ["2030-13-01T00:00:00Z", "t1"],
        ["2030-01-01T00:00:00", "t1"],
        ["0001-01-01T00:00:00+10:00", "t1"],
        ["2030-01-01T00:00:00Z", "t\0"],
    ],
)
def test_what_no_page_ended_with_is_refused(values: object) -> None:
    cursor = base64.urlsafe_b64encode(orjson.dumps(values)).decode()
    with pytest.raises(Problem) as refused:
        decode_cursor(cursor, datetime, str)
    assert refused.value.status == 400
    assert refused.value.fields["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize("cursor", ["", "%%%", "é", "a", "bm8gSlNPTg"])
def test_what_is_no_token_is_refused(cursor: str) -> None:
    with pytest.raises(Problem):
        decode_cursor(cursor, str)
