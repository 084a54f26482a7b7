"""Rows folded in memory before they are written, on a real PostgreSQL: disorder, rivals, failures."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from annals.deadletters import DeadLetters, Status
from annals.events import RecordedEvent
from annals.projections import Generations
from annals.projections.folded_rows import FoldedRows
from annals.projections.tables import Generation
from annals.store import Append, MemoryEventStore
from annals_projector.read_models import PROJECTIONS, TASKS
from read_model_database import PoolDatabase
from task_histories import found, history, of_task, wanted

TABLE = "tasks_2"


@pytest.fixture
async def generation(read_models: PoolDatabase) -> Generation:
    """Create a table that is to be built."""
    generations = Generations(read_models, PROJECTIONS)
    await generations.refresh()
    return Generation(TASKS, await generations.create(TASKS, "a test"))


class Counted(PoolDatabase):
    """Records each writing statement by its number of rows."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.written: list[int] = []

    async def fetch(self, sql: str, *params: str | None) -> object:
        answer = await super().fetch(sql, *params)
        if "_written AS" in sql:
            self.written.append(len(answer))
        return answer


async def test_a_row_is_written_once_for_all_the_events_that_came_meanwhile(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters, generation: Generation
) -> None:
    store, database = MemoryEventStore(), Counted(pool)
    events = await history(store, random.Random(1), streams=30)
    nothing = MemoryEventStore()  # asked only about events that are not plain, and has none
    rows = FoldedRows(database, nothing, generation, dead_letters)
    half = len(events) // 2
    parts = events[:half], events[half:]
    for part in parts:
        for start in range(0, len(part), 7):
            await rows.take(part[start : start + 7])
        await rows.write()
    assert database.written == [len({one.stream for one in part}) for part in parts]
    assert await found(pool, TABLE) == wanted(events)


@pytest.mark.parametrize("seed", range(4))
async def test_rivals_with_disorder_repetition_and_gaps_end_at_the_fold(
    pool: asyncpg.Pool,
    read_models: PoolDatabase,
    dead_letters: DeadLetters,
    generation: Generation,
    seed: int,
) -> None:
    dice, store = random.Random(seed), MemoryEventStore()
    events = await history(store, dice, streams=40)
    deliveries = events * 2
    dice.shuffle(deliveries)

    async def replica(part: list[RecordedEvent]) -> None:
        rows = FoldedRows(read_models, store, generation, dead_letters)
        for start in range(0, len(part), 25):
            await rows.take(part[start : start + 25])
            if dice.random() < 0.4:
                await rows.write()
        await rows.write()

    await asyncio.gather(replica(deliveries[::2]), replica(deliveries[1::2]))

    assert await found(pool, TABLE) == wanted(events)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("task.assigned", {"nobody": "expected this"}, "KeyError: 'assignee'"),
        ("task.due_date_set", {"due": "no time at all"}, "RowRefused: "),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_stream_that_cannot_go_on_is_parked_where_it_is_and_the_others_go_on(
    pool: asyncpg.Pool,
    read_models: PoolDatabase,
    dead_letters: DeadLetters,
    generation: Generation,
    kind: str,
    data: dict[str, object],
    reason: str,
    together: bool,
) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(3), streams=5)
    stream = next(one.stream for one in events if one.aggregate_id in wanted(events))
    last = max(one.version for one in events if one.stream == stream)
    after = of_task(stream, "task.updated", {"changes": {"title": "after it"}})
    mended = of_task(stream, "task.due_date_set", {"due": None})
    await store.append(Append(stream, (of_task(stream, kind, data), after, mended), last))
    bad, *later = await store.read_events([(stream, last + n) for n in (1, 2, 3)])
    rows = FoldedRows(read_models, store, generation, dead_letters)

    await rows.take([*events, bad, later[0]] if together else [*events, bad])
    await rows.write()

    assert await found(pool, TABLE) == wanted(events)
    letter = dead_letters.find("tasks", stream, generation.number)
    assert letter is not None
    assert (letter.version, letter.status) == (last + 1, Status.PARKED)
    assert letter.reason.startswith(reason)
    await rows.take([bad, *later])
    await rows.write()
    assert await found(pool, TABLE) == wanted(events), "its stream waits"
