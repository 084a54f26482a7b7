"""What queries share: who asks, from when on, which page."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import orjson
from fastapi import Depends, Query, Request

from annals.events import Position
from annals.projections import Visibility
from annals.projections.visibility import NotVisible
from annals.web import Problem
from annals.web.request_context import tenant_of

Tenant = Annotated[str, Depends(tenant_of)]
Limit = Annotated[int, Query(ge=1, le=500, description="rows on a page")]
Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]


class UpToDate:
    """A dependency that waits for the position a caller names, so that it reads its own writes."""

    def __init__(self, visibility: Visibility, seconds: float) -> None:
        self._visibility = visibility
        self._seconds = seconds

    async def __call__(
        self, position: Annotated[str | None, Query(description="wait until this position is visible")] = None
    ) -> None:
        """Wait. Raises a Problem: 400 for what is no position, 504 when it takes too long."""
        if position is None:
            return
        try:
            parsed = Position.parse(position)
        except ValueError as error:
            raise bad("position", str(error)) from error
        try:
            await self._visibility.wait(parsed, self._seconds)
        except NotVisible as error:
            raise Problem(504, "behind", str(error), headers={"Retry-After": "1"}) from error


def only(*known: str) -> Any:
    """A dependency that refuses parameters that a query does not have: a typing error shows."""

    def check(request: Request) -> None:
        for name in request.query_params:
            if name not in known and name != "position":
                raise bad(name, f"one of {', '.join(known)}")

    return Depends(check)


def bad(field: str, expected: str) -> Problem:
    """A 400 about one parameter."""
    return Problem(
        400, "malformed", "a parameter is not as expected", errors=[{"field": field, "expected": expected}]
    )


def encode_cursor(*values: Any) -> str:
    """An opaque token of where a page ended."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> list[Any]:
    """See `encode_cursor`. Raises a Problem for a token of something else."""
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise bad("cursor", "the `next` of a page before") from error
    if (
        not isinstance(values, list)
        or len(values) != len(kinds)
        or not all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True))
    ):
        raise bad("cursor", "the `next` of a page of the same query")
    return values


def page(rows: list[dict[str, Any]], limit: int, sort: str) -> dict[str, Any]:
    """A page of rows that were read with their `sort_key`, and where the next begins."""
    last = rows[-1] if rows else {}
    return {
        "items": [row["row"] for row in rows],
        "next": encode_cursor(sort, last["sort_key"], last["id"]) if len(rows) == limit else None,
    }
