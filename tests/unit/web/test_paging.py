"""A cursor leads to the next page; a made-up cursor is refused before the database is asked."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI

from annals.dapr import StatementTooLarge
from annals.web.paging import Cursor, as_many_as_fit, decode_cursor, encode_cursor, page
from annals.web.problems import Problem


def test_a_page_goes_on_where_the_one_before_ended() -> None:
    cursor = encode_cursor("due", "2030-01-01 10:00:00.5+01", "t1")
    assert decode_cursor(cursor, str, datetime, str) == ["due", "2030-01-01T09:00:00.500000+00:00", "t1"]


def test_what_is_never_due_comes_last_and_leads_on_too() -> None:
    assert decode_cursor(encode_cursor("infinity", "t1"), datetime, str) == ["infinity", "t1"]


def test_the_first_page_has_no_token() -> None:
    assert decode_cursor(None, str, datetime) == [None, None]


@pytest.mark.parametrize("character", ["a", "ж", "界", "😀", "\x01"])
async def test_a_page_goes_on_after_the_longest_title(character: str) -> None:
    app = FastAPI()
    title, task = character * 500, "t" * 255

    @app.get("/")
    def after(cursor: Cursor) -> list[str | None]:
        return decode_cursor(cursor, str, str, str)

    rows = [{"row": {}, "sort_key": title, "id": task}]
    following = page(rows, 1, "title")["next"]
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://projector") as client:
        answer = await client.get("/", params={"cursor": following})
    assert answer.json() == ["title", title, task]


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


async def test_what_does_not_fit_on_a_page_is_on_the_next() -> None:
    rows = [{"row": number, "sort_key": "k", "id": str(number)} for number in range(100)]

    shown: list[int] = []

    async def read(size: int) -> list[dict[str, Any]]:
        found = rows[len(shown) : len(shown) + size]
        if len(found) > 30:
            raise StatementTooLarge("more than 30")
        return found

    cursor: str | None = ""
    while cursor is not None:
        found, size = await as_many_as_fit(read, 80)
        answer = page(found, size, "created_at")
        shown += answer["items"]
        cursor = answer["next"]
    assert shown == list(range(100))


async def test_a_single_row_that_is_too_large_is_said_to_be() -> None:
    async def read(_: int) -> Any:
        raise StatementTooLarge("too large")

    with pytest.raises(StatementTooLarge):
        await as_many_as_fit(read, 500)
