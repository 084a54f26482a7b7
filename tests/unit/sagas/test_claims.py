"""For each business key one saga runs, and a claim holds for that saga alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from annals.aggregates import RuleViolation
from annals.dapr import Answer, SidecarUnavailable
from annals.events import RecordedEvent, new_id
from annals.sagas import (
    AwaitEvent,
    CancelOn,
    Saga,
    SagaCatalog,
    SagaInput,
    SagaState,
    SagaStatus,
    SendCommand,
    StartOn,
    StartSaga,
    Step,
    children,
    orchestrator,
)
from annals.sagas.asker import Asker
from annals.sagas.claims import SagaRuns
from annals.sagas.events import SagaStarted
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Orchestrator, Started
from annals.sagas.runs import instance_id
from annals.sagas.start import child_id
from annals.store import StreamUnreadable, Undecodable
from annals.store.follower import is_transient
from annals.testing.fake.state import FakeState, Operation
from newer_release import suspended_by_a_newer_release
from saga_machine import SagaMachine, saga_machine


class About(SagaInput):
    task_id: str
    asked: str = "once"


WAITS = (Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1))),)
SAGA = Saga(
    "one-a-task",
    About,
    WAITS,
    business_key=lambda given: given.task_id,
    triggers=(CancelOn("task.deleted", lambda _, task_id: task_id),),
)
MINE, FRESH = SagaKey("mine", "default"), SagaKey("fresh", "default")


def deleted(task_id: str, *, before: timedelta = timedelta(0)) -> RecordedEvent:
    return RecordedEvent(
        event_id=f"deleted-{task_id}",
        event_type="task.deleted",
        event_version="1.0",
        timestamp=datetime.now(UTC) - before,
        source="command",
        tenant_id="default",
        correlation_id="c",
        causation_id="c",
        aggregate_type="task",
        aggregate_id=task_id,
        data={},
        version=2,
        lane=0,
        seq=2,
    )


async def start(
    machine: SagaMachine, key: SagaKey, task_id: str, *, new: bool = False, **given: Any
) -> Started:
    started = await machine.orchestrator.start(key, SAGA.type, {"task_id": task_id} | given, Asker(), new=new)
    await machine.clock.settle()
    return started


async def nobody_is_helped(*_: Any) -> SagaState:
    pytest.fail("nobody is to be helped")


async def holder(machine: SagaMachine, task_id: str) -> str | None:
    """Return the id of the saga that holds the claim and has started."""
    held = await machine.claims.holder("default", SAGA.type, task_id, nobody_is_helped)
    return None if held is None else held[0]


async def test_a_start_that_is_refused_claims_nothing() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        with pytest.raises(RuleViolation, match="another saga has this id"):
            await start(machine, MINE, "t2")
        assert await holder(machine, "t2") is None
        assert await start(machine, FRESH, "t2", new=True) == Started("fresh", created=True)


async def test_a_claim_that_names_a_saga_of_another_key_holds_nothing() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        # A claim like this is left behind by a start that was then refused.
        stray = SagaStarted(
            started_at=datetime(2030, 1, 1, tzinfo=UTC),
            saga_type=SAGA.type,
            saga_version=1,
            business_key="t2",
            input={"task_id": "t2"},
            steps=("w",),
        )
        await machine.claims.take(MINE, stray, Asker(), nobody_is_helped)
        await machine.triggers.on_domain_event(deleted("t2"))
        await machine.clock.settle()
        assert (await machine.orchestrator.load(MINE)).status is SagaStatus.RUNNING
        assert (await start(machine, FRESH, "t2", new=True)).created
        await machine.triggers.on_domain_event(deleted("t1"))
        await machine.clock.settle()
        assert (await machine.orchestrator.load(MINE)).status is SagaStatus.COMPENSATED


async def test_a_late_repeat_of_a_start_finds_its_own_saga_though_another_runs_for_the_key_now() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        await machine.orchestrator.raise_event(MINE, "yes", None, Asker())
        await machine.clock.settle()
        assert (await start(machine, FRESH, "t1", new=True)).created
        assert await start(machine, MINE, "t1") == Started("mine", created=False)


async def test_while_one_runs_another_is_that_one_or_is_refused() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        assert await start(machine, FRESH, "t1", new=True) == Started("mine", created=False)
        with pytest.raises(SagaRuns):
            await start(machine, FRESH, "t1", new=True, asked="otherwise")


async def test_of_those_that_start_at_once_for_one_business_key_one_begins() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:

        async def start_all(*ids: str) -> tuple[str, list[bool]]:
            started = await asyncio.gather(
                *(
                    machine.orchestrator.start(SagaKey(one, "default"), SAGA.type, {"task_id": "t1"}, Asker())
                    for one in ids
                )
            )
            await machine.clock.settle()
            (begun,) = {one.id for one in started}
            return begun, sorted(one.created for one in started)

        first, created = await start_all("a", "b", "c")
        assert created == [False, False, True]
        await machine.orchestrator.terminate(SagaKey(first, "default"), "enough", Asker())
        second, created = await start_all("d", "e", "f")
        assert created == [False, False, True]
        assert await holder(machine, "t1") == second


async def test_a_start_is_the_same_also_when_a_newer_version_takes_more() -> None:
    class More(About):
        note: str | None = None

    given, newer = {"task_id": "t1"}, replace(SAGA, input=More, version=2)
    async with saga_machine(SagaCatalog(SAGA, newer)) as machine:
        older = Orchestrator(SagaCatalog(SAGA), machine.history, machine.claims, machine.workflows)
        await older.start(MINE, SAGA.type, given, Asker(), new=True)
        await machine.clock.settle()
        assert await start(machine, MINE, "t1") == Started("mine", created=False)
        assert await start(machine, FRESH, "t1", new=True) == Started("mine", created=False)
        for differs in ({"asked": "otherwise"}, {"note": "more"}):
            with pytest.raises(RuleViolation, match="another saga has this id"):
                await start(machine, MINE, "t1", **differs)
            with pytest.raises(SagaRuns):
                await start(machine, FRESH, "t1", new=True, **differs)


async def test_a_saga_whose_type_is_like_an_events_can_be_started_by_one() -> None:
    """Dapr allows no dot in a workflow's id, nor does the API in a saga's."""
    begun_by = StartOn("task.deleted", lambda _, task_id: {"task_id": task_id})
    async with saga_machine(SagaCatalog(replace(SAGA, type="task.review", triggers=(begun_by,)))) as machine:
        await machine.triggers.on_domain_event(deleted("t1"))
        await machine.clock.settle()
        state = await machine.orchestrator.load(SagaKey("task-review-deleted-t1", "default"))
        assert (state.saga_type, state.status) == ("task.review", SagaStatus.RUNNING)


async def test_a_saga_of_a_long_type_that_an_event_starts_has_an_id_that_requests_can_name() -> None:
    begun_by = StartOn("task.deleted", lambda _, task_id: {"task_id": task_id})
    saga = replace(SAGA, type="t" * 100, triggers=(begun_by,))
    async with saga_machine(SagaCatalog(saga)) as machine:
        event_id = new_id()
        await machine.triggers.on_domain_event(deleted("t1").model_copy(update={"event_id": event_id}))
        await machine.clock.settle()
        saga_id = f"{'t' * 63}-{event_id}"
        assert len(saga_id) == 100
        state = await machine.orchestrator.load(SagaKey(saga_id, "default"))
        assert (state.saga_type, state.status) == (saga.type, SagaStatus.RUNNING)


async def test_an_event_from_which_a_saga_refuses_its_input_is_not_let_go() -> None:
    """It is parked like one whose function fails: whoever mends the declaration can replay it."""
    begun_by = StartOn("task.deleted", lambda data, _: {"task_id": data.get("task")})
    async with saga_machine(SagaCatalog(replace(SAGA, triggers=(begun_by,)))) as machine:
        with pytest.raises(ValidationError) as refused:
            await machine.triggers.on_domain_event(deleted("t1"))
        assert not is_transient(refused.value)


async def test_what_runs_is_cancelled_by_what_its_own_version_says() -> None:
    triggers = {1: "task.deleted", 2: "task.closed"}
    versions = [
        replace(SAGA, version=version, triggers=(CancelOn(kind, lambda _, task_id: task_id),))
        for version, kind in triggers.items()
    ]
    async with saga_machine(SagaCatalog(*versions)) as machine:
        # It started under the version that was the newest then.
        older = Orchestrator(SagaCatalog(versions[0]), machine.history, machine.claims, machine.workflows)
        await older.start(MINE, SAGA.type, {"task_id": "t1"}, Asker(), new=True)
        await machine.clock.settle()
        closed = deleted("t1").model_copy(update={"event_type": "task.closed"})
        for event, status in ((closed, SagaStatus.RUNNING), (deleted("t1"), SagaStatus.COMPENSATED)):
            await machine.triggers.on_domain_event(event)
            await machine.clock.settle()
            assert (await machine.orchestrator.load(MINE)).status is status


@pytest.mark.parametrize(
    ("before", "status"),
    [(timedelta(hours=1), SagaStatus.RUNNING), (timedelta(minutes=10), SagaStatus.COMPENSATED)],
)
async def test_what_happened_before_a_saga_began_cancels_another_and_not_that(
    before: timedelta, status: SagaStatus
) -> None:
    """The event is redelivered, or late from a released dead letter. How far clocks differ is unknown."""
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        await machine.triggers.on_domain_event(deleted("t1", before=before))
        await machine.clock.settle()
        assert (await machine.orchestrator.load(MINE)).status is status


async def test_what_happened_after_what_began_a_saga_cancels_it_though_both_are_told_late() -> None:
    begun_by = StartOn("task.opened", lambda _, task_id: {"task_id": task_id})
    saga = replace(SAGA, triggers=(*SAGA.triggers, begun_by))
    async with saga_machine(SagaCatalog(saga)) as machine:
        opened = deleted("t1", before=timedelta(days=2)).model_copy(update={"event_type": "task.opened"})
        key = SagaKey(f"{SAGA.type}-{opened.event_id}", "default")
        for event, status in (
            (opened, SagaStatus.RUNNING),
            (deleted("t1", before=timedelta(days=3)), SagaStatus.RUNNING),
            (deleted("t1", before=timedelta(days=1)), SagaStatus.COMPENSATED),
        ):
            await machine.triggers.on_domain_event(event)
            await machine.clock.settle()
            assert (await machine.orchestrator.load(key)).status is status


async def test_what_happens_between_the_claim_of_a_saga_and_its_beginning_cancels_it() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        begin = machine.workflows.start

        async def start_late(*given: Any) -> bool:
            machine.workflows.start = begin  # type: ignore[method-assign]
            await machine.triggers.on_domain_event(deleted("t1"))
            return await begin(*given)

        machine.workflows.start = start_late  # type: ignore[method-assign]
        assert await start(machine, MINE, "t1", new=True) == Started("mine", created=True)
        assert (await machine.orchestrator.load(MINE)).status is SagaStatus.COMPENSATED


async def test_a_child_that_a_start_finds_claimed_and_not_begun_is_recorded_and_left_to_its_parent() -> None:
    """A workflow that its parent did not start would never tell the parent how it ended."""
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        ask = machine.orchestrator
        started = ask.first_event(MINE, SAGA.type, {"task_id": "t1"}, parent="p")
        await machine.claims.take(MINE, started, Asker(), ask.begin_claimed)
        begun: list[Any] = []

        async def begin(*given: Any) -> bool:
            begun.append(given)
            return True

        machine.workflows.start = begin  # type: ignore[method-assign]
        assert await start(machine, FRESH, "t1", new=True) == Started("mine", created=False)
        child = await ask.load(MINE)
        assert (child.status, child.parent, begun) == (SagaStatus.PENDING, "p", [])


async def test_an_event_that_would_cancel_a_saga_holds_up_no_other_if_the_saga_ends_just_before() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1", new=True)
        holder = machine.claims.holder

        async def ends_then(*given: Any) -> Any:
            found = await holder(*given)
            await machine.orchestrator.terminate(MINE, "enough", Asker())
            return found

        machine.claims.holder = ends_then  # type: ignore[method-assign]
        await machine.triggers.on_domain_event(deleted("t1"))
        ended = await machine.orchestrator.load(MINE)
        assert (ended.terminated, ended.cancel_requested) == (True, False)


class Numbered(SagaInput):
    n: int = 0


NUMBERED = Saga("numbered", Numbered, (Step("a", SendCommand("a", lambda saga: {"n": saga.input.n})),))
KEYED = replace(NUMBERED, business_key=lambda given: str(given.n))


class Commands:
    """Accepts all commands."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    async def invoke(self, *_: str, json: Any, **__: Any) -> Answer:
        self.taken.append(json)
        return Answer(200, {})


@pytest.mark.parametrize("saga", [NUMBERED, KEYED], ids=["alone", "with a business key"])
async def test_of_two_that_start_at_once_under_one_id_one_happens_and_the_other_is_refused(
    saga: Saga[Any],
) -> None:
    commands = Commands()
    async with saga_machine(SagaCatalog(saga), commands) as machine:
        begin = machine.orchestrator.start
        first, second = await asyncio.gather(
            *(begin(MINE, saga.type, {"n": n}, Asker()) for n in (1, 2)), return_exceptions=True
        )
        await machine.clock.settle()
        taken, refused = (2, first) if isinstance(second, Started) else (1, second)
        assert isinstance(refused, RuleViolation)
        assert (await machine.orchestrator.load(MINE)).input == {"n": taken}
        assert commands.taken == [{"n": taken}]


async def test_two_that_start_the_same_at_once_under_one_id_are_one() -> None:
    commands = Commands()
    async with saga_machine(SagaCatalog(NUMBERED), commands) as machine:
        begin = machine.orchestrator.start
        started = await asyncio.gather(*(begin(MINE, NUMBERED.type, {"n": 1}, Asker()) for _ in range(3)))
        await machine.clock.settle()
        assert {one.id for one in started} == {MINE.id}
        assert commands.taken == [{"n": 1}]
        assert "saga.restarted" not in await machine.types(MINE)


async def test_what_is_acknowledged_happens_though_a_workflow_is_there_that_was_given_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start that was answered 503 while no worker carried it on leaves such a workflow."""
    monkeypatch.setattr(orchestrator, "PAUSES_SECONDS", (0.0, 0.01))
    commands = Commands()
    newer = replace(NUMBERED, version=2)
    async with saga_machine(SagaCatalog(NUMBERED, newer), commands, before=SagaCatalog(NUMBERED)) as machine:
        begin = machine.workflows.start

        async def without_an_answer(*given: Any) -> bool:
            machine.workflows.start = begin  # type: ignore[method-assign]
            await begin(*given)
            raise SidecarUnavailable(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")

        machine.workflows.start = without_an_answer  # type: ignore[method-assign]
        with pytest.raises(SidecarUnavailable):
            await machine.orchestrator.start(MINE, NUMBERED.type, {"n": 1}, Asker())
        started = await machine.orchestrator.start(MINE, NUMBERED.type, {"n": 2}, Asker())
        assert started == Started("mine", True)
        await machine.upgrade()
        await machine.clock.settle()
        with pytest.raises(RuleViolation, match="another saga has this id"):
            await machine.orchestrator.start(MINE, NUMBERED.type, {"n": 1}, Asker())
        ended = await machine.orchestrator.load(MINE)
        assert (ended.status, ended.input) == (SagaStatus.COMPLETED, {"n": 2})
        assert commands.taken == [{"n": 2}]
        assert (await machine.types(MINE))[:2] == ["saga.started", "saga.restarted"]


def forget_claims(machine: SagaMachine) -> None:
    """Empty the store's state, as a restored backup does: it has the streams of sagas and no claims."""
    machine.dapr.stores["eventstore"] = FakeState()


async def test_a_saga_that_is_restarted_has_its_claim_again() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        forget_claims(machine)
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        await machine.clock.settle()
        with pytest.raises(SagaRuns):
            await start(machine, FRESH, "t1", new=True, asked="otherwise")
        await machine.triggers.on_domain_event(deleted("t1"))
        await machine.clock.settle()
        assert (await machine.orchestrator.load(MINE)).status is SagaStatus.COMPENSATED


async def test_a_saga_that_is_restarted_with_the_one_that_started_it_has_its_claim_again() -> None:
    about = {"task_id": "t1"}
    parent = Saga("parent", About, (Step("all", StartSaga(SAGA.type, lambda _: about)),))
    child = SagaKey(child_id("mine", "all", 0), "default")
    async with saga_machine(SagaCatalog(SAGA, parent)) as machine:
        await machine.orchestrator.start(MINE, "parent", about, Asker())
        await machine.clock.settle()
        forget_claims(machine)
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        await machine.clock.settle()
        assert await holder(machine, "t1") == child.id


async def test_a_saga_that_is_restarted_takes_no_claim_from_another() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        forget_claims(machine)
        await start(machine, FRESH, "t1", new=True)
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        assert await holder(machine, "t1") == FRESH.id


async def test_a_saga_that_is_restarted_has_its_claim_again_when_the_one_that_took_it_has_ended() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        forget_claims(machine)
        await start(machine, FRESH, "t1", new=True)
        await machine.orchestrator.raise_event(FRESH, "yes", None, Asker())
        await machine.clock.settle()
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        assert await holder(machine, "t1") == MINE.id
        third = SagaKey("third", "default")
        with pytest.raises(SagaRuns):
            await start(machine, third, "t1", new=True, asked="otherwise")


@pytest.mark.parametrize("claimed", [True, False])
async def test_of_two_sagas_that_are_restarted_at_once_one_has_the_claim_and_keeps_it(claimed: bool) -> None:
    """As after a restore, with or without a claim of a third that has ended meanwhile."""
    third = SagaKey("third", "default")
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        for key in (MINE, FRESH, third):
            await start(machine, key, "t1", new=True)
            if key is not third or not claimed:
                forget_claims(machine)
        await machine.orchestrator.raise_event(third, "yes", None, Asker())
        await machine.clock.settle()
        holders = set()
        for _ in range(3):
            restarts = (machine.orchestrator.restart(key, "it stood still", Asker()) for key in (MINE, FRESH))
            await asyncio.gather(*restarts)
            holders.add(await holder(machine, "t1"))
        assert len(holders) == 1
        assert holders < {MINE.id, FRESH.id}


async def test_a_saga_that_is_restarted_takes_no_claim_from_one_that_may_still_begin() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        forget_claims(machine)
        begins = (await machine.orchestrator.load(MINE)).as_started()
        await machine.claims.take(FRESH, begins, Asker(), nobody_is_helped)
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        await machine.clock.settle()
        held = await machine.claims.holder("default", SAGA.type, "t1", machine.orchestrator.begin_claimed)
        assert held is not None
        assert held[0] == FRESH.id


async def test_a_saga_whose_claim_cannot_be_read_is_restarted_all_the_same() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        kept = machine.dapr.stores["eventstore"]
        (claim,) = (key for key in kept.keys(datetime.now(UTC)) if key.startswith("saga-claim/"))
        kept.write(Operation(claim, b"{"), datetime.now(UTC))
        await machine.orchestrator.restart(MINE, "it stood still", Asker())
        await machine.clock.settle()
        assert not machine.dapr.workflows.find(instance_id(MINE, 1)).ended


class NoWayBack:
    """Takes every command, and refuses compensations."""

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        if path.endswith("_back"):
            return Answer(422, {"type": "urn:annals:problem:rule", "rule": "no", "detail": "no"})
        return Answer(200, {})


@pytest.mark.parametrize("over", [True, False])
async def test_a_saga_whose_compensation_is_retried_has_its_claim_again_unless_another_runs(
    over: bool,
) -> None:
    undo = SendCommand("a_back", lambda _: {})
    saga = replace(SAGA, steps=(Step("a", SendCommand("a", lambda _: {}), compensation=undo), *WAITS))
    async with saga_machine(SagaCatalog(saga), NoWayBack()) as machine:
        await start(machine, MINE, "t1")
        await machine.orchestrator.cancel(MINE, "enough", Asker())
        await machine.clock.settle()
        assert (await machine.orchestrator.load(MINE)).left == ("a",)
        await start(machine, FRESH, "t1", new=True)
        if over:
            await machine.orchestrator.raise_event(FRESH, "yes", None, Asker())
            await machine.clock.settle()
        await machine.orchestrator.retry(MINE, Asker())
        await machine.clock.settle()
        assert await holder(machine, "t1") == (MINE.id if over else FRESH.id)


async def test_a_trigger_is_parked_where_only_a_newer_release_can_read_who_has_the_claim() -> None:
    """No other saga got the event: skipping it would start none, and waiting would hold up all others."""
    begun_by = StartOn("task.opened", lambda _, task_id: {"task_id": task_id})
    async with saga_machine(SagaCatalog(replace(SAGA, triggers=(*SAGA.triggers, begun_by)))) as machine:
        await start(machine, MINE, "t1")
        await suspended_by_a_newer_release(machine.store, MINE)
        for event in (deleted("t1").model_copy(update={"event_type": "task.opened"}), deleted("t1")):
            with pytest.raises(StreamUnreadable) as unreadable:
                await machine.triggers.on_domain_event(event)
            assert not is_transient(unreadable.value)


@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"id": "mine", "started": {}}'])
async def test_a_claim_that_was_damaged_is_named_and_what_asks_for_it_is_not_let_go(damaged: bytes) -> None:
    begun_by = StartOn("task.opened", lambda _, task_id: {"task_id": task_id})
    async with saga_machine(SagaCatalog(replace(SAGA, triggers=(*SAGA.triggers, begun_by)))) as machine:
        await start(machine, MINE, "t1")
        kept = machine.dapr.stores["eventstore"]
        (claim,) = (key for key in kept.keys(datetime.now(UTC)) if key.startswith("saga-claim/"))
        kept.write(Operation(claim, damaged), datetime.now(UTC))
        for event in (deleted("t1").model_copy(update={"event_type": "task.opened"}), deleted("t1")):
            with pytest.raises(Undecodable, match=f"^{claim} cannot be decoded"):
                await machine.triggers.on_domain_event(event)
        with pytest.raises(Undecodable):
            await start(machine, FRESH, "t1", new=True)


async def test_a_saga_is_not_refused_to_another_where_only_a_newer_release_can_read_who_has_its_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "_INSIST_SECONDS", 0.01)
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        await start(machine, MINE, "t1")
        await suspended_by_a_newer_release(machine.store, MINE)
        call = {"id": "parent", "tenant": "default", "run": 0, "child": "fresh", "type": SAGA.type}
        call |= {"input": {"task_id": "t1"}, "cancelled": False}
        beginning = asyncio.create_task(machine.children.begin(call, None))
        await asyncio.wait([beginning], timeout=0.1)
        assert not beginning.done()
        monkeypatch.setattr(SagaState, "state_schema", SagaState.state_schema + 1)
        assert (await beginning)["refused"] == "saga mine runs for t1"


async def test_sagas_of_two_tenants_under_one_id_are_two() -> None:
    async with saga_machine(SagaCatalog(SAGA)) as machine:
        ask, one, other = machine.orchestrator, SagaKey("same", "one"), SagaKey("same", "other")
        for key in (one, other):
            assert await start(machine, key, "t1") == Started("same", created=True)
        await ask.terminate(other, "enough", Asker())
        await ask.raise_event(one, "yes", None, Asker())
        await machine.clock.settle()
        statuses = [(await ask.load(key)).status for key in (one, other)]
        assert statuses == [SagaStatus.COMPLETED, SagaStatus.FAILED]
