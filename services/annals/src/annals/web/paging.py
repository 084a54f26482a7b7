"""Pages of rows, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import orjson
from fastapi import Query

from annals.web.problems import malformed

Limit = Annotated[int, Query(ge=1, le=500, description="rows on a page")]
Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]


def encode_cursor(*values: Any) -> str:
    """An opaque token of where a page ended."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type) -> list[Any]:
    """See `encode_cursor`; without one, as many times None. Raises a Problem for something else."""
    if cursor is None:
        return [None] * len(kinds)
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise malformed("cursor", "the `next` of a page before") from error
    if (
        not isinstance(values, list)
        or len(values) != len(kinds)
        or not all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True))
    ):
        raise malformed("cursor", "the `next` of a page of the same query")
    return values


def page(rows: list[dict[str, Any]], limit: int, sort: str) -> dict[str, Any]:
    """A page of rows that were read with their `sort_key`, and where the next begins."""
    last = rows[-1] if rows else {}
    return {
        "items": [row["row"] for row in rows],
        "next": encode_cursor(sort, last["sort_key"], last["id"]) if len(rows) == limit else None,
    }
