"""Pages of rows, and the tokens that lead from one to the next."""

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

Limit = Annotated[int, Query(ge=1, le=500, description="rows on a page at most; fewer where they are large")]
# As long as of a page that is sorted by titles: 500 characters, each of which JSON writes with six at most.
Cursor = Annotated[str | None, Query(max_length=5_000, description="`next` of the page before")]


def encode_cursor(*values: Any) -> str:
    """An opaque token of where a page ended."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type[str] | type[datetime]) -> list[str | None]:
    """See `encode_cursor`; without one, as many times None. Raises a Problem for something else.

    All are texts that the database takes: a token may be anybody's own. A datetime, as PostgreSQL writes it,
    is given in UTC.
    """
    if cursor is None:
        return [None] * len(kinds)
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise malformed("cursor", "the `next` of a page before") from error
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
    """What `read` gives of so many rows, and of how many: half as many, each time that they are too large.

    Raises what `read` raises.
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
    """A page of what `read` gives of so many rows, or of as many as fit. Raises what `read` raises."""
    rows, size = await as_many_as_fit(read, limit)
    return page(rows, size, sort)


def page(rows: list[dict[str, Any]], limit: int, sort: str) -> dict[str, Any]:
    """A page of rows that were read with their `sort_key`, so many at most, and where the next begins."""
    last = rows[-1] if rows else {}
    return {
        "items": [row["row"] for row in rows],
        "next": encode_cursor(sort, last["sort_key"], last["id"]) if len(rows) == limit else None,
    }
