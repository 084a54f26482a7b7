"""Which generations operators may switch to, and which not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from annals.projections import Generation, GenerationStatus, Projection
from annals.projections.generations import CatalogueEntry
from annals.store import StoreUnavailable, Undecodable
from annals.web import Problem
from annals.web.problems import on_problem
from annals_projector import projections_api
from annals_projector.read_models import TASKS


class World:
    """As much of the catalogue, the store and the audit trail as a switch looks at."""

    def __init__(self, status: GenerationStatus, seq: int) -> None:
        since = "2030-01-01T00:00:00Z"
        self.known = CatalogueEntry(
            "tasks", 2, 1, status, "a test", False, None, True, since, False, {0: seq}
        )
        self.switched: list[int] = []
        self.retired: list[int] = []
        self.knows = True
        self.recorded = 0
        self.fails: Exception | None = None
        """What comes of the look at the store."""
        self.meanwhile: GenerationStatus | None = None
        """The status that another replica sets just before the switch, which then does nothing."""

    async def refresh(self) -> None:
        pass

    def find(self, _read_model: str, _number: int) -> CatalogueEntry | None:
        return None if self.known.status is GenerationStatus.DROPPED else self.known

    def newest(self, _read_model: str) -> Projection:
        return TASKS

    def look(self) -> None:
        pass

    def generation(self, known: CatalogueEntry) -> Generation | None:
        return Generation(TASKS, known.number) if self.knows else None

    async def reached(self, **_: bool) -> dict[int, int]:
        if self.fails is not None:
            raise self.fails
        return {0: 10_000}

    async def requested(self, *_: object) -> None:
        self.recorded += 1

    async def create(self, _projection: Projection, _reason: str) -> int:
        return self.known.number

    @property
    def all(self) -> list[CatalogueEntry]:
        return [self.known]

    async def switch(self, to: CatalogueEntry) -> None:
        self.switched.append(to.number)
        self._becomes(GenerationStatus.LIVE)

    async def retire(self, known: CatalogueEntry) -> None:
        self.retired.append(known.number)
        self._becomes(GenerationStatus.RETIRED)

    async def set_status(self, _known: CatalogueEntry, status: GenerationStatus) -> None:
        self._becomes(status)

    def _becomes(self, status: GenerationStatus) -> None:
        self.known = replace(self.known, status=self.meanwhile or status)

    async def asked(self, what: str) -> httpx.Response:
        made: Any = self
        app = FastAPI()
        app.add_exception_handler(Problem, on_problem)
        app.include_router(projections_api.routes(made, made, made, made, made, made))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://projector") as client:
            if what == "drop":
                return await client.delete("/projections/tasks/generations/2")
            if what == "rebuild":
                return await client.post("/projections/tasks/rebuild", json={})
            if what == "difference":
                return await client.get("/projections/tasks/generations/2/difference")
            return await client.post(f"/projections/tasks/generations/2/{what}")


@pytest.mark.parametrize(
    ("status", "seq", "switches"),
    [
        (GenerationStatus.RETIRED, 10_000, True),
        (GenerationStatus.RETIRED, 6_000, True),
        (GenerationStatus.RETIRED, 5_999, False),
        (GenerationStatus.PAUSED, 5_999, False),
        # It already answers queries, and deliveries fill it.
        (GenerationStatus.LIVE, 0, True),
    ],
)
async def test_what_is_far_behind_the_store_is_not_switched_to(
    status: GenerationStatus, seq: int, switches: bool
) -> None:
    world = World(status, seq)
    answer = await world.asked("switch")
    assert answer.status_code == (200 if switches else 409)
    assert world.switched == ([2] if switches else [])
    if not switches:
        assert "4001 commits behind" in answer.json()["detail"]


@pytest.mark.parametrize("filled", [True, False])
async def test_a_version_that_this_replica_does_not_know_is_switched_to_where_another_does(
    filled: bool,
) -> None:
    world = World(GenerationStatus.RETIRED, 10_000)
    world.knows, world.known = False, replace(world.known, filled=filled)
    answer = await world.asked("switch")
    assert answer.status_code == (200 if filled else 409)
    assert world.switched == ([2] if filled else [])
    if not filled:
        said = "no running projector fills the generation, so start one first: "
        assert answer.json()["detail"] == f"{said}this code does not know version 1 of tasks"


async def test_a_generation_whose_table_lacks_a_column_is_neither_switched_to_nor_compared() -> None:
    world = World(GenerationStatus.RETIRED, 10_000)
    world.knows, world.known = False, replace(world.known, lacks=("busy",))
    for asked in ("switch", "difference"):
        answer = await world.asked(asked)
        assert answer.status_code == 409
        assert "not the columns busy: give the projection a higher version" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fails", "detail", "seconds"),
    [
        (Undecodable("lane/0/lease", ValueError("not JSON")), "it is damaged", "60"),
        (StoreUnavailable("it is away"), "cannot be read or changed now: it is away", "2"),
    ],
)
async def test_what_is_damaged_is_not_called_away(fails: Exception, detail: str, seconds: str) -> None:
    world = World(GenerationStatus.RETIRED, 10_000)
    world.fails = fails
    answer = await world.asked("switch")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, seconds)
    assert detail in answer.json()["detail"]
    assert ("cannot be read or changed now" in answer.json()["detail"]) == (seconds == "2")


@pytest.mark.parametrize(
    ("status", "retires"), [(GenerationStatus.LIVE, True), (GenerationStatus.BUILDING, False)]
)
async def test_what_answers_may_be_retired(status: GenerationStatus, retires: bool) -> None:
    world = World(status, 10_000)
    answer = await world.asked("retire")
    assert answer.status_code == (200 if retires else 409)
    assert world.retired == ([2] if retires else [])


@pytest.mark.parametrize(
    ("what", "before", "meanwhile"),
    [
        ("pause", GenerationStatus.BUILDING, GenerationStatus.LIVE),
        ("resume", GenerationStatus.PAUSED, GenerationStatus.LIVE),
        ("drop", GenerationStatus.BUILDING, GenerationStatus.LIVE),
        ("switch", GenerationStatus.RETIRED, GenerationStatus.BUILDING),
        ("switch", GenerationStatus.RETIRED, GenerationStatus.DROPPED),
        ("retire", GenerationStatus.LIVE, GenerationStatus.BUILDING),
    ],
)
async def test_what_came_too_late_is_not_said_to_be_done(
    what: str, before: GenerationStatus, meanwhile: GenerationStatus
) -> None:
    world = World(before, 10_000)
    world.meanwhile = meanwhile
    answer = await world.asked(what)
    assert answer.status_code == 409
    assert f"is {meanwhile} now" in answer.json()["detail"]


@pytest.mark.parametrize("what", ["pause", "drop"])
async def test_what_is_built_may_be_halted_and_dropped(what: str) -> None:
    world = World(GenerationStatus.BUILDING, 10_000)
    assert (await world.asked(what)).status_code == 200


@pytest.mark.parametrize("status", [GenerationStatus.BUILDING, GenerationStatus.PAUSED])
async def test_it_is_not_said_to_be_built_where_what_would_be_is_paused(status: GenerationStatus) -> None:
    world = World(status, 0)
    world.known = replace(world.known, version=TASKS.version)
    answer = await world.asked("rebuild")
    if status is GenerationStatus.BUILDING:
        assert (answer.status_code, answer.json()["number"], world.recorded) == (202, 2, 1)
    else:
        assert (answer.status_code, world.recorded) == (409, 0)
        assert answer.json()["detail"] == "generation 2 is paused: resume it, or drop it first"
