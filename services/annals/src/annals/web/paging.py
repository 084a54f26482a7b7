"""Pages of rows, and the cursors that lead from one page to the next."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Query

from annals.dapr import StatementTooLarge
from annals.web.problems import malformed

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=500, description="the most rows on a page; fewer if they are large")]
# Enough for a page sorted by title: 500 characters, each of which JSON writes as six at most, in Base64.
Cursor = Annotated[str | None, Query(max_length=5_000, description="`next` of the previous page")]


def encode_cursor(*values: Any) -> str:
    """Return an opaque token for the place where a page ended."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type[str] | type[datetime]) -> list[str | None]:
    """Return a cursor's values, one of each kind, as texts; each is None if there is no cursor.

    A caller may forge a cursor, so each value is checked to be a text that the database accepts. A datetime
    comes as PostgreSQL writes it and is returned in UTC. Raises a Problem for a malformed cursor.
    """
    if cursor is None:
        return [None] * len(kinds)
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise malformed("cursor", "the `next` of an earlier page") from error
    try:
        return [_text(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (TypeError, ValueError, OverflowError) as error:
        raise malformed("cursor", "the `next` of a page of the same query") from error


def _text(value: Any, kind: type[str] | type[datetime]) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text that a database takes")
    if kind is str or value == "infinity":
        return value
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).isoformat()


async def as_many_as_fit(read: Callable[[int], Awaitable[T]], limit: int) -> tuple[T, int]:
    """Read `limit` rows, halving the limit while they are too large. Return the result and the limit used.

    Raises what `read` raises; StatementTooLarge only if a single row is too large.
    """
    while True:
        try:
            return await read(limit), limit
        except StatementTooLarge:
            if limit == 1:
                raise
            limit //= 2


async def page_that_fits(
    read: Callable[[int], Awaitable[list[dict[str, Any]]]], limit: int, sort: str
) -> dict[str, Any]:
    """Return a page of `limit` rows from `read`, or of as many as fit. Raises what `read` raises."""
    rows, size = await as_many_as_fit(read, limit)
    return page(rows, size, sort)


def page(rows: list[dict[str, Any]], limit: int, sort: str) -> dict[str, Any]:
    """Return a page of rows, which have a `sort_key`; a page of `limit` rows has a `next` cursor."""
    last = rows[-1] if rows else {}
    return {
        "items": [row["row"] for row in rows],
        "next": encode_cursor(sort, last["sort_key"], last["id"]) if len(rows) == limit else None,
    }
