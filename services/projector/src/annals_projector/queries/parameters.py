"""What queries share: the tenant, and the position that they wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Query

from annals.events import Position
from annals.projections import Visibility
from annals.projections.visibility import NotVisible
from annals.store import DaprEventReader
from annals.web import Problem
from annals.web.problems import malformed
from annals.web.request_context import tenant_of

_CAUGHT_UP_SECONDS = 20.0  # less than the 30 that the console waits for an answer to begin

T = TypeVar("T")
Tenant = Annotated[str, Depends(tenant_of)]


class Disclose(Protocol):
    """Makes a tenant's personal data readable; see `annals.privacy.SubjectKeys.disclose`."""

    async def __call__(self, tenant: str, value: T, /) -> T:
        """Return the value in clear text, with None for erased subjects. Raises StoreUnavailable."""
        ...


class UpToDate:
    """A dependency that waits for the position a caller names, so that callers read their own writes."""

    def __init__(self, visibility: Visibility, seconds: Callable[[], float]) -> None:
        self._visibility = visibility
        self._seconds = seconds

    async def __call__(
        self, position: Annotated[str | None, Query(description="wait until this position is visible")] = None
    ) -> None:
        """Wait for the position. Raises a Problem: 400 if it is malformed, 504 if it takes too long."""
        if position is None:
            return
        try:
            parsed = Position.parse(position)
        except ValueError as error:
            raise malformed("position", str(error)) from error
        with _behind():
            await self._visibility.wait(parsed, self._seconds())


async def caught_up(visibility: Visibility, store: DaprEventReader) -> None:
    """Wait until everything in the store is visible, for an answer that must be complete.

    Raises a Problem if it takes too long, and StoreUnavailable.
    """
    reached = await store.reached()
    with _behind():
        await visibility.wait_for_all(reached, _CAUGHT_UP_SECONDS)


@contextmanager
def _behind() -> Iterator[None]:
    try:
        yield
    except NotVisible as error:
        raise Problem(504, "behind", str(error), headers={"Retry-After": "1"}) from error
