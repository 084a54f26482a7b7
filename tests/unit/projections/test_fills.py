"""A fill holds a bounded amount in memory, however large events are, and ends although more is written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.projections import Builder, Generation, GenerationStatus
from annals.projections.generations import CatalogueEntry
from annals.store import Append, Commit, MemoryEventStore
from annals.web.background import background
from annals_projector.read_models import TASKS
from rows_written import NoLetters

MIB = 1024 * 1024


class World(MemoryEventStore):
    """The store, catalogue, database and dead letters for a new version of the tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.one = CatalogueEntry(
            "tasks", 2, 2, GenerationStatus.BUILDING, "", True, None, False, "", False, {}
        )
        self.live, self.filled = asyncio.Event(), asyncio.Event()
        self.rows: set[str] = set()
        self.held = self.most_held = 0
        self.writes_on = 0
        self.asked: list[int] = []

    async def tasks(self, count: int, size: int = 0) -> None:
        for _ in range(count):
            name = f"t{len(self._log)}"
            created = DomainEvent(
                event_type="task.created",
                source="test",
                aggregate_type="task",
                aggregate_id=name,
                data={"title": name, "description": "x" * size},
            )
            await self.append(Append(created.stream, (created,), 0))

    async def reached(self) -> dict[int, int]:
        return {0: len(self._log)}

    async def moved(self, progress: Mapping[int, int]) -> list[int]:
        return [0] if progress.get(0, 0) < len(self._log) else []

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        self.asked.append(last - first + 1)
        await self.tasks(self.writes_on)
        return await super().read_log(lane, first, last)

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        found = await super().read_events(refs)
        self.held += sum(len(event.data["description"]) for event in found)
        self.most_held = max(self.most_held, self.held)
        await asyncio.sleep(0)
        return found

    @property
    def all(self) -> tuple[CatalogueEntry, ...]:
        return (self.one,)

    def generation(self, known: CatalogueEntry) -> Generation:
        return Generation(TASKS, known.number)

    def find(self, *_: object) -> CatalogueEntry:
        return self.one

    async def index(self, _: Generation) -> None:
        await self.tasks(10 * self.writes_on)

    async def switch(self, to: CatalogueEntry, **_: bool) -> None:
        self.one = replace(to, status=GenerationStatus.LIVE, caught_up=True, settling=True)
        self.live.set()

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "_written AS" in sql:
            rows = orjson.loads(params[-1] or "")
            self.held -= sum(len(row["row"]["description"]) for row in rows)
            self.rows.update(row["id"] for row in rows)
            return [[0, row["tenant"], f"task-{row['id']}"] for row in rows]
        if "wanted" in sql:
            return []
        if "build_progress" in sql:
            self.one = replace(self.one, progress={0: int(params[4] or 0)})
        if "filled_at" in sql:
            self.one = replace(self.one, settling=False)
            self.filled.set()
        return {"mine": True, "now": ""}

    async def fills_until(self, done: asyncio.Event) -> None:
        made: Any = self
        letters: Any = NoLetters()
        builder = Builder(made, made, made, letters, "one")
        async with background(builder.run(), "builder"), asyncio.timeout(20):
            while not done.is_set():
                builder.look()
                await asyncio.sleep(0)


@pytest.mark.parametrize("small_before", [0, 3_000])
async def test_large_events_are_not_held_all_at_once(small_before: int) -> None:
    world = World()
    await world.tasks(small_before, 10)
    await world.tasks(2_500, 50_000)
    await world.fills_until(world.live)
    assert len(world.rows) == small_before + 2_500
    assert world.most_held < 70 * MIB, "of 120 MiB"


async def test_a_fill_ends_while_something_is_written_at_every_look() -> None:
    world = World()
    await world.tasks(500)
    world.writes_on = 1
    await world.fills_until(world.live)
    lacking = len(world._log) - len(world.rows)
    assert 0 < lacking < 10, "what the indexes took is filled before it answers"

    there = {f"t{number}" for number in range(len(world._log))}
    await world.fills_until(world.filled)
    assert there <= world.rows, "nothing is missed between"


async def test_where_little_comes_little_is_asked_for() -> None:
    world = World()
    await world.tasks(100)
    await world.fills_until(world.live)
    await world.fills_until(world.filled)
    world.one = replace(world.one, status=GenerationStatus.RETIRED)
    world.asked.clear()
    await world.tasks(1)
    caught_up = asyncio.Event()
    fetch = world.fetch

    async def seen(sql: str, *params: str | None) -> Any:
        answer = await fetch(sql, *params)
        if "build_progress" in sql and world.one.progress == {0: 101}:
            caught_up.set()
        return answer

    world.fetch = seen  # type: ignore[method-assign]
    await world.fills_until(caught_up)
    assert sum(world.asked) < 200


async def test_what_answers_queries_already_is_filled_at_full_speed() -> None:
    """Queries wait for a live generation that is still being filled."""
    world = World()
    await world.tasks(200)
    world.one = replace(
        world.one, status=GenerationStatus.LIVE, caught_up=True, settling=True, automatic=False, throttle=1
    )
    await world.fills_until(world.filled)
    assert len(world.rows) == 200
