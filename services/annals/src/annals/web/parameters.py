"""The parameters that a route's query has, and no others: a typing error shows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import Depends, Request
from starlette.datastructures import QueryParams

from annals.web.problems import malformed


def only(*known: str) -> Any:
    """A dependency that refuses any other, and one that comes twice: one of the two would not be heard."""

    def check(request: Request) -> None:
        require_known(request.query_params, known)

    return Depends(check)


def require_known(given: QueryParams, once: Collection[str], often: Collection[str] = ()) -> None:
    """Raise a Problem for parameters other than these; `often` may come more than once."""
    known = (*often, *once)
    for name in given:
        if name not in known:
            raise malformed(name, f"one of {', '.join(known)}" if known else "no parameters here")
        if name in once and len(given.getlist(name)) > 1:
            raise malformed(name, "to come once")
