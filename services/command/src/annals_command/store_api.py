"""The `/store` routes: operators inspect the event store's lanes, export the store and fill an empty one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated

import orjson
import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from annals.dapr import DaprError, DaprSidecar
from annals.store import ALL_LANES, DaprEventReader, Export, NotImportable, Restore, StoreError
from annals.store.lease import Lease, Leases
from annals.store.protocol import Fold
from annals.web import Problem
from annals.web.answers import Answer
from annals.web.openapi import text_body
from annals.web.problems import unavailable

_log = structlog.get_logger(__name__)


class LaneNow(Answer):
    """A lane of the event store."""

    lane: int
    owner: str | None
    """The replica that holds the lane's lease and writes it; null if none does."""
    tail: int
    """How many commits the lane has."""
    published: int
    backlog: int
    """How many commits wait for the broker."""


class LanesNow(Answer):
    """All lanes that were ever leased or written, and how many commits wait for the broker in total."""

    items: list[LaneNow]
    backlog: int


class Imported(Answer):
    """How many commits of the request the store did not have yet."""

    commits: int


def routes(sidecar: DaprSidecar, store: str, fold: Fold) -> APIRouter:
    """Return the `/store` router; `fold` computes the states of imported streams."""
    router = APIRouter(prefix="/store", tags=["store"])
    leases = Leases(sidecar, store, owner="", lanes=ALL_LANES)
    reader = DaprEventReader(sidecar, store)
    restore = Restore(sidecar, store, fold)

    async def described(lane: int, lease: Lease | None) -> LaneNow:
        tail, published = await asyncio.gather(leases.tail(lane), leases.published(lane))
        return LaneNow(
            lane=lane,
            owner=(lease.owner or None) if lease is not None and not lease.free(time.time()) else None,
            tail=tail,
            published=published,
            backlog=max(0, tail - published),
        )

    @router.get(
        "/lanes", summary="List the lanes: who writes them, how long they are, how much waits for the broker"
    )
    async def lanes() -> LanesNow:
        with _problems():
            leased, written = await asyncio.gather(leases.read(), reader.tails(certain=False))
            # A lane that an import filled may never have been leased.
            held = dict.fromkeys(written) | {lane: lease for lane, (lease, _) in leased.items()}
            items = await asyncio.gather(*(described(lane, held[lane]) for lane in sorted(held)))
        return LanesNow(items=items, backlog=sum(item.backlog for item in items))

    @router.get(
        "/export", summary="Export everything in the store, as JSON lines", response_class=StreamingResponse
    )
    async def export(
        keys: Annotated[bool, Query(description="with the wrapped keys of personal data")] = False,
    ) -> StreamingResponse:
        """An export without a line `end` is incomplete; a line `failed`, if there is one, says why."""
        pages = Export(sidecar, store, with_keys=keys).pages()
        with _problems():
            first = await anext(pages)
        return StreamingResponse(_until_failure(first, pages), media_type="application/x-ndjson")

    @router.post(
        "/import",
        summary="Import lines of an export into an empty store",
        openapi_extra=text_body("application/x-ndjson"),
    )
    async def import_(request: Request) -> Imported:
        """Send the lines in order, some per request. The first must include the first commit of each lane."""
        with _problems():
            return Imported(commits=await restore.apply(await request.body()))

    return router


async def _until_failure(first: bytes, pages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for page in pages:
            yield page
    except (DaprError, StoreError) as error:
        _log.error("an export was broken off", error=str(error))
        yield orjson.dumps({"failed": str(error)}) + b"\n"  # the response has begun: no problem can follow


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except NotImportable as error:
        raise Problem(409, "not-importable", str(error)) from error
    except (DaprError, StoreError) as error:
        raise unavailable(str(error)) from error
