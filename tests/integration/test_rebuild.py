"""Read models rebuilt beside the live ones, on a real PostgreSQL and a real sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import orjson
import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, StreamId
from annals.projections import (
    Applier,
    Builder,
    Generations,
    GenerationStatus,
    Outdated,
    Patch,
    Projection,
    Put,
    Sweeper,
    Table,
    Visibility,
    difference,
)
from annals.projections.visibility import NotVisible
from annals.store import Append, DaprEventStore
from annals.web.background import background
from annals_projector.read_models import MEMBERS, PROJECTIONS, SAGAS, TASKS
from conftest import until
from event_stores import lane_held
from read_model_database import PoolDatabase


@dataclass
class World:
    """A store, and a replica of the projector that only its sweeper keeps up to date."""

    pool: asyncpg.Pool
    database: PoolDatabase
    store: DaprEventStore
    letters: DeadLetters
    generations: Generations

    def builder(self, owner: str, generations: Generations | None = None, page: int = 20) -> Builder:
        known = generations or self.generations
        return Builder(self.database, self.store, known, self.letters, owner, page=page)

    async def tasks(self, count: int, prefix: str = "t", *, assigned: bool = False) -> None:
        async def one(number: int) -> None:
            name = f"{prefix}{number}"
            created = event(name, "task.created", title=name, priority="normal")
            await self.store.append(Append(StreamId("acme", f"task-{name}"), (created,), 0))
            if assigned:
                taken = event(name, "task.assigned", assignee="ada")
                await self.store.append(Append(StreamId("acme", f"task-{name}"), (taken,), 1))

        await asyncio.gather(*(one(number) for number in range(count)))

    async def caught_up(self, number: int, read_model: str = "tasks") -> bool:
        known = self.generations.find(read_model, number)
        if known is None:
            return False
        return known.caught_up and not await self.store.moved(known.progress)


def event(name: str, kind: str, **data: object) -> DomainEvent:
    return DomainEvent(
        event_type=kind,
        source="test",
        tenant_id="acme",
        aggregate_type="task",
        aggregate_id=name,
        data=data,
    )


@pytest.fixture
async def world(
    pool: asyncpg.Pool, read_models: PoolDatabase, sidecar: DaprSidecar, dead_letters: DeadLetters
) -> AsyncIterator[World]:
    store = DaprEventStore(sidecar, owner="writer")
    generations = Generations(read_models, PROJECTIONS)
    await generations.refresh()
    applier = Applier(read_models, store, lambda: generations.live, dead_letters, lambda _: None)
    async with (
        background(store.run(), "lane"),
        background(generations.run(), "catalogue"),
        background(Sweeper(read_models, store, applier, ["tasks"]).run(), "sweeper"),
    ):
        await lane_held(store)
        yield World(pool, read_models, store, dead_letters, generations)


async def test_a_generation_is_built_compared_switched_to_and_back_while_events_come(world: World) -> None:
    await world.tasks(200)
    number = await world.generations.create(TASKS, "it isn't right, 'or' so")
    assert number == 2
    assert known(world, 2).reason == "it isn't right, 'or' so"
    more = asyncio.create_task(world.tasks(100, "more", assigned=True))
    async with background(world.builder("one").run(), "builder"):
        await until(lambda: world.caught_up(2))
        await more

        async def same() -> bool:
            found = await difference(world.database, "acme", (TASKS.table, 1), (TASKS.table, 2))
            return found["new_rows"] == found["old_rows"] == 300 and not found["samples"]

        await until(same)
        await world.pool.execute("UPDATE readmodels.tasks_1 SET title = 'spoiled' WHERE id = 't7'")
        found = await difference(world.database, "acme", (TASKS.table, 1), (TASKS.table, 2))
        assert found["differing"] == 1
        (sample,) = found["samples"]
        assert (sample["id"], sample["columns"]) == ("t7", {"title": {"old": "spoiled", "new": "t7"}})
        looked = "SELECT title FROM readmodels.tasks WHERE id = 't7'"
        assert await world.pool.fetchval(looked) == "spoiled"

        answered = asyncio.create_task(keep_asking(world.pool))
        await world.generations.switch(known(world, 2))
        assert await world.pool.fetchval(looked) == "t7"
        await world.tasks(20, "after")
        await until(lambda: rows(world, 320))

        async def kept_up() -> bool:
            return bool(await world.pool.fetchval("SELECT count(*) = 320 FROM readmodels.tasks_1"))

        await until(kept_up, what="the retired one to be kept up")
        await world.generations.switch(known(world, 1))
        assert await world.pool.fetchval(looked) == "spoiled"
        await until(lambda: rows(world, 320))
        await world.generations.switch(known(world, 2))
        await until(lambda: rows(world, 320))
        answered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answered
        await world.generations.set_status(known(world, 1), GenerationStatus.DROPPED)
        assert await world.pool.fetchval("SELECT to_regclass('readmodels.tasks_1')") is None


async def test_rows_that_are_too_large_for_one_answer_are_compared_all_the_same(world: World) -> None:
    await world.tasks(60)
    number = await world.generations.create(TASKS, "to compare")
    async with background(world.builder("one").run(), "builder"):
        await until(lambda: world.caught_up(number))
    await until(lambda: rows(world, 60))
    await world.pool.execute("UPDATE readmodels.tasks_1 SET description = repeat('long ', 20_000)")
    await world.pool.execute("UPDATE readmodels.tasks_2 SET title = 'other' WHERE id = 't30'")
    await world.pool.execute("UPDATE readmodels.tasks_1 SET description = NULL WHERE id = 't30'")
    await world.pool.execute("DELETE FROM readmodels.tasks_1 WHERE id <> 't30' AND id LIKE 't3%'")

    found = await difference(world.database, "acme", (TASKS.table, 1), (TASKS.table, number))

    assert (found["differing"], found["only_new"]) == (50, 10)
    assert 1 < len(found["samples"]) < 50
    assert len(orjson.dumps(found)) < 1024 * 1024
    small = next(one for one in found["samples"] if one["id"] == "t30")
    assert small["columns"] == {"title": {"old": "t30", "new": "other"}}


async def test_building_halts_goes_on_and_is_taken_over_where_it_was(world: World) -> None:
    await world.tasks(300)
    await until(lambda: rows(world, 300))
    await world.generations.create(TASKS, "a test")
    await world.generations.throttle(known(world, 2), 50)
    first = asyncio.create_task(world.builder("one", page=4_000).run())

    async def begun() -> bool:
        return sum(known(world, 2).progress.values()) > 0

    await until(begun)
    await world.generations.set_status(known(world, 2), GenerationStatus.PAUSED)
    await asyncio.sleep(1)  # a page in progress may still be written
    await world.generations.refresh()
    halted = sum(known(world, 2).progress.values())
    assert 0 < halted < 300
    await asyncio.sleep(1)
    await world.generations.refresh()
    assert sum(known(world, 2).progress.values()) == halted
    first.cancel()  # as after a crash
    await asyncio.gather(first, return_exceptions=True)
    await world.generations.throttle(known(world, 2), None)
    await world.generations.set_status(known(world, 2), GenerationStatus.BUILDING)
    async with background(world.builder("two").run(), "builder"):
        await until(lambda: world.caught_up(2))
    assert await world.pool.fetchval("SELECT count(*) FROM readmodels.tasks_2") == 300


async def test_a_higher_version_is_built_and_switched_to_by_itself(world: World) -> None:
    await world.tasks(30, assigned=True)
    await until(lambda: rows(world, 30))
    table = Table("tasks", {"title": "text", "shouted": "text", "assignee": "text"})
    newer = Projection(
        table,
        "task",
        {
            "task.created": lambda one: Put(
                {"title": one.data["title"], "shouted": one.data["title"].upper()}
            ),
            "task.assigned": lambda one: Patch({"assignee": one.data["assignee"]}),
        },
        version=TASKS.version + 1,
    )
    brand_new = Projection(
        Table("titles", {"title": "text", "order": "text"}),  # a reserved word of SQL
        "task",
        {"task.created": lambda one: Put({"title": one.data["title"], "order": "first"})},
    )
    generations = Generations(world.database, [newer, brand_new, MEMBERS, SAGAS])
    await generations.prepare()
    async with (
        background(generations.run(), "catalogue"),
        background(world.builder("new code", generations).run(), "builder"),
    ):

        async def switched() -> bool:
            try:
                return {one.name for one in generations.live} >= {"tasks_2", "titles_1"}
            except Outdated:
                return False

        await until(switched)
    await world.generations.refresh()
    with pytest.raises(Outdated):
        _ = world.generations.live
    row = await world.pool.fetchrow("SELECT * FROM readmodels.tasks WHERE id = 't3'")
    assert (row["shouted"], row["assignee"], row["version"]) == ("T3", "ada", 2)
    titles = "SELECT count(*) FROM readmodels.titles WHERE \"order\" = 'first'"
    assert await world.pool.fetchval(titles) == 30


async def test_what_was_written_to_the_old_table_after_a_switch_is_in_the_new_one_also_after_a_restart(
    world: World,
) -> None:
    await world.generations.create(TASKS, "a test")
    async with background(world.builder("one").run(), "builder"):
        await until(lambda: world.caught_up(2))
    await world.generations.switch(known(world, 2))
    await world.tasks(20, "late")
    await until(lambda: rows(world, 20))
    # Replicas that do not know of the switch yet leave this state; then nobody fills anything for an hour.
    await world.pool.execute("DELETE FROM readmodels.tasks_2")
    await world.pool.execute(
        "UPDATE readmodels.generations SET switched_at = now() - interval '1 hour' WHERE number = 2"
    )
    await world.generations.refresh()

    async def settled() -> bool:
        return not known(world, 2).settling

    async with background(world.builder("two").run(), "builder"):
        await until(lambda: rows(world, 20))
        await until(settled)


async def test_what_was_written_before_a_switch_is_waited_for_in_the_new_table(world: World) -> None:
    await world.generations.create(TASKS, "a test")
    async with background(world.builder("one").run(), "builder"):
        await until(lambda: world.caught_up(2))
    created = event("mine", "task.created", title="mine", priority="normal")
    written = await world.store.append(Append(StreamId("acme", "task-mine"), (created,), 0))
    visibility = Visibility(world.database, world.store)
    await visibility.wait(written.position, 10)
    await world.generations.switch(known(world, 2))

    with pytest.raises(NotVisible):
        await visibility.wait(written.position, 0.5)

    async with background(world.builder("two").run(), "builder"):
        await visibility.wait(written.position, 10)
    assert await rows(world, 1)


async def test_one_that_answered_until_now_is_as_far_as_all_that_was_applied(world: World) -> None:
    await world.tasks(100)
    await until(lambda: rows(world, 100))
    await world.generations.create(TASKS, "a test")
    async with background(world.builder("one").run(), "builder"):
        await until(lambda: world.caught_up(2))
    reached = "SELECT sum(seq) FROM readmodels.lane_checkpoints"

    async def looked_through() -> bool:
        return bool(await world.pool.fetchval(reached) == 100)

    await until(looked_through)
    await world.generations.switch(known(world, 2))
    assert sum(known(world, 1).progress.values()) == 100, "one may switch back at once"

    # A generation that went live may lack what was written to the one before, so it is not credited with
    # that.
    await world.tasks(10, "late")
    await until(lambda: rows(world, 110))
    await world.generations.switch(known(world, 1))
    assert sum(known(world, 2).progress.values()) == 100


async def keep_asking(pool: asyncpg.Pool) -> None:
    """Keep asking a query, which must be answered all the time."""
    while True:
        assert await pool.fetchval("SELECT count(*) FROM readmodels.tasks") > 0


async def rows(world: World, count: int) -> bool:
    return bool(await world.pool.fetchval("SELECT count(*) FROM readmodels.tasks") == count)


def known(world: World, number: int):  # type: ignore[no-untyped-def]
    found = world.generations.find("tasks", number)
    assert found is not None
    return found
