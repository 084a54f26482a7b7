"""A comparison of two generations takes minutes, and one of the connections that queries need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from annals.dapr import DatabaseError
from annals.projections import Generation, GenerationStatus
from annals.projections.generations import CatalogueEntry
from annals.web import Problem
from annals.web.problems import on_problem
from annals_projector import projections_api
from annals_projector.read_models import TASKS

NUMBERS = ("old_rows", "new_rows", "only_old", "only_new", "differing", "on_their_way")


class World:
    """Generations 1 (live), 2 and 3, with a database that answers when the test says so."""

    def __init__(self) -> None:
        self.asked_for: list[str | None] = []
        self.answers = asyncio.Event()
        self.fails = False
        self.arrived = 0
        statuses = (GenerationStatus.LIVE, GenerationStatus.BUILDING, GenerationStatus.BUILDING)
        self.parked = {("tasks", 1): 1, ("tasks", 2): 2, ("tasks", 3): 4, ("members", 2): 8}
        self.all = [
            CatalogueEntry("tasks", number, 1, status, "a test", True, None, True, "2030", False, {})
            for number, status in enumerate(statuses, 1)
        ]

    async def refresh(self) -> None:
        self.arrived += 1

    def find(self, _read_model: str, number: int) -> CatalogueEntry:
        return self.all[number - 1]

    def generation(self, known: CatalogueEntry) -> Generation:
        return Generation(TASKS, known.number)

    def parked_in(self, read_model: str, generation: int) -> int:
        return self.parked.get((read_model, generation), 0)

    async def fetch(self, _sql: str, tenant: str | None) -> Any:
        self.asked_for.append(tenant)
        await self.answers.wait()
        if self.fails:
            raise DatabaseError("it is away")
        return dict.fromkeys(NUMBERS, len(self.asked_for)) | {"samples": []}


Ask = Callable[..., "asyncio.Task[httpx.Response]"]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def ask(world: World) -> AsyncIterator[Ask]:
    made: Any = world
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.include_router(projections_api.routes(made, made, made, made, made, made))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://projector") as http:

        def ask(number: int = 2, tenant: str = "acme") -> asyncio.Task[httpx.Response]:
            path = f"/projections/tasks/generations/{number}/difference"
            return asyncio.create_task(http.get(path, headers={"x-tenant-id": tenant}))

        yield ask


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not so():
            await asyncio.sleep(0)


async def test_whoever_asks_meanwhile_waits_for_the_one_that_runs(world: World, ask: Ask) -> None:
    first = ask()
    await until(lambda: bool(world.asked_for))
    others = [ask(), ask()]
    await until(lambda: world.arrived == 3)
    first.cancel()  # this caller stops waiting
    with pytest.raises(asyncio.CancelledError):
        await first
    world.answers.set()
    for other in others:
        answer = await other
        assert (answer.status_code, answer.json()["old_rows"]) == (200, 1)
    assert world.asked_for == ["acme"]

    assert (await ask()).json()["old_rows"] == 2, "what has ended is not kept"


async def test_what_is_retired_has_nothing_to_be_compared_with(world: World, ask: Ask) -> None:
    world.all[0] = replace(world.all[0], status=GenerationStatus.RETIRED)
    answer = await ask()
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:annals:problem:conflict")
    assert answer.json()["detail"] == "tasks has no live generation to compare with"


async def test_while_one_runs_no_other_begins(world: World, ask: Ask) -> None:
    running = ask()
    await until(lambda: bool(world.asked_for))
    # A comparison for another tenant is another one, as its samples are of one tenant.
    for other in (ask(number=3), ask(tenant="else")):
        answer = await other
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    world.answers.set()
    assert (await running).status_code == 200
    assert (await ask(number=3, tenant="else")).status_code == 200
    assert world.asked_for == ["acme", "else"]


async def test_one_that_fails_does_so_for_all_who_wait_and_stands_in_nobodys_way(
    world: World, ask: Ask
) -> None:
    world.fails = True
    asking = [ask(), ask()]
    await until(lambda: world.arrived == 2)
    world.answers.set()
    assert [(await one).status_code for one in asking] == [503, 503]
    assert len(world.asked_for) == 1
    world.fails = False
    assert (await ask()).status_code == 200


async def test_what_is_parked_in_one_of_the_two_is_not_on_its_way(world: World, ask: Ask) -> None:
    world.answers.set()
    assert (await ask()).json()["parked"] == 3
    assert (await ask(number=3)).json()["parked"] == 5
