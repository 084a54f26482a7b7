"""What a saga meets only on real workflows: children and activities that end otherwise than by an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

import orjson
import pytest
from dapr.ext.workflow import DaprWorkflowContext
from pydantic import AfterValidator, Field, PlainSerializer, ValidationError

from annals.aggregates import RuleViolation
from annals.dapr import DaprError
from annals.dapr.invocation import Answer
from annals.events import DomainEvent, RecordedEvent
from annals.sagas import (
    AwaitEvent,
    CancelOn,
    Parallel,
    Saga,
    SagaCatalog,
    SagaInput,
    SagaStatus,
    SendCommand,
    StartSaga,
    StartSagas,
    Step,
    StepStatus,
    history,
    orchestrator,
)
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Asker, NotBegun, NotDeclared, Orchestrator, instance_id
from annals.sagas.start import child_id
from annals.sagas.watch import Watch
from annals.sagas.workflow import SagaWorker
from annals.store import Append, Appended, AppendTooLarge
from annals.store.sizes import ENVELOPE_BYTES
from saga_machine import SagaMachine, saga_machine

KEY = SagaKey("p", "default", "ada")


class Numbered(SagaInput):
    n: int = 0


CHILD = Saga("child", Numbered, (Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1))),))
MANY = Saga(
    "parent",
    Numbered,
    (Step("all", StartSagas("child", lambda _: [{"n": n} for n in range(4)], concurrency=2)),),
    output=lambda saga: saga.results["all"],
)
ANEW = Saga("child", Numbered, (*CHILD.steps, Step("v", CHILD.steps[0].action)), 2)
ONE = Saga("parent", Numbered, (Step("all", StartSaga("child", lambda _: {})),))
CHILDREN = [SagaKey(child_id("p", "all", index), "default", "ada") for index in range(4)]


async def test_a_child_that_is_ended_by_force_is_counted_and_the_others_go_on() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.terminate(CHILDREN[0], "this one only", Asker("boss"))
        for child in CHILDREN[1:]:
            await machine.clock.settle()
            await ask.raise_event(child, "yes", None, Asker("ada"))
        await machine.clock.settle()
        ended = await ask.load(KEY)
        assert ended.status is SagaStatus.COMPLETED
        assert ended.output == {
            "total": 4,
            "by_status": {"completed": 3, "failed": 1},
            "not_completed": [{"id": CHILDREN[0].id, "status": "failed", "reason": "this one only"}],
        }


async def test_a_saga_that_somebody_started_under_the_id_of_a_child_is_none() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask, taken = machine.orchestrator, replace(CHILDREN[3], user="mallory")
        await ask.start(KEY, "parent", {}, None)
        await ask.start(taken, "child", {"n": 99}, None)
        await machine.clock.settle()
        for child in CHILDREN[:3]:
            await ask.raise_event(child, "yes", None, Asker("ada"))
            await machine.clock.settle()
        ended = await ask.load(KEY)
        assert ended.status is SagaStatus.COMPLETED
        assert ended.output == {
            "total": 4,
            "by_status": {"completed": 3, "not_started": 1},
            "not_completed": [
                {"id": taken.id, "status": "not_started", "reason": "another saga has this id"}
            ],
        }


async def test_a_saga_that_is_restarted_takes_nobody_elses_for_its_child() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.start(CHILDREN[3], "child", {"n": 3}, None)
        await machine.clock.settle()
        await ask.raise_event(CHILDREN[3], "yes", None, Asker("ada"))
        await ask.restart(KEY, "it stood still", Asker())
        for child in CHILDREN[:3]:
            await machine.clock.settle()
            await ask.raise_event(child, "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).output["by_status"] == {"completed": 3, "not_started": 1}


async def test_a_saga_under_the_id_of_a_child_is_not_ended_with_whose_child_it_is_not() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.start(CHILDREN[3], "child", {"n": 3}, None)
        await machine.clock.settle()
        await ask.terminate(KEY, "enough", Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).terminated
        assert not (await ask.load(CHILDREN[3])).terminated


async def with_a_lost_child(machine: SagaMachine) -> Orchestrator:
    """What is asked of a saga of many: the workflow of its first child is lost, the others are over."""
    ask = machine.orchestrator
    await ask.start(KEY, "parent", {}, None)
    await machine.clock.settle()
    machine.dapr.workflows.terminate(instance_id(CHILDREN[0]))
    for child in CHILDREN[1:]:
        await machine.clock.settle()
        await ask.raise_event(child, "yes", None, Asker("ada"))
    await machine.clock.settle()
    return ask


async def test_a_child_whose_workflow_is_lost_is_counted_and_the_others_go_on() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = await with_a_lost_child(machine)
        assert (await ask.load(KEY)).output["by_status"] == {"completed": 3, "failed": 1}
        # As the watch does when it finds it: it is not to go on alone.
        await ask.restart(CHILDREN[0], "it stood still", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).status is SagaStatus.COMPENSATED


async def test_a_lost_child_that_was_given_up_is_taken_back_while_the_saga_that_started_it_goes_on() -> None:
    then = Step("then", AwaitEvent(("go",), deadline=lambda _: timedelta(days=30)))
    async with saga_machine(SagaCatalog(replace(MANY, steps=(*MANY.steps, then)), CHILD)) as machine:
        ask = await with_a_lost_child(machine)
        # As the watch does when it finds it.
        await ask.restart(CHILDREN[0], "it stood still", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).status is SagaStatus.COMPENSATED
        going_on = await ask.load(KEY)
        assert (going_on.status, going_on.run) == (SagaStatus.RUNNING, 0)


async def test_a_lost_child_goes_on_with_the_saga_that_was_restarted_meanwhile() -> None:
    async with saga_machine(SagaCatalog(ONE, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.restart(KEY, "it stood still", Asker())
        await machine.clock.settle()
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[0].id}
        late |= {"type": "child", "input": {}, "cancelled": False, "begun": True}
        await ask.begin_child(late, None)
        await ask.raise_event(CHILDREN[0], "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_child_that_begins_after_its_parent_was_ended_is_taken_back(restarted: bool) -> None:
    """As when it is begun while the store is slow, or by the workflow of a run from before."""
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        if restarted:
            await ask.restart(KEY, "it stood still", Asker())
            await ask.cancel(KEY, "not any more", Asker())
            await machine.clock.settle()
        else:
            await ask.terminate(KEY, "not any more", Asker())
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[3].id}
        late |= {"type": "child", "input": {}, "cancelled": False}
        await ask.begin_child(late, None)
        # As the watch does when it finds it.
        if not (await ask.load(CHILDREN[3])).status.ended:
            await ask.restart(CHILDREN[3], "it stood still", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[3])).status is SagaStatus.COMPENSATED


async def test_a_version_that_the_worker_does_not_know_yet_waits_for_one_that_does() -> None:
    before, after = SagaCatalog(ONE, CHILD), SagaCatalog(ONE, CHILD, ANEW)
    async with saga_machine(after, before=before) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        child = await ask.load(CHILDREN[0])
        assert (child.status, child.saga_version) == (SagaStatus.PENDING, 2)
        assert (await ask.load(KEY)).status is SagaStatus.RUNNING
        await machine.upgrade()
        for _ in ANEW.steps:
            await machine.clock.settle()
            await ask.raise_event(CHILDREN[0], "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_saga_that_came_to_a_worker_of_before_is_restarted_and_goes_on() -> None:
    async with saga_machine(SagaCatalog(CHILD, ANEW), before=SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, None)
        await machine.clock.settle()
        with pytest.raises(DaprError, match="stalled"):
            await machine.workflows.pause(instance_id(KEY))
        await ask.restart(KEY, "it stood still", Asker())
        await machine.upgrade()
        for _ in ANEW.steps:
            await machine.clock.settle()
            await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.clock.settle()
        ended = await ask.load(KEY)
        assert (ended.status, ended.run) == (SagaStatus.COMPLETED, 1)
        assert machine.dapr.workflows.find(instance_id(KEY, 0)).ended
        assert (await machine.types(KEY)).count("saga.waiting") == len(ANEW.steps)


async def test_a_saga_that_no_worker_knows_any_more_is_ended_by_force() -> None:
    async with saga_machine(SagaCatalog(CHILD, ANEW), before=SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, None)
        await machine.clock.settle()
        ended = await ask.terminate(KEY, "it is not wanted", Asker("boss"))
        assert (ended.status, ended.reason) == (SagaStatus.FAILED, "it is not wanted")
        before = await machine.types(KEY)
        await machine.upgrade()
        await machine.clock.settle()
        assert machine.dapr.workflows.find(instance_id(KEY)).ended
        assert await machine.types(KEY) == before


async def test_a_saga_that_dapr_holds_as_stalled_is_cancelled_by_an_event_all_the_same() -> None:
    """The triggers of all sagas wait for each event that they are told of."""
    gone = CancelOn("thing.gone", lambda _, number: number)
    keyed = {"business_key": lambda given: str(given.n), "triggers": (gone,)}
    older, newer = replace(CHILD, **keyed), replace(ANEW, **keyed)
    async with saga_machine(SagaCatalog(older, newer), before=SagaCatalog(older)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, None)
        await machine.clock.settle()
        event = DomainEvent(
            event_type="thing.gone", source="t", aggregate_type="thing", aggregate_id="0", data={}
        )
        await machine.triggers.on_domain_event(RecordedEvent.record(event, version=1, lane=0, seq=1))
        await machine.clock.settle()
        assert (await ask.load(KEY)).cancel_reason == "thing.gone"
        with pytest.raises(DaprError, match="stalled"):
            await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.upgrade()
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED


async def test_one_that_is_cancelled_while_dapr_holds_it_starts_no_more_when_it_is_let_go() -> None:
    """As in an upgrade: nobody finds it to stand still while what it started is under way."""
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        begun = [(await machine.orchestrator.load(child)).status for child in CHILDREN]
        machine.dapr.workflows.find(instance_id(KEY)).stalled = True
        await machine.orchestrator.cancel(KEY, "she stays", Asker("boss"))
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
        assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "she stays")
        for child, before in zip(CHILDREN, begun, strict=True):
            now = (await machine.orchestrator.load(child)).status
            assert now is (SagaStatus.NONE if before is SagaStatus.NONE else SagaStatus.COMPENSATED)


async def test_a_saga_is_taken_back_once_though_dapr_holds_what_it_runs() -> None:
    """As in the middle of an upgrade: in a workflow of its own each would be held again."""
    async with saga_machine(SagaCatalog(MANY, CHILD, ANEW), before=SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.cancel(KEY, "she stays", Asker("boss"))
        await machine.clock.settle()
        assert [(await ask.load(child)).cancel_requested for child in CHILDREN[:2]] == [True, True]
        await machine.upgrade()
        await machine.clock.settle()
        for saga in (KEY, *CHILDREN[:2]):
            ended = await ask.load(saga)
            assert (ended.status, ended.run) == (SagaStatus.COMPENSATED, 0)


@pytest.mark.parametrize("halted", [KEY, CHILDREN[0]])
async def test_who_cancels_what_dapr_holds_lets_nothing_go_on_that_somebody_halted(halted: SagaKey) -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await ask.suspend(halted, Asker("boss"))
        machine.dapr.workflows.find(instance_id(CHILDREN[0])).stalled = True
        await ask.cancel(CHILDREN[0], "its task was deleted", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).cancel_reason == "its task was deleted"
        left = await ask.load(halted)
        assert (left.status, left.suspended, left.run) == (SagaStatus.RUNNING, True, 0)


async def test_one_that_is_halted_while_dapr_holds_it_stays_halted_when_it_is_cancelled() -> None:
    async with saga_machine(SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, None)
        await machine.clock.settle()
        await ask.suspend(KEY, Asker("boss"))
        machine.dapr.workflows.find(instance_id(KEY)).stalled = True
        state = await ask.cancel(KEY, "she stays", Asker("boss"))
        assert (state.cancel_reason, state.suspended, state.run) == ("she stays", True, 0)


async def test_an_only_child_that_is_ended_by_force_fails_its_step() -> None:
    async with saga_machine(SagaCatalog(ONE, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        await machine.orchestrator.terminate(CHILDREN[0], "not this one", Asker("boss"))
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
        assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "all: not this one")


@pytest.mark.parametrize("steps", [("b",), ("b", "c")])
async def test_a_child_that_is_ended_by_force_while_its_step_runs_says_why(steps: tuple[str, ...]) -> None:
    """Its stream says so before its workflow is ended, and what the step came to may come between."""

    class Ending:
        async def invoke(self, *_: Any, **__: Any) -> Answer:
            await machine.history.decide(CHILDREN[0], lambda saga: saga.terminate("enough", frozenset()))
            return Answer(200, {})

    child = Saga("child", Numbered, tuple(command(step) for step in steps))
    async with saga_machine(SagaCatalog(ONE, child), Ending()) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "all: enough")


class Broken:
    """Answers commands, but for one: that takes effect, and what comes back is beyond what is foreseen."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        self.did.append(path.removeprefix("commands/"))
        if path == "commands/b":
            raise RuntimeError("beyond all")
        return Answer(200, {})


def command(name: str, **step: Any) -> Step:
    undo = SendCommand(f"{name}_back", lambda _: {})
    return Step(name, SendCommand(name, lambda _: {}), compensation=undo, **step)


async def test_what_is_sent_may_be_made_of_more_than_json() -> None:
    sent: list[Any] = []

    class Taken:
        async def invoke(self, _app: str, _method: str, _path: str, *, json: Any, **_: Any) -> Answer:
            sent.append(json)
            return Answer(200, {})

    due = Step("a", SendCommand("a", lambda saga: {"due": saga.started, "in": timedelta(hours=1)}))
    declared = Saga("test", Numbered, (due,), output=lambda saga: {"since": saga.started})
    async with saga_machine(SagaCatalog(declared), Taken()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason) == (SagaStatus.COMPLETED, None)
    assert sent == [{"due": ended.output["since"], "in": "PT1H"}]


WAIT = Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1)))


@pytest.mark.parametrize(
    ("block", "meant"),
    [
        ((command("b"), command("c")), ["a", "b", "b_back", "a_back"]),
        ((WAIT, command("c")), ["a", "a_back"]),
        ((command("b", when=lambda _: False), WAIT), ["a", "a_back"]),
    ],
)
async def test_a_cancel_of_which_the_workflow_was_not_told_is_read_in_the_history(
    block: Any, meant: list[str]
) -> None:
    """As when who cancelled it died between the two."""
    did: list[str] = []

    class Cancelling:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            if not did:
                await machine.history.decide(KEY, lambda saga: saga.cancel("not any more"))
            did.append(path.removeprefix("commands/"))
            return Answer(200, {})

    saga = Saga("test", Numbered, (command("a"), *block))
    async with saga_machine(SagaCatalog(saga), Cancelling()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason, did) == (SagaStatus.COMPENSATED, "not any more", meant)


class Answering:
    """Answers all commands; before the first of them it does something."""

    def __init__(self, first: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.did: list[str] = []
        self._first = first

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        if self._first is not None and not self.did:
            await self._first()
        self.did.append(path.removeprefix("commands/"))
        return Answer(200, {})


async def test_a_saga_whose_input_is_refused_later_is_not_restarted_and_can_be_terminated() -> None:
    """As by a validator that looks at the clock, or that a release made stricter."""
    refused: set[int] = set()

    def in_time(n: int) -> int:
        if n in refused:
            raise ValueError("it is too late for this")
        return n

    class Timely(SagaInput):
        n: Annotated[int, AfterValidator(in_time)]

    apps = Answering()
    saga = Saga("test", Timely, (command("a"), WAIT), business_key=lambda _: "one")
    async with saga_machine(SagaCatalog(saga), apps) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {"n": 1}, None)
        await machine.clock.settle()
        refused.add(1)
        await machine.clock.advance(timedelta(days=1))
        assert (await ask.load(KEY)).status is SagaStatus.RUNNING
        with pytest.raises(NotDeclared, match="it is too late for this"):
            await ask.restart(KEY, "it stood still", Asker())
        assert (await ask.load(KEY)).run == 0
        ended = await ask.terminate(KEY, "it is too late", Asker("boss"))
        assert (ended.status, ended.left) == (SagaStatus.FAILED, ("a",))
        assert (await ask.start(replace(KEY, id="q"), "test", {"n": 2}, None)).created
        refused.clear()
        await ask.retry(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED
    assert sorted(apps.did) == ["a", "a", "a_back"]


async def test_an_input_that_is_refused_as_it_is_stored_begins_nothing() -> None:
    """Each of its turns would be refused."""

    class Stored(SagaInput):
        n: Annotated[int, AfterValidator(lambda n: n), PlainSerializer(lambda n: f"number {n}")]

    saga = Saga("test", Stored, (WAIT,), business_key=lambda _: "one")
    async with saga_machine(SagaCatalog(saga)) as machine:
        with pytest.raises(ValidationError, match="unable to parse"):
            await machine.orchestrator.start(KEY, "test", {"n": 1}, None)
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.NONE
        assert (
            await machine.claims.holder("default", "test", "one", machine.orchestrator.begin_claimed) is None
        )


async def test_an_input_with_an_alias_is_read_as_it_is_stored() -> None:
    """By the names of its fields, as the data of an event is."""

    class Aliased(SagaInput):
        n: int = Field(alias="number")

    saga = Saga("test", Aliased, (command("a"),), output=lambda context: context.input.n)
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {"number": 1}, None)
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).output == 1


COMMANDS = Saga("test", Numbered, (command("a"), command("b")))


def timers(machine: SagaMachine) -> list[Any]:
    history = machine.dapr.workflows.find(instance_id(KEY)).history
    return [event for event in history if event.HasField("timerCreated")]


async def test_a_saga_of_commands_costs_the_scheduler_no_timer() -> None:
    async with saga_machine(SagaCatalog(COMMANDS), Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
        assert timers(machine) == []


async def test_a_saga_that_is_cancelled_during_a_step_begins_no_other() -> None:
    async def cancel() -> None:
        await machine.orchestrator.cancel(KEY, "not any more", Asker())

    answering = Answering(cancel)
    async with saga_machine(SagaCatalog(COMMANDS), answering) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "not any more")
    assert answering.did == ["a", "a_back"]


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_saga_goes_on_that_began_when_each_waited_for_a_cancel(
    cancels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = asyncio.Event()

    async def wait() -> None:
        await waited.wait()

    answering = Answering(wait)
    async with saga_machine(SagaCatalog(COMMANDS), answering) as machine:
        with monkeypatch.context() as before:
            before.setattr(DaprWorkflowContext, "is_patched", lambda _self, _name: False)
            await machine.orchestrator.start(KEY, "test", {}, None)
            assert len(timers(machine)) == 1
        if cancels:
            await machine.orchestrator.cancel(KEY, "not any more", Asker())
        waited.set()
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is (SagaStatus.COMPENSATED if cancels else SagaStatus.COMPLETED)
    assert answering.did == (["a", "a_back"] if cancels else ["a", "b"])


async def test_a_saga_that_looks_for_a_cancel_stands_still_at_a_worker_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wait() -> None:
        await asyncio.wait_for(waited.wait(), 30)

    waited, answering = asyncio.Event(), Answering(wait)
    async with saga_machine(SagaCatalog(COMMANDS), answering) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        with monkeypatch.context() as before:
            before.setattr(DaprWorkflowContext, "is_patched", lambda _self, _name: False)
            waited.set()
            await machine.clock.settle()
        assert machine.dapr.workflows.find(instance_id(KEY)).stalled
        await machine.upgrade()
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
    assert answering.did == ["a", "b"]


def answered(name: str, *, days: int = 30) -> Step:
    deadline = timedelta(days=days)
    return Step(name, AwaitEvent((f"yes-{name}",), lambda _: deadline, refusals=(f"no-{name}",)))


def beside(*steps: Step) -> Saga[Numbered]:
    return Saga("test", Numbered, (Parallel(*steps), command("b")))


FOUR_EYES = beside(answered("v"), answered("w"))


def activities(machine: SagaMachine) -> list[str]:
    history = machine.dapr.workflows.find(instance_id(KEY)).history
    return [event.taskScheduled.name for event in history if event.HasField("taskScheduled")]


def patches(machine: SagaMachine) -> list[str]:
    history = machine.dapr.workflows.find(instance_id(KEY)).history
    begun = [event.workflowStarted for event in history if event.HasField("workflowStarted")]
    return [patch for one in begun for patch in one.version.patches]


@pytest.mark.parametrize(("first", "second"), [("v", "w"), ("w", "v")])
async def test_of_two_that_wait_beside_each_other_the_one_that_was_answered_waits_no_more(
    first: str, second: str
) -> None:
    async with saga_machine(SagaCatalog(FOUR_EYES), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await ask.raise_event(KEY, f"yes-{first}", 7, Asker("ada"))
        await machine.clock.settle()
        going_on = await ask.load(KEY)
        assert (going_on.waits_for, going_on.raised) == ((f"yes-{second}", f"no-{second}"), ())
        assert going_on.results == {first: {"event": f"yes-{first}", "data": 7}}
        with pytest.raises(RuleViolation, match="nothing waits for"):
            await ask.raise_event(KEY, f"no-{first}", None, Asker("ada"))
        await ask.raise_event(KEY, f"yes-{second}", 8, Asker("bob"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_one_of_two_answers_is_no_reason_to_restart_a_saga() -> None:
    async def unmoved() -> list[SagaKey]:
        return [KEY]

    async def being_imported() -> bool:
        return False

    catalog, now = SagaCatalog(FOUR_EYES), [0.0]
    async with saga_machine(catalog, Answering()) as machine:
        ask, history = machine.orchestrator, machine.history
        watch = Watch(history, ask, unmoved, being_imported, seconds=60, clock=lambda: now[0])
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await ask.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
        for _ in range(2 * 24 * 60):
            now[0] += 30
            await watch.look()
        assert (await ask.load(KEY)).run == 0


async def test_one_of_two_answers_that_comes_while_a_saga_is_suspended_counts_when_it_goes_on() -> None:
    async with saga_machine(SagaCatalog(FOUR_EYES), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await ask.suspend(KEY, Asker("boss"))
        await ask.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
        await ask.resume(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).waits_for == ("yes-w", "no-w")
        await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_deadline_that_passes_beside_another_wait_is_told_at_once() -> None:
    saga = beside(answered("v", days=1), answered("w"))
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.advance(timedelta(days=2))
        going_on = await ask.load(KEY)
        assert {name: going_on.step(name).status for name in "vw"} == {
            "v": StepStatus.FAILED,
            "w": StepStatus.WAITING,
        }
        await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        ended = await ask.load(KEY)
        assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "v: nobody answered in time")


async def test_a_step_that_is_done_beside_one_that_waits_is_taken_back_by_what_it_came_to() -> None:
    sent: list[Any] = []

    class Ordering:
        async def invoke(self, _app: str, _method: str, path: str, *, json: Any, **_: Any) -> Answer:
            sent.append((path.removeprefix("commands/"), json))
            return Answer(200, {"id": "o-7"})

    undo = SendCommand("cancel", lambda saga: {"id": saga.results["order"]["id"]})
    order = Step("order", SendCommand("order", lambda _: {}), compensation=undo)
    async with saga_machine(SagaCatalog(beside(order, answered("w"))), Ordering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        assert (await ask.terminate(KEY, "enough", Asker("boss"))).left == ("order",)
        await ask.retry(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED
    assert sent == [("order", {}), ("cancel", {"id": "o-7"})]


@pytest.mark.parametrize("long", [answered("w"), Step("w", StartSaga("child", lambda _: {}))])
async def test_a_step_that_is_done_beside_one_that_takes_long_is_not_done_again(long: Step) -> None:
    answering = Answering()
    async with saga_machine(SagaCatalog(beside(command("a"), long), CHILD), answering) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        assert (await ask.load(KEY)).step("a").status is StepStatus.COMPLETED
        await ask.restart(KEY, "it stood still", Asker())
        await machine.clock.settle()
        own, event = (
            (KEY, "yes-w")
            if isinstance(long.action, AwaitEvent)
            else (SagaKey(child_id("p", "w", 0), "default", "ada"), "yes")
        )
        await ask.raise_event(own, event, None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED
    assert answering.did == ["a", "b"]


LOOKS, TELLS = "annals.looks-for-a-cancel", "annals.tells-before-it-waits"


@pytest.mark.parametrize(
    ("steps", "asked", "patched"),
    [
        ((command("a"), command("b"), command("c")), ["perform"] * 3, [LOOKS]),
        ((command("a"), WAIT, command("b")), ["perform", "record", "perform"], [LOOKS]),
        (
            (command("a"), Step("s", StartSaga("child", lambda _: {})), command("b")),
            ["perform", "record", "begin_child", "perform"],
            [LOOKS],
        ),
        ((Parallel(command("a"), command("b")), command("c")), ["perform"] * 3, [LOOKS, TELLS]),
        ((Parallel(answered("v"), WAIT), command("a")), [*["record"] * 3, "perform"], [LOOKS, TELLS]),
    ],
)
async def test_what_came_to_pass_costs_an_activity_where_steps_beside_each_other_only_wait(
    steps: Any, asked: list[str], patched: list[str]
) -> None:
    catalog = SagaCatalog(Saga("test", Numbered, steps), CHILD)
    async with saga_machine(catalog, Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        child = SagaKey(child_id("p", "s", 0), "default", "ada")
        for key, event in ((KEY, "yes-v"), (KEY, "yes"), (child, "yes")):
            if event in (await machine.orchestrator.load(key)).waits_for:
                await machine.orchestrator.raise_event(key, event, None, Asker("ada"))
                await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
        assert (activities(machine), patches(machine)) == (asked, patched)


def of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker be one that told of nothing while all that was left was to wait."""
    is_patched = DaprWorkflowContext.is_patched

    def asked(context: DaprWorkflowContext, name: str) -> bool:
        return name == LOOKS and is_patched(context, name)

    monkeypatch.setattr(DaprWorkflowContext, "is_patched", asked)


async def begun_before(machine: SagaMachine, monkeypatch: pytest.MonkeyPatch) -> Orchestrator:
    """With a saga that one of those has answered whom it waits for, both at a worker of before."""
    with monkeypatch.context() as before:
        of_before(before)
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await machine.orchestrator.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
    return machine.orchestrator


async def test_a_saga_goes_on_that_began_when_nothing_was_told_before_the_last_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saga = beside(command("a"), answered("v"), answered("w"), answered("x"))
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        ask = await begun_before(machine, monkeypatch)
        await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        assert (activities(machine), patches(machine)) == (["perform", *["record"] * 3], [LOOKS])
        await ask.raise_event(KEY, "yes-x", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_saga_that_has_told_of_no_answer_tells_of_it_when_it_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with saga_machine(SagaCatalog(FOUR_EYES), Answering()) as machine:
        ask = await begun_before(machine, monkeypatch)
        assert (await ask.load(KEY)).raised
        await ask.restart(KEY, "it stood still", Asker())
        await machine.clock.settle()
        going_on = await ask.load(KEY)
        assert (going_on.waits_for, going_on.raised) == (("yes-w", "no-w"), ())
        await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_saga_that_told_before_it_waits_stands_still_at_a_worker_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with saga_machine(SagaCatalog(FOUR_EYES), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await ask.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
        with monkeypatch.context() as before:
            of_before(before)
            await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
            await machine.clock.settle()
        assert machine.dapr.workflows.find(instance_id(KEY)).stalled
        await machine.upgrade()
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_cancel_between_a_restart_and_its_workflow_is_told_to_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask, tell = machine.orchestrator, machine.workflows.raise_event
        await ask.start(KEY, "parent", {}, None)
        await machine.clock.settle()
        restarted = await machine.history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))

        async def raise_event(instance: str, event: str, data: Any) -> bool:
            there = await tell(instance, event, data)
            if not there:
                await ask.replace_workflow(KEY, restarted, Asker())
            return there

        monkeypatch.setattr(machine.workflows, "raise_event", raise_event)
        await ask.cancel(KEY, "not any more", Asker())
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED
        begun = [await ask.load(child) for child in CHILDREN[:2]]
        assert {child.status for child in begun} == {SagaStatus.COMPENSATED}


async def test_a_saga_is_halted_when_its_workflow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not said to be before that is there: it would go on in spite of it."""
    monkeypatch.setattr(orchestrator, "_NOT_YET_SECONDS", (0.0,))
    async with saga_machine(SagaCatalog(CHILD)) as machine:
        ask, halt = machine.orchestrator, machine.workflows.pause
        await ask.start(KEY, "child", {}, None)
        await machine.clock.settle()
        restarted = await machine.history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
        with pytest.raises(NotBegun):
            await ask.suspend(KEY, Asker("boss"))

        async def pause(instance: str) -> bool:
            there = await halt(instance)
            if not there:
                await ask.replace_workflow(KEY, restarted, Asker())
            return there

        monkeypatch.setattr(orchestrator, "_NOT_YET_SECONDS", (0.0, 0.0))
        monkeypatch.setattr(machine.workflows, "pause", pause)
        await ask.suspend(KEY, Asker("boss"))
        await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.RUNNING
        await ask.resume(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("block", [(command("b"),), (Parallel(command("b"), command("c")),)])
async def test_a_step_whose_activity_failed_may_have_acted_and_is_taken_back(block: Any) -> None:
    broken = Broken()
    saga = Saga("test", Numbered, (command("a"), *block))
    async with saga_machine(SagaCatalog(saga), broken) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert "beyond all" in (ended.reason or "")
    assert ended.steps["b"].status == "compensated"
    assert sorted(broken.did) == sorted(list(ended.steps) + [f"{name}_back" for name in ended.steps])


async def test_a_step_that_comes_to_an_id_that_no_history_can_hold_is_taken_back_with_all_before_it() -> None:
    """Many an outside system's id is a number beyond 2^53."""
    did: list[str] = []

    class Numbering:
        async def invoke(self, app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            return Answer(200, {"id": 1234567890123456789} if app == "shop" else {})

    order = Step(
        "order",
        SendCommand("order", lambda _: {}, app="shop"),
        compensation=SendCommand("order_back", lambda _: {}, app="shop"),
    )
    saga = Saga("test", Numbered, (command("a"), order, command("b")))
    async with saga_machine(SagaCatalog(saga), Numbering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert "order came to what cannot be stored: data.result.id: a number beyond" in (ended.reason or "")
    assert did == ["a", "order", "order_back", "a_back"]


@pytest.mark.parametrize("words", ["a\0b", "caf\udce9.txt"])
async def test_a_declaration_that_fails_in_words_that_cannot_be_stored_is_taken_back(words: str) -> None:
    def failing(_: Any) -> Any:
        raise ValueError(words)

    saga = Saga("test", Numbered, (command("a"), Step("b", SendCommand("b", failing))))
    async with saga_machine(SagaCatalog(saga), Broken()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert (ended.reason or "").startswith("ValueError: ")


@pytest.mark.parametrize("times", [1, 100])
async def test_a_compensation_that_fails_beyond_what_is_foreseen_is_tried_again_and_then_left(
    times: int,
) -> None:
    """And the others go on: what was done before it is taken back all the same."""

    class BreaksBack:
        def __init__(self) -> None:
            self.did: list[str] = []

        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            self.did.append(path.removeprefix("commands/"))
            if path == "commands/c":
                return Answer(422, {"type": "urn:annals:problem:rule", "detail": REFUSED})
            if path == "commands/b_back" and self.did.count("b_back") <= times:
                raise RuntimeError("beyond all")
            return Answer(200, {})

    breaks = BreaksBack()
    saga = Saga("test", Numbered, (command("a"), command("b"), command("c")))
    async with saga_machine(SagaCatalog(saga), breaks) as machine:
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        for _ in range(20):
            await machine.clock.advance(timedelta(seconds=30))
        ended = await machine.orchestrator.load(KEY)
    known = ended.steps["b"]
    if times == 1:
        assert (ended.status, ended.left, known.undo_attempts) == (SagaStatus.COMPENSATED, (), 2)
    else:
        assert (ended.status, ended.left) == (SagaStatus.FAILED, ("b",))
        assert "beyond all" in (known.error.message if known.error else "")
        assert known.status is StepStatus.COMPENSATION_FAILED
    assert (breaks.did[-1], ended.steps["a"].status) == ("a_back", StepStatus.COMPENSATED)


TOO_MUCH = "too much for one transaction"
REFUSED = "no more of that"


def bound(machine: SagaMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store take no saga that is larger than 40 kB."""
    append = machine.store.append

    async def bounded(given: Append) -> Appended:
        if len(orjson.dumps(given.state)) > 40_000:
            raise AppendTooLarge(TOO_MUCH)
        return await append(given)

    monkeypatch.setattr(machine.store, "append", bounded)


@pytest.mark.parametrize(
    ("steps", "cancels", "why"),
    [
        ((command("a"),), False, TOO_MUCH),
        ((command("a"), command("b")), False, TOO_MUCH),
        ((command("a"), WAIT), False, TOO_MUCH),
        ((command("a"), command("b")), True, "not any more"),
        ((Parallel(command("a"), command("refused")),), False, REFUSED),
    ],
)
async def test_a_step_that_comes_to_more_than_can_be_recorded_is_taken_back(
    steps: tuple[Any, ...], cancels: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if path == "commands/refused":
                return Answer(422, {"type": "urn:annals:problem:rule", "detail": REFUSED})
            if path != "commands/a":
                return Answer(200, {})
            if cancels:
                await machine.orchestrator.cancel(KEY, "not any more", Asker())
            return Answer(200, {"text": "x" * 50_000})

    saga = Saga("test", Numbered, steps)
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert why in (ended.reason or "")
    assert (did[0], did[-1], did.count("a")) == ("a", "a_back", 1)


async def test_what_could_not_be_recorded_beside_a_wait_is_taken_back_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            return Answer(200, {"text": "x" * 50_000})

    async with saga_machine(SagaCatalog(beside(command("a"), answered("w"))), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        await machine.orchestrator.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert TOO_MUCH in (ended.reason or "")
    assert (did[0], did[-1], did.count("a")) == ("a", "a_back", 1)


async def test_what_could_not_be_recorded_is_taken_back_also_by_who_goes_on_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if did[-1] == "b_back" and did.count("b_back") == 1:
                going_back.set()
                await goes_on.wait()
            return Answer(200, {"text": "x" * 50_000} if path == "commands/a" else {})

    going_back, goes_on = asyncio.Event(), asyncio.Event()
    saga = Saga("test", Numbered, (command("z"), command("a"), command("b"), command("c")))
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, None)
        async with asyncio.timeout(20):
            await going_back.wait()
        await machine.orchestrator.restart(KEY, "its workflow was lost", Asker())
        goes_on.set()
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert list(dict.fromkeys(did)) == ["z", "a", "b_back", "a_back", "z_back"]
    assert {ended.steps[name].status for name in ("z", "a", "b")} == {StepStatus.COMPENSATED}


async def test_a_saga_that_comes_to_too_much_by_small_results_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left out of the record on the way back is less than what that adds to it."""
    sizes = [40_000, 20_000, 10_000, 5_000, *[700] * 40]
    did: list[str] = []

    class Terse:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if did[-1].endswith("_back"):
                return Answer(200, {})
            return Answer(200, {"text": "x" * sizes[int(did[-1].removeprefix("s"))]})

    saga = Saga("test", Numbered, tuple(command(f"s{index}") for index in range(len(sizes))))
    async with saga_machine(SagaCatalog(saga), Terse()) as machine:
        append = machine.store.append

        async def bounded(given: Append) -> Appended:
            size = sum(len(orjson.dumps(event.data)) + ENVELOPE_BYTES for event in given.events)
            if size + len(orjson.dumps(given.state)) > 100_000 + history._WAY_BACK_BYTES - given.reserve:
                raise AppendTooLarge(TOO_MUCH)
            return await append(given)

        monkeypatch.setattr(machine.store, "append", bounded)
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, TOO_MUCH in (ended.reason or "")) == (SagaStatus.COMPENSATED, True)
    back = [name for name in did if name.endswith("_back")]
    assert 4 < len(back) < len(sizes)
    # Of the last nobody knows how far it came.
    assert back == [f"s{index}_back" for index in reversed(range(len(did) - len(back) + 1))]


async def test_a_saga_whose_completion_cannot_be_recorded_has_not_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            return Answer(200, {"text": "x" * 50_000} if path == "commands/a" else {})

    saga = Saga("test", Numbered, (command("a"),), output=lambda _: "all is well")
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, None)
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.steps["a"].status) == (SagaStatus.COMPENSATED, StepStatus.COMPENSATED)
    assert TOO_MUCH in (ended.reason or "")


async def test_a_worker_whose_sidecar_never_came_ends_when_it_is_told_to() -> None:
    def at_work() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "WorkerRunLoop"]

    before = at_work()
    task = asyncio.create_task(SagaWorker(1, SagaCatalog(), {}).run())
    while at_work() == before:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert at_work() == before
