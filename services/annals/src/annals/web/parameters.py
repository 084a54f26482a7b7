"""Refuses unknown query parameters, so that a misspelt one is not silently ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from starlette.datastructures import QueryParams

from annals.web.problems import malformed


async def _refuse_others(request: Request) -> None:
    require_known(request.query_params, tuple(_names(request.scope["route"].dependant)))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for one in dependant.dependencies:
        yield from _names(one)


REFUSE_UNKNOWN_PARAMETERS = Depends(_refuse_others)
"""Refuses parameters that the route and its dependencies do not declare, and repeated ones, as only one
of the values would be used."""


def require_known(given: QueryParams, once: Collection[str], often: Collection[str] = ()) -> None:
    """Raise a Problem for an unknown parameter, or a repeated one of `once`; those of `often` may repeat."""
    known = (*often, *once)
    for name in given:
        if name not in known:
            raise malformed(name, f"one of {', '.join(known)}" if known else "no parameters here")
        if name in once and len(given.getlist(name)) > 1:
            raise malformed(name, "to be given only once")
