"""The statement that applies a batch, on a real PostgreSQL: replicas, disorder, loss, repetition."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from annals.deadletters import DeadLetters, Status
from annals.events import DomainEvent, Position, RecordedEvent, StreamId
from annals.projections import Applier, Generations, Replays, Sweeper, Visibility
from annals.projections.visibility import NotVisible
from annals.store import Append, MemoryEventStore
from annals_projector.read_models import PROJECTIONS
from conftest import until
from read_model_database import PoolDatabase
from task_histories import found, history, of_task, wanted


class Replica:
    """What a replica of the projector has."""

    def __init__(self, database: PoolDatabase, store: MemoryEventStore, letters: DeadLetters) -> None:
        self.generations = Generations(database, PROJECTIONS)
        self.visibility = Visibility(database, store)
        self.applier = Applier(
            database, store, lambda: self.generations.live, letters, self.visibility.applied
        )
        self.replays = Replays(database, store, self.applier, self.generations, letters)


async def replica_of(database: PoolDatabase, store: MemoryEventStore, letters: DeadLetters) -> Replica:
    one = Replica(database, store, letters)
    await one.generations.refresh()
    return one


async def applier(database: PoolDatabase, store: MemoryEventStore, letters: DeadLetters) -> Applier:
    return (await replica_of(database, store, letters)).applier


@pytest.mark.parametrize("seed", range(3))
async def test_two_replicas_with_disorder_and_repetition_end_at_the_fold(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters, seed: int
) -> None:
    dice, store = random.Random(seed), MemoryEventStore()
    events = await history(store, dice, streams=40)
    deliveries = events * 2
    dice.shuffle(deliveries)

    async def replica(part: list[RecordedEvent]) -> None:
        applying = await applier(read_models, store, dead_letters)
        for start in range(0, len(part), 25):
            await applying.apply(part[start : start + 25])

    await asyncio.gather(replica(deliveries[::2]), replica(deliveries[1::2]))

    assert await found(pool) == wanted(events)
    assert await pool.fetchval("SELECT count(*) FROM readmodels.event_index") == len(events)


async def test_what_no_message_brings_is_swept_from_the_store(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    dice, store = random.Random(7), MemoryEventStore()
    events = await history(store, dice, streams=20)
    applying = await applier(read_models, store, dead_letters)
    await applying.apply(dice.sample(events, len(events) // 3))
    sweeper = Sweeper(read_models, store, applying, ["tasks"])

    async def complete() -> bool:
        await sweeper.sweep()
        return bool(
            await pool.fetchval("SELECT coalesce(max(seq), 0) FROM readmodels.lane_checkpoints")
            == len(events)
        )

    await until(complete)
    assert await found(pool) == wanted(events)


async def test_a_commit_of_which_a_part_came_is_swept_to_its_end(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    task = StreamId("acme", "task-two")

    pair = (
        of_task(task, "task.created", {"title": "first"}),
        of_task(task, "task.updated", {"changes": {"title": "second"}}),
    )
    await store.append(Append(task, pair, 0))
    events = [one async for one in store.read_stream(task)]
    applying = await applier(read_models, store, dead_letters)
    await applying.apply(events[:1])
    sweeper = Sweeper(read_models, store, applying, ["tasks"])
    await sweeper.sweep()
    assert await pool.fetchval("SELECT coalesce(max(seq), 0) FROM readmodels.lane_checkpoints") == 0

    async def whole() -> bool:
        await sweeper.sweep()
        return bool(await pool.fetchval("SELECT max(seq) FROM readmodels.lane_checkpoints") == 1)

    await until(whole)
    assert await found(pool) == wanted(events)


async def test_an_event_whose_past_is_nowhere_is_not_applied(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(1), streams=1)
    failed = await (await applier(read_models, MemoryEventStore(), dead_letters)).apply(events[3:])
    assert failed == {events[0].stream}
    assert await found(pool) == {}


async def test_a_stream_on_which_a_projection_fails_does_not_hold_up_the_others(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(3), streams=5)
    poisoned = events[0].stream
    poison = DomainEvent(
        event_type="task.assigned",
        source="test",
        tenant_id="acme",
        aggregate_type="task",
        aggregate_id=poisoned.name.removeprefix("task-"),
        data={"nobody": "expected this"},
    )
    last = max(event.version for event in events if event.stream == poisoned)
    await store.append(Append(poisoned, (poison,), last))
    applying = await applier(read_models, store, dead_letters)

    lacking = await applying.apply([*events, *await store.read_events([(poisoned, last + 1)])])

    assert lacking == frozenset()
    assert await found(pool) == wanted(events)
    letter = dead_letters.find("tasks", poisoned, 1)
    assert letter is not None
    assert (letter.version, letter.status, letter.attempts) == (last + 1, Status.PARKED, 1)
    assert letter.reason == "KeyError: 'assignee'"
    assert await pool.fetchval("SELECT count(*) FROM readmodels.event_index") == len(events) + 1


async def test_a_reader_waits_for_its_write(read_models: PoolDatabase, dead_letters: DeadLetters) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(2), streams=2)
    replica = await replica_of(read_models, store, dead_letters)
    visibility = replica.visibility
    with pytest.raises(NotVisible):
        await visibility.wait(Position(0, 1), 0.1)
    waiting = asyncio.create_task(visibility.wait(Position(0, 1), 10))
    await replica.applier.apply(events)
    await waiting
    await Visibility(read_models, store).wait(Position(0, len(events)), 10)


async def test_a_reader_of_a_commit_of_two_events_waits_for_both(
    read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    stream = StreamId("acme", "task-two")
    made = {"source": "test", "tenant_id": "acme", "aggregate_type": "task", "aggregate_id": "two"}
    created = DomainEvent(event_type="task.created", data={"title": "new", "priority": "normal"}, **made)
    assigned = DomainEvent(event_type="task.assigned", data={"assignee": "ada"}, **made)
    appended = await store.append(Append(stream, (created, assigned), 0))
    events = await store.read_events([(stream, 1), (stream, 2)])
    replica = await replica_of(read_models, store, dead_letters)
    other = Visibility(read_models, store)

    # Each event comes by a message of its own: here the second one is late.
    await replica.applier.apply(events[:1])
    for visibility in (replica.visibility, other):
        with pytest.raises(NotVisible):
            await visibility.wait(appended.position, 0.3)

    waiting = [asyncio.create_task(one.wait(appended.position, 10)) for one in (replica.visibility, other)]
    await replica.applier.apply(events[1:])
    await asyncio.gather(*waiting)
