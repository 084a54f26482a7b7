from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from annals.aggregates import RuleViolation
from annals.sagas import SagaStatus
from annals.sagas.engine import entry
from annals.sagas.events import (
    SagaCompensating,
    SagaCompleted,
    SagaStarted,
    StepCompleted,
    StepStarted,
)
from annals.sagas.history import SagaHistory, SagaKey
from annals.store import MemoryEventStore

KEY = SagaKey("s1", "default", "ada")
STARTED = entry(
    SagaStarted(
        started_at=datetime(2030, 1, 1, tzinfo=UTC), saga_type="t", saga_version=1, input={}, steps=("a", "b")
    )
)


def tried(step: str, attempt: int = 1) -> list[dict[str, object]]:
    return [
        entry(StepStarted(step=step, attempt=attempt)),
        entry(StepCompleted(step=step, attempt=attempt, result={"n": attempt})),
    ]


async def types(store: MemoryEventStore) -> list[str]:
    return [event.event_type async for event in store.read_stream(KEY.stream)]


async def test_a_transition_that_is_told_again_is_recorded_once() -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    for _ in range(3):
        await history.record(KEY, [STARTED, *tried("a")], None)
    await history.record(KEY, [*tried("a"), *tried("b")], None)
    assert await types(store) == ["saga.started", *["saga.step_started", "saga.step_completed"] * 2]


async def test_two_orchestrators_that_tell_the_same_record_it_once() -> None:
    store = MemoryEventStore()
    await SagaHistory(store).record(KEY, [STARTED], None)
    both = [SagaHistory(store), SagaHistory(store)]
    await asyncio.gather(*(one.record(KEY, tried("a"), None) for one in both * 5))
    assert await types(store) == ["saga.started", "saga.step_started", "saga.step_completed"]


async def test_when_it_came_to_pass_is_the_events_time() -> None:
    store = MemoryEventStore()
    at = "2030-01-01T10:00:00+00:00"
    completed = entry(StepCompleted(step="a", attempt=1), at)
    await SagaHistory(store).record(KEY, [STARTED, completed], None)
    events = [event async for event in store.read_stream(KEY.stream)]
    assert events[1].timestamp.isoformat() == at
    assert events[1].user_id == "ada"


async def test_a_saga_that_was_ended_by_force_records_nothing_more() -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    await history.record(KEY, [STARTED, *tried("a")], None)
    state = await history.decide(KEY, lambda saga: saga.terminate("enough", frozenset({"a", "b"})))
    assert (state.status, state.left) == (SagaStatus.FAILED, ("a",))
    after = await history.record(KEY, [*tried("b"), entry(SagaCompleted())], None)
    assert after.terminated
    assert (await types(store))[-1] == "saga.terminated"


async def test_a_refusal_is_decided_on_what_is_certainly_so() -> None:
    store = MemoryEventStore()
    stale, other = SagaHistory(store), SagaHistory(store)
    await stale.record(KEY, [STARTED, *tried("a"), entry(SagaCompensating(reason="no"))], None)
    await other.decide(KEY, lambda saga: saga.terminate("enough", frozenset({"a"})))
    # The stale one would still call it active; it looks again before it appends, and refuses.
    with pytest.raises(RuleViolation, match="has ended"):
        await stale.decide(KEY, lambda saga: saga.cancel("too late"))
    retried = await stale.decide(KEY, lambda saga: saga.retry_compensation())
    assert (retried.run, retried.to_undo()) == (1, [("a", 0)])
