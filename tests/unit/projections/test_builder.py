"""Each generation is filled at its own pace; one that went live is filled until nothing can be missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from annals.dapr import DatabaseError
from annals.deadletters import TooManyParked
from annals.projections import Builder, Generation, GenerationStatus
from annals.projections.generations import CatalogueEntry
from annals.web.background import background
from annals_projector.read_models import MEMBERS, TASKS

NOW = "2030-01-01T00:00:00+00:00"
_TAIL = {0: 7}


def known(name: str, lane: int, status: GenerationStatus, *, settling: bool = False) -> CatalogueEntry:
    return CatalogueEntry(name, 2, 1, status, "a test", False, None, True, NOW, settling, {lane: 7})


class Catalogue:
    """Two generations; that of the members goes live as soon as it is filled."""

    def __init__(self) -> None:
        self.members = known("members", 0, GenerationStatus.BUILDING)

    @property
    def all(self) -> tuple[CatalogueEntry, ...]:
        return known("tasks", 1, GenerationStatus.BUILDING), self.members

    def generation(self, one: CatalogueEntry) -> Generation:
        return Generation({"tasks": TASKS, "members": MEMBERS}[one.read_model], one.number)


class World:
    """The store and the database. The tasks are never completely filled."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.lacking = 0
        self.fills = {0: 0, 1: 0}
        self.filled: asyncio.Future[tuple[str | None, int]] = asyncio.get_running_loop().create_future()

    async def moved(self, progress: Mapping[int, int]) -> list[int]:
        [lane] = progress
        self.fills[lane] += 1
        if lane == 1:
            await asyncio.Event().wait()
        self.catalogue.members = known("members", 0, GenerationStatus.LIVE, settling=True)
        return []

    async def reached(self, **_: bool) -> dict[int, int]:
        self.lacking -= 1
        return {0: 8 if self.lacking > 0 else 7}

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "filled_at" in sql and not self.filled.done():
            self.filled.set_result((params[2], self.fills[0]))
        return {"mine": True, "now": NOW}

    async def settled(self) -> tuple[str | None, int]:
        """Return since when a generation lacks nothing, and how often it was filled until then."""
        made: Any = self
        catalogue: Any = self.catalogue
        letters: Any = None
        builder = Builder(made, made, catalogue, letters, "one")
        async with background(builder.run(), "builder"), asyncio.timeout(10):
            while not self.filled.done():
                builder.look()
                await asyncio.sleep(0)
            return await self.filled


async def test_one_that_went_live_is_filled_on_while_another_takes_long() -> None:
    world = World()
    assert await world.settled() == (NOW, 2)
    assert world.fills[1] == 1


async def test_one_that_went_live_is_filled_until_it_has_all_that_there_was() -> None:
    world = World()
    world.lacking = 3
    assert await world.settled() == (NOW, 1 + 3)


async def test_what_keeps_a_table_from_being_filled_is_told_of_once_for_each_table() -> None:
    class Full(World):
        looks = 0

        async def fetch(self, sql: str, *_: str | None) -> Any:  # noqa: ARG002
            self.looks += 1
            raise TooManyParked("1000 are parked") if self.looks <= 6 else DatabaseError("away")

    world = Full()
    made: Any = world
    catalogue: Any = world.catalogue
    letters: Any = None
    builder = Builder(made, made, catalogue, letters, "one")
    with capture_logs() as logs:
        async with background(builder.run(), "builder"), asyncio.timeout(10):
            while world.looks < 12:
                builder.look()
                await asyncio.sleep(0)
    tables = ["members_2", "tasks_2"]
    errors = [log for log in logs if log["log_level"] == "error"]
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert sorted(log["table"] for log in errors) == sorted(log["table"] for log in warnings) == tables
    assert {log["event"] for log in errors} == {"a table is not filled until dead letters are settled"}
    assert {log["event"] for log in warnings} == {"a table cannot be filled now"}


class Upgrade:
    """A catalogue, a store and a database in which a new version is built and the first switches fail."""

    def __init__(self, failures: int, *, caught_up: bool) -> None:
        self.failures = failures
        self.one = replace(known("tasks", 0, GenerationStatus.BUILDING), automatic=True, caught_up=caught_up)
        self.switched = asyncio.Event()

    @property
    def all(self) -> tuple[CatalogueEntry, ...]:
        return (self.one,)

    def generation(self, one: CatalogueEntry) -> Generation:
        return Generation(TASKS, one.number)

    async def index(self, _: Generation) -> None:
        pass

    async def moved(self, _: Mapping[int, int]) -> list[int]:
        return []

    async def reached(self) -> dict[int, int]:
        return {0: 7}

    async def fetch(self, sql: str, *_: str | None) -> Any:
        if "caught_up = true" in sql:
            self.one = replace(self.one, caught_up=True)
        return {"mine": True, "now": NOW}

    async def switch(self, to: CatalogueEntry, **_: bool) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise DatabaseError("canceling statement due to lock timeout")
        self.one = replace(to, status=GenerationStatus.LIVE)
        self.switched.set()

    async def goes_live(self) -> None:
        made: Any = self
        builder = Builder(made, made, made, made, "one")
        async with background(builder.run(), "builder"), asyncio.timeout(10):
            while not self.switched.is_set():
                builder.look()
                await asyncio.sleep(0)


async def test_a_new_version_is_switched_to_until_it_answers() -> None:
    await Upgrade(failures=3, caught_up=False).goes_live()


async def test_a_new_version_that_had_caught_up_when_its_builder_died_is_switched_to() -> None:
    await Upgrade(failures=0, caught_up=True).goes_live()


class Short(Upgrade):
    """Reads of a lane break off: for a while the store does not show everything it reports."""

    reads = 3

    async def reached(self) -> dict[int, int]:
        self.reads -= 1
        return {0: 9 if self.reads > 0 else 7}


async def test_a_new_version_is_not_switched_to_before_it_has_what_the_store_is_said_to_have() -> None:
    upgrade = Short(failures=0, caught_up=False)
    await upgrade.goes_live()
    assert upgrade.reads == 0
