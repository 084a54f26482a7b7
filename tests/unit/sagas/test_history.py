from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from annals.aggregates import RuleViolation
from annals.events import EventData
from annals.sagas import SagaState, SagaStatus, StepStatus, history
from annals.sagas.events import (
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaError,
    SagaFailed,
    SagaResumed,
    SagaStarted,
    SagaTerminated,
    SagaWaiting,
    StepCompensated,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
)
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.start import entry
from annals.store import Append, Appended, MemoryEventStore, StreamUnreadable
from newer_release import suspended_by_a_newer_release

KEY = SagaKey("s1", "default", "ada")
START = datetime(2030, 1, 1, tzinfo=UTC)
STARTED = entry(SagaStarted(started_at=START, saga_type="t", saga_version=1, input={}, steps=("a", "b")))
BUSY = SagaError(kind="failed", message="busy")


def tried(step: str, attempt: int = 1) -> list[dict[str, object]]:
    return [
        entry(StepStarted(step=step, attempt=attempt)),
        entry(StepCompleted(step=step, attempt=attempt, result={"n": attempt})),
    ]


async def types(store: MemoryEventStore) -> list[str]:
    return [event.event_type async for event in store.read_stream(KEY.stream)]


@pytest.mark.parametrize(("given", "chain"), [("chain", "chain"), (None, "s1")])
async def test_what_a_saga_records_is_of_the_chain_that_it_was_started_in_or_begins_one(
    given: str | None, chain: str
) -> None:
    store = MemoryEventStore()
    key = SagaKey("s1", "default", "ada", given)
    await SagaHistory(store).record(key, [STARTED, *tried("a")], None)
    told = [event async for event in store.read_stream(key.stream)]
    said = {(one.tenant_id, one.user_id, one.correlation_id, one.causation_id) for one in told}
    assert (len(told), said) == (3, {("default", "ada", chain, "s1")})


async def test_what_a_saga_comes_to_leaves_room_to_take_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to the saga, its compensations and its end may use that room."""
    reserves: list[int] = []

    class Reserving(MemoryEventStore):
        async def append(self, append: Append) -> Appended:
            reserves.append(append.reserve)
            return await super().append(append)

    monkeypatch.setattr(history, "_WAY_BACK_BYTES", 7)
    recorded = SagaHistory(Reserving())
    raised: dict[str, tuple[str, ...]] = {"b": ("yes",)}
    failed = StepFailed(step="b", attempt=1, error=BUSY, final=True)
    forward = entry(StepCompleted(step="a", attempt=1, result={"n": 1}))
    await recorded.record(KEY, [STARTED, entry(StepStarted(step="a", attempt=1))], None)
    await recorded.record(KEY, [forward, entry(StepStarted(step="b", attempt=1))], None)
    assert reserves == [0, 7]
    await recorded.decide(KEY, lambda saga: saga.cancel("not any more"))
    back = [entry(failed), entry(SagaCompensating(reason="not any more"))]
    late = entry(StepCompleted(step="c", attempt=1, result={"n": 2}))
    await recorded.record(
        KEY, [late, *back, entry(StepStarted(step="a", attempt=1, compensation=True))], None
    )
    await recorded.record(KEY, [entry(SagaCompensated(reason="not any more"))], None)
    assert reserves == [0, 7, 0, 0, 0]
    other = replace(KEY, id="s2")
    await recorded.record(other, [STARTED, entry(StepStarted(step="a", attempt=1))], None)
    await recorded.decide(other, lambda saga: saga.raise_event("yes", {}, "ada", raised, START))
    await recorded.record(other, [entry(SagaResumed(step="b", event="yes", number=1))], None)
    await recorded.record(other, [forward, entry(SagaCompleted())], None)
    assert reserves[5:] == [0, 7, 7, 0]


async def test_a_transition_that_is_told_again_is_recorded_once() -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    told = [
        STARTED,
        *tried("a"),
        entry(StepSkipped(step="b")),
        entry(SagaWaiting(step="w", events=("yes",), deadline=START + timedelta(hours=1))),
        entry(SagaResumed(step="w", event="yes")),
        entry(StepStarted(step="c", attempt=1)),
        entry(StepFailed(step="c", attempt=1, error=BUSY, final=False)),
        entry(StepStarted(step="c", attempt=2)),
        entry(StepFailed(step="c", attempt=2, error=BUSY, final=True)),
        entry(SagaCompensating(reason="c: busy")),
        entry(StepStarted(step="a", attempt=1, compensation=True)),
        entry(StepFailed(step="a", attempt=1, error=BUSY, final=False, compensation=True)),
        entry(StepStarted(step="a", attempt=2, compensation=True)),
        entry(StepCompensated(step="a", attempt=2)),
    ]
    for number in range(1, len(told) + 1):
        state = await history.record(KEY, told[:number], None)
        assert await history.record(KEY, told[:number], None) == state
    assert await types(store) == [one["type"] for one in told]


async def test_two_orchestrators_that_tell_the_same_record_it_once() -> None:
    store = MemoryEventStore()
    await SagaHistory(store).record(KEY, [STARTED], None)
    both = [SagaHistory(store), SagaHistory(store)]
    await asyncio.gather(*(one.record(KEY, tried("a"), None) for one in both * 5))
    assert await types(store) == ["saga.started", "saga.step_started", "saga.step_completed"]


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("uncertain", [False, True])
async def test_a_try_of_which_one_call_failed_and_another_succeeded_did_succeed(
    final: bool, uncertain: bool
) -> None:
    """Such a step is compensated once, and a repeat of its success does not complete it again."""
    history = SagaHistory(MemoryEventStore())
    failed = StepFailed(step="a", attempt=1, error=BUSY, final=final, uncertain=uncertain)
    begun, completed = tried("a")
    await history.record(KEY, [STARTED, begun, entry(failed)], None)
    state = await history.record(KEY, [completed], None)
    step = state.steps["a"]
    assert (step.status, step.result, step.error) == (StepStatus.COMPLETED, {"n": 1}, None)
    assert (state.undo_order, state.to_undo()) == (("a",), [("a", 0)])
    taken_back = [SagaCompensating(reason="no"), StepStarted(step="a", attempt=1, compensation=True)]
    state = await history.record(KEY, [entry(one) for one in taken_back], None)
    assert (await history.record(KEY, [completed], None)) == state
    state = await history.record(KEY, [entry(StepCompensated(step="a", attempt=1))], None)
    assert (await history.record(KEY, [completed, entry(failed), entry(SagaCompleted())], None)) == state


@pytest.mark.parametrize("final", [False, True])
async def test_a_compensation_of_which_one_call_failed_and_another_succeeded_did_succeed(final: bool) -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    lost = SagaError(kind="failed", message="no answer")
    undone = StepCompensated(step="a", attempt=1)
    failed = StepFailed(step="a", attempt=1, error=lost, final=final, uncertain=True, compensation=True)
    taken_back = [SagaCompensating(reason="no"), StepStarted(step="a", attempt=1, compensation=True), failed]
    await history.record(KEY, [STARTED, *tried("a"), *map(entry, taken_back)], None)
    state = await history.record(KEY, [entry(undone)], None)
    assert (state.steps["a"].status, state.steps["a"].error) == (StepStatus.COMPENSATED, None)
    assert (await history.record(KEY, [entry(undone), entry(failed)], None)) == state
    state = await history.record(KEY, [entry(undone), entry(SagaCompensated(reason="no"))], None)
    assert (state.status, state.to_undo()) == (SagaStatus.COMPENSATED, [])
    assert (await types(store))[-3:] == ["saga.step_failed", "saga.step_compensated", "saga.compensated"]


async def test_the_last_step_is_done_by_a_call_that_ends_when_the_next_try_has_begun() -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    busy = SagaError(kind="failed", message="busy")
    failed = StepFailed(step="a", attempt=1, error=busy, final=False)
    begun, completed = tried("a")
    again = StepStarted(step="a", attempt=2)
    await history.record(KEY, [STARTED, begun, entry(failed), entry(again)], None)
    state = await history.record(KEY, [completed, entry(SagaCompleted())], None)
    assert (state.status, state.steps["a"].status) == (SagaStatus.COMPLETED, StepStatus.COMPLETED)
    assert (await types(store))[-2:] == ["saga.step_completed", "saga.completed"]


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([], "only a failed saga is retried; this one is running"),
        ([SagaCompensating(reason="no")], "only a failed saga is retried; this one is compensating"),
        ([SagaTerminated(reason="no", left=())], "the saga is failed, with nothing left to undo"),
    ],
)
async def test_who_retries_what_cannot_be_retried_is_told_why(events: list[EventData], says: str) -> None:
    history = SagaHistory(MemoryEventStore())
    await history.record(KEY, [STARTED, *tried("a"), *map(entry, events)], None)
    with pytest.raises(RuleViolation, match=says) as refused:
        await history.decide(KEY, SagaState.retry_compensation)
    assert refused.value.rule == "saga.nothing_left"


async def test_a_saga_that_failed_is_logged_once_with_its_tenant() -> None:
    """The metrics have no tenant, and lists of sagas are each of one tenant."""
    key = SagaKey("s1", "acme", "ada")
    history = SagaHistory(MemoryEventStore())
    failed = entry(SagaFailed(reason="b: busy", left=("a",)))
    with capture_logs() as logs:
        await history.record(key, [STARTED, *tried("a"), entry(SagaCompensating(reason="b: busy"))], None)
        assert logs == []
        for _ in range(2):
            await history.record(key, [failed], None)
    (told,) = logs
    assert (told["log_level"], told["event"]) == ("error", "a saga failed: some steps are not compensated")
    assert (told["saga"], told["saga_type"], told["tenant"], told["left"]) == ("s1", "t", "acme", ["a"])


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


@pytest.mark.parametrize(
    ("then", "left"),
    [
        (None, ("a",)),
        (StepFailed(step="a", attempt=1, error=BUSY, final=True, uncertain=True), ("a",)),
        (StepFailed(step="a", attempt=1, error=BUSY, final=True), ()),
    ],
)
async def test_what_may_have_been_done_when_it_was_ended_by_force_is_left(
    then: StepFailed | None, left: tuple[str, ...]
) -> None:
    history = SagaHistory(MemoryEventStore())
    told = [STARTED, entry(StepStarted(step="a", attempt=1))]
    await history.record(KEY, told + ([entry(then)] if then else []), None)
    state = await history.decide(KEY, lambda saga: saga.terminate("enough", frozenset({"a", "b"})))
    assert state.left == left


async def test_a_refusal_is_decided_on_what_is_certainly_so() -> None:
    store = MemoryEventStore()
    stale, other = SagaHistory(store), SagaHistory(store)
    await stale.record(KEY, [STARTED, *tried("a"), entry(SagaCompensating(reason="no"))], None)
    await other.decide(KEY, lambda saga: saga.terminate("enough", frozenset({"a"})))
    # The stale history would still call the saga active; it reads again before it appends, and refuses.
    with pytest.raises(RuleViolation, match="has ended"):
        await stale.decide(KEY, lambda saga: saga.cancel("too late"))
    retried = await stale.decide(KEY, lambda saga: saga.retry_compensation())
    assert (retried.run, retried.to_undo()) == (1, [("a", 0)])


async def test_what_could_not_be_taken_back_is_tried_again_from_there() -> None:
    history = SagaHistory(MemoryEventStore())
    undone = entry(StepCompensated(step="a", attempt=1))
    begun = entry(StepStarted(step="b", attempt=1, compensation=True))
    failed = entry(StepFailed(step="b", attempt=1, error=BUSY, final=True, compensation=True))
    back = [entry(SagaCompensating(reason="no")), begun, failed, undone]
    forward = [STARTED, *tried("a"), *tried("b"), *tried("c")]
    await history.record(KEY, [*forward, *back, entry(SagaFailed(reason="no", left=("b",)))], None)
    for _ in range(2):
        state = await history.decide(KEY, lambda saga: saga.retry_compensation())
        assert (state.run, state.to_undo(), state.awaited_by_parent) == (1, [("b", 1)], False)
    begun = entry(StepStarted(step="b", attempt=2, compensation=True))
    state = await history.record(KEY, [begun], None, 1)
    assert state.to_undo() == [("b", 1)], "it is not known what came of that try"
    state = await history.record(KEY, [entry(StepCompensated(step="b", attempt=2))], None, 1)
    assert state.to_undo() == []
    state = await history.record(KEY, [entry(SagaCompensated(reason="no"))], None, 1)
    assert (state.status, state.left) == (SagaStatus.COMPENSATED, ())


async def test_what_is_tried_again_is_not_suspended_though_it_was_when_it_was_ended_by_force() -> None:
    history = SagaHistory(MemoryEventStore())
    await history.record(KEY, [STARTED, *tried("a")], None)
    await history.decide(KEY, lambda saga: saga.suspend())
    await history.decide(KEY, lambda saga: saga.terminate("enough", frozenset({"a"})))
    state = await history.decide(KEY, lambda saga: saga.retry_compensation())
    assert (state.status, state.suspended) == (SagaStatus.COMPENSATING, False)


async def test_a_saga_that_has_done_nothing_is_ended_unless_another_run_goes_on_with_it() -> None:
    history = SagaHistory(MemoryEventStore())
    other = replace(KEY, id="s2")
    for key in (KEY, other):
        await history.record(key, [STARTED], None)
    await history.decide(other, lambda saga: saga.restart(1, "it stood still"))
    ended = await history.decide(KEY, lambda saga: saga.end_unbegun("not wanted"))
    going_on = await history.decide(other, lambda saga: saga.end_unbegun("not wanted"))
    assert (ended.status, going_on.status) == (SagaStatus.COMPENSATED, SagaStatus.PENDING)


async def test_a_step_that_came_to_nothing_has_its_result_whatever_becomes_of_it() -> None:
    history = SagaHistory(MemoryEventStore())
    begun = entry(StepStarted(step="b", attempt=1))
    told = [
        STARTED,
        entry(StepStarted(step="a", attempt=1)),
        entry(StepCompleted(step="a", attempt=1)),
        begun,
    ]
    lost = entry(StepFailed(step="b", attempt=1, error=BUSY, final=True, uncertain=True))
    back = [entry(StepStarted(step="a", attempt=1, compensation=True))]
    back += [entry(StepCompensated(step="a", attempt=1))]
    for one in (*told, lost, entry(SagaCompensating(reason="no")), *back):
        state = await history.record(KEY, [one], None)
        assert state.results == ({"a": None} if state.steps["a"].finished_attempts else {})
    assert state.undo_order == ("a", "b")


async def test_an_event_is_raised_once_for_each_step_that_waits_for_it() -> None:
    history = SagaHistory(MemoryEventStore())
    waits: dict[str, tuple[str, ...]] = {"b": ("yes", "no")}
    await history.record(KEY, [STARTED, *tried("a")], None)
    for _ in range(2):
        await history.decide(KEY, lambda saga: saga.raise_event("yes", 1, "ada", waits, START))
    for other in ((2, "ada"), (1, "bob")):
        with pytest.raises(RuleViolation, match="raised already"):
            await history.decide(KEY, lambda saga, other=other: saga.raise_event("yes", *other, waits, START))
    await history.record(KEY, [entry(SagaResumed(step="b", event="yes", number=1))], None)
    with pytest.raises(RuleViolation, match="nothing waits"):
        await history.decide(KEY, lambda saga: saga.raise_event("yes", 2, "ada", waits, START))
    waits["c"] = ("yes",)
    state = await history.decide(KEY, lambda saga: saga.raise_event("yes", 2, "ada", waits, START))
    assert [one.number for one in state.raised] == [2]
    waits["d"] = ("late",)
    await history.record(KEY, [entry(SagaCompensating(reason="no"))], None)
    with pytest.raises(RuleViolation, match="nothing waits for late any more"):
        await history.decide(KEY, lambda saga: saga.raise_event("late", None, "ada", waits, START))


@pytest.mark.parametrize(
    ("waits", "raised", "too_late"),
    [
        ([("yes", "no")], ["yes"], {"no": "yes"}),
        ([("yes", "no")], ["no"], {"yes": "no"}),
        ([("yes", "no"), ("yes", "no")], ["yes", "no"], {"yes": "yes, no", "no": "yes, no"}),
        # The first to wait would take the yes, and the no that came before would be overruled or misplaced.
        ([("yes", "no"), ("yes",)], ["no"], {"yes": "no"}),
        ([("yes", "no"), ("yes", "no")], ["no"], {"yes": "no"}),
        ([("yes", "no"), ("yes-b", "no-b")], ["no", "yes-b"], {"yes": "no", "no-b": "yes-b"}),
        ([("yes", "no"), ("no", "enough")], ["yes", "no"], {"enough": "no", "no": "yes, no"}),
    ],
)
def test_of_the_answers_to_a_wait_the_first_counts_and_others_are_refused(
    waits: list[tuple[str, ...]], raised: list[str], too_late: dict[str, str]
) -> None:
    declared = {f"w{number}": events for number, events in enumerate(waits)}
    saga = SagaState().apply(
        SagaStarted(started_at=START, saga_type="t", saga_version=1, input={}, steps=tuple(declared))
    )
    for number, event in enumerate(raised):
        for told in saga.raise_event(event, number, "ada", declared, START):
            saga = saga.apply(told)
    assert [one.event for one in saga.raised] == raised
    for event, answers in too_late.items():
        with pytest.raises(RuleViolation, match=f"^another answer was raised already: {answers}$") as refused:
            saga.raise_event(event, "other", "ada", declared, START)
        assert refused.value.rule == "saga.already_raised"
    for number, event in enumerate(raised):
        assert saga.raise_event(event, number, "ada", declared, START) == (), "it is a repeat"


async def test_an_answer_after_a_cancel_is_refused() -> None:
    """It would be acknowledged, and the saga would be compensated all the same."""
    history, waits = SagaHistory(MemoryEventStore()), {"b": ("yes",)}
    await history.record(KEY, [STARTED, *tried("a")], None)
    await history.decide(KEY, lambda saga: saga.cancel("enough"))
    with pytest.raises(RuleViolation, match="nothing waits for yes any more") as refused:
        await history.decide(KEY, lambda saga: saga.raise_event("yes", 1, "ada", waits, START))
    assert refused.value.rule == "saga.not_waiting"


async def test_an_event_that_is_raised_after_the_deadline_is_refused() -> None:
    """No step would take such an event, and its caller would not learn of that."""
    history, waits = SagaHistory(MemoryEventStore()), {"b": ("yes",)}
    deadline = START + timedelta(hours=1)
    waiting = entry(SagaWaiting(step="b", events=("yes",), deadline=deadline))
    await history.record(KEY, [STARTED, *tried("a"), waiting], None)
    late = deadline + timedelta(seconds=1)
    with pytest.raises(RuleViolation, match="nothing waits for yes any more"):
        await history.decide(KEY, lambda saga: saga.raise_event("yes", 1, "ada", waits, late))
    state = await history.decide(KEY, lambda saga: saga.raise_event("yes", 1, "ada", waits, deadline))
    assert [one.event for one in state.raised] == ["yes"]
    # The answer to the first request may have been lost.
    again = await history.decide(KEY, lambda saga: saga.raise_event("yes", 1, "ada", waits, late))
    assert again.raised == state.raised
    with pytest.raises(RuleViolation, match="raised already"):
        await history.decide(KEY, lambda saga: saga.raise_event("yes", 2, "ada", waits, late))


async def test_what_another_run_tells_is_no_news() -> None:
    store = MemoryEventStore()
    history = SagaHistory(store)
    await history.record(KEY, [STARTED], None)
    await history.decide(KEY, lambda saga: saga.suspend())
    for _ in range(2):
        state = await history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
        assert not state.suspended
    assert (await history.record(KEY, tried("a"), None)).run == 1
    assert await types(store) == ["saga.started", "saga.suspended", "saga.restarted"]
    await history.record(KEY, tried("a"), None, 1)
    assert (await types(store))[3:] == ["saga.step_started", "saga.step_completed"]


async def test_what_another_orchestrator_appended_is_found_out_when_there_is_nothing_to_say() -> None:
    store = MemoryEventStore()
    stale, other = SagaHistory(store), SagaHistory(store)
    await stale.record(KEY, [STARTED], None)
    await other.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
    state = await stale.record(KEY, tried("a"), None, 1)
    assert (state.run, state.steps["a"].attempts) == (1, 1)
    for asked, halt in ((stale, True), (other, False), (stale, True)):
        state = await asked.decide(KEY, lambda saga, halt=halt: saga.suspend() if halt else saga.resume())
        assert state.suspended is halt
    assert (await types(store))[-3:] == ["saga.suspended", "saga.continued", "saga.suspended"]


class Counted(MemoryEventStore):
    """Counts how often a stream is loaded."""

    loads = 0

    async def load(self, *given: Any, **options: Any) -> Any:
        self.loads += 1
        return await super().load(*given, **options)


async def test_a_saga_that_goes_on_where_it_was_is_read_once() -> None:
    store = Counted()
    history = SagaHistory(store)
    for entries in ([STARTED], tried("a"), tried("b"), [entry(SagaCompleted())]):
        await history.record(KEY, entries, None)
    assert store.loads == 1


async def test_what_a_stale_replica_would_refuse_is_decided_on_what_is_so_now() -> None:
    store = MemoryEventStore()
    stale, other = SagaHistory(store), SagaHistory(store)
    told = [STARTED, entry(StepStarted(step="a", attempt=1)), entry(StepCompleted(step="a", attempt=1))]
    await stale.record(KEY, [*told, entry(SagaCompensating(reason="no"))], None)
    await other.record(KEY, [entry(SagaFailed(reason="no", left=("a",)))], None)
    state = await stale.decide(KEY, lambda saga: saga.retry_compensation())
    assert state.run == 1


async def test_a_saga_that_only_a_newer_release_can_read_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The unreadable stream must not be taken for a failure of the step whose try is to be recorded."""
    monkeypatch.setattr(history, "_RETRY_SECONDS", (0.01,))
    store = MemoryEventStore()
    await SagaHistory(store).record(KEY, [STARTED], None)
    await suspended_by_a_newer_release(store, KEY)
    older = SagaHistory(store)
    with pytest.raises(StreamUnreadable, match="cannot read default/saga-s1 up to version 2"):
        await older.load(KEY)
    telling = asyncio.create_task(older.record(KEY, tried("a"), None))
    await asyncio.wait([telling], timeout=0.1)
    assert not telling.done()
    monkeypatch.setattr(SagaState, "state_schema", SagaState.state_schema + 1)
    assert (await telling).steps["a"].status is StepStatus.COMPLETED
