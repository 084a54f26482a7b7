"""The statement that applies a batch, on a real PostgreSQL: replicas, disorder, loss, repetition."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace

import asyncpg
import pytest

from annals.dapr import StatementRefused
from annals.deadletters import DeadLetters, Status
from annals.events import DomainEvent, Position, RecordedEvent, StreamId
from annals.projections import Applier, Generations, ProjectionStalled, Replays, Sweeper, Visibility
from annals.projections.visibility import NotVisible
from annals.store import Append, Commit, MemoryEventStore
from annals_projector.read_models import PROJECTIONS
from conftest import until
from read_model_database import PoolDatabase
from task_histories import found, history, of_task, wanted


class Replica:
    """The parts of a projector replica."""

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


async def test_what_was_applied_and_is_not_in_the_store_is_found_far_beyond_all_that_is(
    read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    gone = of_task(StreamId("acme", "task-gone"), "task.created", {"title": "of a history that is gone"})
    store = MemoryEventStore()
    applying = await applier(read_models, store, dead_letters)
    await applying.apply([RecordedEvent.record(gone, version=1, lane=3, seq=7)])
    sweeper = Sweeper(read_models, store, applying, ["tasks"])
    await sweeper.sweep()
    assert sweeper.applied_but_missing == {3: 7}


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
    poisoned = next(event.stream for event in events if event.aggregate_id in wanted(events))
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

    following = of_task(poisoned, "task.updated", {"changes": {"title": "what was behind it"}})
    await store.append(Append(poisoned, (following,), last + 1))
    behind = await store.read_events([(poisoned, last + 2)])
    await applying.apply(behind)
    assert await found(pool) == wanted(events), "it waits"
    await dead_letters.correct(letter, None, "ada", "nobody knows what it is")
    await dead_letters.release([letter], "ada", "it is discarded")
    assert await applying.apply(behind) == frozenset()
    assert await found(pool) == wanted([*events, *behind])


@pytest.mark.parametrize("field", ["correlation_id", "causation_id", "user_id", "session_id"])
async def test_an_event_with_a_text_that_postgresql_does_not_hold_is_indexed(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters, field: str
) -> None:
    store = MemoryEventStore()
    one = of_task(StreamId("acme", "task-nul"), "task.created", {"title": "first"})
    await store.append(Append(one.stream, (one.with_context(**{field: "a\0b"}),), 0))
    events = [event async for event in store.read_stream(one.stream)]

    await (await applier(read_models, store, dead_letters)).apply(events)

    assert await pool.fetchval(f"SELECT {field} FROM readmodels.event_index") == "a\ufffdb"
    assert await found(pool) == wanted(events)


class OfPoolThatMayOnlyRead(PoolDatabase):
    """A pool that may only read: it refuses a write as the binding does, with no rows and no error."""

    async def fetch(self, sql: str, *params: str | None) -> object:
        try:
            return await super().fetch(sql, *params)
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise StatementRefused(str(error)) from error


async def test_a_database_that_takes_no_writes_for_a_while_has_nothing_parked(
    database: str, pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(7), streams=5)
    only_reads = {"default_transaction_read_only": "on"}
    async with asyncpg.create_pool(database, min_size=1, max_size=1, server_settings=only_reads) as read_only:
        applying = await applier(OfPoolThatMayOnlyRead(read_only), store, dead_letters)
        with pytest.raises(StatementRefused):
            await applying.apply(events)
    assert not dead_letters.parked("acme")
    await (await applier(read_models, store, dead_letters)).apply(events)
    assert await found(pool) == wanted(events)


class Stalling(Applier):
    """An applier that never gets the stream `stalls` to advance."""

    stalls = StreamId("acme", "task-stalls")

    async def apply(self, events: Iterable[RecordedEvent]) -> frozenset[StreamId]:
        events = list(events)
        if any(event.stream == self.stalls for event in events):
            raise ProjectionStalled("1 streams did not advance in 10 rounds")
        return await super().apply(events)


class TwoLanes(MemoryEventStore):
    """Shows the commits of the stalling stream in a lane of their own, which comes first."""

    async def tails(self, *, certain: bool = True) -> dict[int, int]:  # noqa: ARG002 - it always is
        return {1: 1, 0: 1}

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        whole = await super().read_log(0, 1, 2**31)
        own = [one for one in whole if (one.stream == Stalling.stalls) == (lane == 1)]
        placed = [replace(one, position=Position(lane, seq)) for seq, one in enumerate(own, start=1)]
        return placed[first - 1 : last]


async def test_a_lane_that_stalls_holds_up_no_other(
    pool: asyncpg.Pool, read_models: PoolDatabase, dead_letters: DeadLetters
) -> None:
    store = TwoLanes()
    events = await history(store, random.Random(5), streams=3)
    stuck = of_task(Stalling.stalls, "task.created", {"title": "never"})
    await store.append(Append(stuck.stream, (stuck,), 0))
    replica = await replica_of(read_models, store, dead_letters)
    applying = Stalling(read_models, store, lambda: replica.generations.live, dead_letters, lambda _: None)
    sweeper = Sweeper(read_models, store, applying, ["tasks"])

    async def swept() -> bool:
        await sweeper.sweep()
        return bool(await pool.fetchval("SELECT max(seq) FROM readmodels.lane_checkpoints") == len(events))

    await until(swept)
    assert await found(pool) == wanted(events)
    assert await pool.fetchval("SELECT count(*) FROM readmodels.lane_checkpoints WHERE lane = 1") == 0


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

    # Each event comes in a message of its own; here the second message is late.
    await replica.applier.apply(events[:1])
    for visibility in (replica.visibility, other):
        with pytest.raises(NotVisible):
            await visibility.wait(appended.position, 0.3)

    waiting = [asyncio.create_task(one.wait(appended.position, 10)) for one in (replica.visibility, other)]
    await replica.applier.apply(events[1:])
    await asyncio.gather(*waiting)
