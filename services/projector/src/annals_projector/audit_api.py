"""The routes by which operators verify that nothing was altered; they cover all tenants."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from annals.audit import Finding, ReadCheckpoints, ReadLast, VerificationKeys, verify
from annals.dapr import DaprError
from annals.store import DaprEventReader, StoreError
from annals.web import Problem
from annals.web.answers import Answer
from annals.web.problems import unavailable

_LATE = timedelta(minutes=5)


class SignedLane(Answer):
    """How far a lane is signed."""

    lane: int
    tail: int
    signed: int
    signed_at: datetime | None
    late: bool
    """Whether the oldest unsigned commit is older than five minutes, or is missing."""


class SignedLanes(Answer):
    """How far each lane that was ever written is signed."""

    items: list[SignedLane]


def routes(
    store: DaprEventReader,
    read_checkpoints: ReadCheckpoints,
    last_checkpoint: ReadLast,
    public_keys: Callable[[], Awaitable[str]],
) -> APIRouter:
    """Return the routes `/audit/verification` and `/audit/checkpoints`."""
    router = APIRouter(prefix="/audit", tags=["audit"])

    @router.get(
        "/verification",
        summary="Verify every event, its hash chain and the signed checkpoints; progress as JSON lines",
        response_class=StreamingResponse,
    )
    async def verification() -> StreamingResponse:
        """JSON lines: some with `progress`, and one with `finding` for each lane that is not intact.

        The last line has the `result`, or an `error` if the store could not be read to its end.
        """
        try:
            trusted = VerificationKeys(await public_keys())
            lanes, importing = await store.reached(), await store.half_imported()
        except (DaprError, StoreError) as error:
            raise unavailable(str(error)) from error
        except ValueError as error:
            raise Problem(500, "misconfigured", f"the audit's public keys: {error}") from error
        if importing:
            wanted = ", ".join(f"lane {lane} up to {end}" for lane, end in importing.items())
            raise unavailable(f"a backup is being imported, or its import was broken off: {wanted}")
        return StreamingResponse(
            _lines(store, read_checkpoints, last_checkpoint, trusted, lanes),
            media_type="application/x-ndjson",
        )

    @router.get("/checkpoints", summary="How far each lane is signed")
    async def checkpoints() -> SignedLanes:
        try:
            tails = await store.reached(certain=False)
            items = [await described(lane, tail) for lane, tail in tails.items()]
        except (DaprError, StoreError) as error:
            raise unavailable(str(error)) from error
        return SignedLanes(items=items)

    async def described(lane: int, tail: int) -> SignedLane:
        last = await last_checkpoint(lane)
        signed = last.seq if last else 0
        unsigned = await store.read_log(lane, signed + 1, signed + 1)
        missing = not unsigned and tail > signed and not await store.being_imported([lane])
        return SignedLane(
            lane=lane,
            tail=tail,
            signed=signed,
            signed_at=last.time if last else None,
            late=missing or any(datetime.now(UTC) - commit.time > _LATE for commit in unsigned),
        )

    return router


async def _lines(
    store: DaprEventReader,
    read_checkpoints: ReadCheckpoints,
    last_checkpoint: ReadLast,
    trusted: VerificationKeys,
    lanes: dict[int, int],
) -> AsyncIterator[bytes]:
    """Yield the lines of a verification. If the store cannot be read, an `error` replaces the `result`."""
    verified: dict[int, dict[str, int]] = {}
    findings, events = [], 0
    try:
        async for said in verify(store, read_checkpoints, last_checkpoint, trusted):
            if isinstance(said, Finding):
                findings.append(dataclasses.asdict(said))
                yield _line({"finding": findings[-1]})
            else:
                events = said.events
                verified[said.lane] = {"seq": said.seq, "signed": said.signed}
                yield _line({"progress": dataclasses.asdict(said) | {"of": lanes.get(said.lane, said.seq)}})
    except (DaprError, StoreError) as error:
        yield _line({"error": str(error)})
    else:
        result = {"ok": not findings, "events": events, "lanes": verified, "findings": findings}
        yield _line({"result": result})


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n"
