"""What operators do with the event store: see its lanes, back it up, fill an empty one."""

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
    """A lane of the store."""

    lane: int
    owner: str | None
    """The replica that writes it."""
    tail: int
    """How many commits it has."""
    published: int
    backlog: int
    """How many wait for the broker."""


class LanesNow(Answer):
    """All lanes that were ever written, and what waits for the broker in all of them."""

    items: list[LaneNow]
    backlog: int


class Imported(Answer):
    """How many commits a request brought."""

    commits: int


def routes(sidecar: DaprSidecar, store: str, fold: Fold) -> APIRouter:
    """`/store`."""
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

    @router.get("/lanes", summary="The lanes: who writes them, how long they are, what waits for the broker")
    async def lanes() -> LanesNow:
        with _problems():
            leased, written = await asyncio.gather(leases.read(), reader.tails(certain=False))
            # Nobody ever leased what an import brought.
            held = dict.fromkeys(written) | {lane: lease for lane, (lease, _) in leased.items()}
            items = await asyncio.gather(*(described(lane, held[lane]) for lane in sorted(held)))
        return LanesNow(items=items, backlog=sum(item.backlog for item in items))

    @router.get("/export", summary="Everything in the store, as JSON lines", response_class=StreamingResponse)
    async def export(
        keys: Annotated[bool, Query(description="with the wrapped keys of personal data")] = False,
    ) -> StreamingResponse:
        """A file that has no line with `end` was cut off; where there is one with `failed`, it says why."""
        pages = Export(sidecar, store, with_keys=keys).pages()
        with _problems():
            first = await anext(pages)
        return StreamingResponse(_until_failure(first, pages), media_type="application/x-ndjson")

    @router.post(
        "/import",
        summary="Take lines of an export into an empty store",
        openapi_extra=text_body("application/x-ndjson"),
    )
    async def import_(request: Request) -> Imported:
        """The first request brings the lines up to the first commit of every lane; the others, a few each."""
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
        yield orjson.dumps({"failed": str(error)}) + b"\n"  # it is too late to answer anything else


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except NotImportable as error:
        raise Problem(409, "not-importable", str(error)) from error
    except (DaprError, StoreError) as error:
        raise unavailable(str(error)) from error
