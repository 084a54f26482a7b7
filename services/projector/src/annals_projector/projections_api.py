"""The routes by which operators inspect, rebuild and switch read models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from annals.dapr import DaprError, Database, DatabaseError
from annals.deadletters import DeadLetters, DeadLettersDamaged, DeadLettersUnknown
from annals.projections import Builder, Generation, Generations, GenerationStatus, Projection, difference
from annals.projections.builder import NEAR_COMMITS
from annals.projections.generations import CatalogueEntry
from annals.projections.sweeper import CHECKPOINTS
from annals.store import StoreError, Undecodable
from annals.store.dapr_store import DaprEventReader
from annals.web import Problem
from annals.web.operations import Operations, OptionalReason
from annals.web.problems import damaged, unavailable
from annals.web.request_context import tenant_of
from annals_projector.projections_answers import (
    Begun,
    Commits,
    Definition,
    Difference,
    Dropped,
    GenerationNow,
    LaneNow,
    Live,
    ReadModelNow,
    ReadModelsNow,
    Status,
)

Tenant = Annotated[str, Depends(tenant_of)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Throttling = Annotated[int, Field(ge=1, le=1_000_000, description="the most events a second")]


class Rebuild(BaseModel):
    """How to build a generation."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(default="asked for", min_length=1, max_length=200, pattern=r"^[^$\\\x00]*$")
    throttle: Throttling | None = None


class Throttle(BaseModel):
    """The limit on building a generation; null removes it."""

    model_config = ConfigDict(extra="forbid")
    throttle: Throttling | None


def routes(
    database: Database,
    store: DaprEventReader,
    generations: Generations,
    builder: Builder,
    dead_letters: DeadLetters,
    operations: Operations,
) -> APIRouter:
    """Return the routes under `/projections`. What operators change is recorded in the audit trail."""
    router = APIRouter(prefix="/projections", tags=["projections"])
    comparing: dict[tuple[str, str, str], asyncio.Task[dict[str, Any]]] = {}

    async def fresh() -> None:
        with _problems():
            await generations.refresh()

    def find(read_model: str, number: int) -> CatalogueEntry:
        known = generations.find(read_model, number)
        if known is None:
            raise Problem(404, "not-found", f"{read_model} has no generation {number}")
        return known

    def live(read_model: str) -> CatalogueEntry:
        for one in generations.all:
            if one.read_model == read_model and one.status is GenerationStatus.LIVE:
                return one
        raise Problem(409, "conflict", f"{read_model} has no live generation to compare with")

    def own(known: CatalogueEntry) -> Generation:
        generation = generations.generation(known)
        if generation is None:
            raise Problem(409, "conflict", f"this replica cannot read the table: {known.unfilled}")
        return generation

    def described(known: CatalogueEntry, tails: dict[int, int]) -> GenerationNow:
        filled = known.status is not GenerationStatus.LIVE
        return GenerationNow(
            number=known.number,
            version=known.version,
            status=known.status,
            reason=known.reason,
            throttle=known.throttle,
            started_at=known.started_at,
            caught_up=known.caught_up,
            commits=_commits(known, tails) if filled else None,
        )

    def require(read_model: str, number: int, wanted: GenerationStatus) -> None:
        """Raise a Problem if another change came first or since: an operator's, or an automatic switch."""
        known = generations.find(read_model, number)
        now = GenerationStatus.DROPPED if known is None else known.status
        if now is not wanted:
            raise Problem(409, "conflict", f"the generation is {now} now, by another change at the same time")

    async def record(
        request: Request, action: str, read_model: str, number: int, body: OptionalReason = None
    ) -> None:
        target = f"{read_model}, generation {number}"
        await operations.requested(request, action, target, body.reason if body else None)

    async def change(
        read_model: str, number: int, expected: GenerationStatus, to: GenerationStatus
    ) -> Status:
        await fresh()
        known = find(read_model, number)
        if known.status not in (expected, to):
            raise Problem(409, "conflict", f"the generation is {known.status}, not {expected}")
        with _problems():
            await generations.set_status(known, to)
        require(read_model, number, to)
        builder.look()
        return Status(status=to)

    @router.get("", summary="The read models: which generation answers, how far each is, what is parked")
    async def listing(tenant: Tenant) -> ReadModelsNow:
        await fresh()
        with _problems():
            tails = await store.reached(certain=False)
            checkpoints = await database.fetch(CHECKPOINTS)
            await dead_letters.refresh()
        letters = dead_letters.parked(tenant)
        positions = {int(lane): seq for lane, seq in checkpoints.items()}
        items = []
        for name in sorted({one.read_model for one in generations.all}):
            own = [one for one in generations.all if one.read_model == name]
            newest = generations.newest(name)
            items.append(
                ReadModelNow(
                    name=name,
                    version=newest.version if newest else None,
                    definition=_definition(newest) if newest else None,
                    parked=sum(letter.consumer == name for letter in letters),
                    generations=[described(one, tails) for one in own],
                )
            )
        lanes = [LaneNow(lane=lane, seq=positions.get(lane, 0), tail=tail) for lane, tail in tails.items()]
        return ReadModelsNow(
            items=items, lag=sum(max(0, lane.tail - lane.seq) for lane in lanes), positions=lanes
        )

    @router.post("/{read_model}/rebuild", status_code=202, summary="Build a new generation from the store")
    async def rebuild(request: Request, read_model: str, body: Rebuild) -> Begun:
        projection = generations.newest(read_model)
        if projection is None:
            raise Problem(404, "not-found", f"there is no read model {read_model}")
        await fresh()
        for one in generations.all:
            if (one.read_model, one.version, one.status) == (
                read_model,
                projection.version,
                GenerationStatus.PAUSED,
            ):
                said = f"generation {one.number} is paused: resume it, or drop it first"
                raise Problem(409, "conflict", said)
        await operations.requested(request, "rebuild", read_model, body.reason)
        with _problems():
            number = await generations.create(projection, body.reason)
            if body.throttle is not None:
                await generations.throttle(find(read_model, number), body.throttle)
        builder.look()
        return Begun(read_model=read_model, number=number)

    @router.get("/{read_model}/generations/{number}", summary="One generation, and how far it is")
    async def generation(read_model: str, number: Number) -> GenerationNow:
        await fresh()
        with _problems():
            return described(find(read_model, number), await store.reached(certain=False))

    @router.get("/{read_model}/generations/{number}/difference", summary="What differs from the live one")
    async def compared(tenant: Tenant, read_model: str, number: Number) -> Difference:
        await fresh()
        new, old = own(find(read_model, number)), own(live(read_model))
        # A comparison may take minutes, and holds one of the few connections, which queries need too. So one
        # runs at a time, for all who ask for it meanwhile. It goes on if one of them, such as the console,
        # stops waiting.
        asked = (tenant, old.name, new.name)
        if asked not in comparing:
            if comparing:
                detail = "another comparison is running: ask again when it has ended"
                raise Problem(503, "busy", detail, headers={"Retry-After": "10"})
            pair = ((old.projection.table, old.number), (new.projection.table, new.number))
            comparing[asked] = asyncio.create_task(difference(database, tenant, *pair))
            comparing[asked].add_done_callback(lambda _: comparing.pop(asked))
        with _problems():
            found = await asyncio.shield(comparing[asked])
            await dead_letters.refresh()
        parked = sum(dead_letters.parked_in(read_model, one.number) for one in (old, new))
        return Difference.model_validate(found | {"parked": parked})

    @router.post("/{read_model}/generations/{number}/pause", summary="Pause the building of a generation")
    async def pause(request: Request, read_model: str, number: Number, body: OptionalReason = None) -> Status:
        await record(request, "pause", read_model, number, body)
        return await change(read_model, number, GenerationStatus.BUILDING, GenerationStatus.PAUSED)

    @router.post("/{read_model}/generations/{number}/resume", summary="Resume the building of a generation")
    async def resume(
        request: Request, read_model: str, number: Number, body: OptionalReason = None
    ) -> Status:
        await record(request, "resume", read_model, number, body)
        return await change(read_model, number, GenerationStatus.PAUSED, GenerationStatus.BUILDING)

    @router.put("/{read_model}/generations/{number}/throttle", summary="Limit the building of a generation")
    async def throttle(request: Request, read_model: str, number: Number, body: Throttle) -> Throttle:
        await fresh()
        await record(request, f"throttle to {body.throttle or 'nothing'}", read_model, number)
        with _problems():
            await generations.throttle(find(read_model, number), body.throttle)
        return body

    @router.delete("/{read_model}/generations/{number}", summary="Cancel a building, or drop a generation")
    async def drop(request: Request, read_model: str, number: Number, body: OptionalReason = None) -> Dropped:
        await fresh()
        known = find(read_model, number)
        if known.status is GenerationStatus.LIVE and generations.newest(read_model) is not None:
            raise Problem(
                409, "conflict", "the generation answers queries: switch to another first, or retire it"
            )
        await record(request, "drop", read_model, number, body)
        with _problems():
            await generations.set_status(known, GenerationStatus.DROPPED)
        require(read_model, number, GenerationStatus.DROPPED)
        return Dropped(dropped=number)

    @router.post("/{read_model}/generations/{number}/switch", summary="Have a generation answer queries")
    async def switch(request: Request, read_model: str, number: Number, body: OptionalReason = None) -> Live:
        await fresh()
        known = find(read_model, number)
        if not known.caught_up and known.status is not GenerationStatus.LIVE:
            raise Problem(409, "conflict", "the generation has not caught up with the store yet")
        if generations.generation(known) is None and not known.filled:
            # No replica could fill it then, and none would be ready to take the command to switch back.
            detail = f"no running projector fills the generation, so start one first: {known.unfilled}"
            raise Problem(409, "conflict", detail)
        if known.status is not GenerationStatus.LIVE:
            with _problems():
                commits = _commits(known, await store.reached())
            if (behind := commits.total - commits.done) > NEAR_COMMITS:
                # It had caught up once, but has not been kept up to date since.
                detail = f"the generation is {behind} commits behind the store: switch when it has caught up"
                paused = known.status is GenerationStatus.PAUSED
                raise Problem(409, "conflict", f"{detail}; it is paused" if paused else detail)
        await record(request, "switch", read_model, number, body)
        with _problems():
            await generations.switch(known)
        require(read_model, number, GenerationStatus.LIVE)
        return Live(live=number)

    @router.post(
        "/{read_model}/generations/{number}/retire",
        summary="Retire a read model, before a release that does not have it",
    )
    async def retire(
        request: Request, read_model: str, number: Number, body: OptionalReason = None
    ) -> Status:
        await fresh()
        known = find(read_model, number)
        if known.status not in (GenerationStatus.LIVE, GenerationStatus.RETIRED):
            raise Problem(409, "conflict", f"the generation is {known.status}, not {GenerationStatus.LIVE}")
        await record(request, "retire", read_model, number, body)
        with _problems():
            await generations.retire(known)
        require(read_model, number, GenerationStatus.RETIRED)
        return Status(status=GenerationStatus.RETIRED)

    return router


def _commits(known: CatalogueEntry, tails: dict[int, int]) -> Commits:
    done = sum(min(seq, tails.get(lane, 0)) for lane, seq in known.progress.items())
    return Commits(done=done, total=sum(tails.values()))


def _definition(projection: Projection) -> Definition:
    table = projection.table
    return Definition(
        aggregate_type=projection.aggregate_type,
        columns=dict(table.columns),
        indexes=list(table.indexes),
        events=sorted(projection.changes),
    )


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except (DeadLettersDamaged, Undecodable) as error:
        raise damaged(error) from error
    except (DatabaseError, StoreError, DaprError, DeadLettersUnknown) as error:
        raise unavailable(f"the read models cannot be read or changed now: {error}") from error
