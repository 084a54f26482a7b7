"""Waits, alone and beside each other: each answer and deadline is recorded when it comes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dapr.ext.workflow import DaprWorkflowContext

from annals.aggregates import RuleViolation
from annals.dapr.invocation import Answer
from annals.sagas import (
    AwaitEvent,
    Parallel,
    Saga,
    SagaCatalog,
    SagaStatus,
    SendCommand,
    StartSaga,
    Step,
    StepStatus,
)
from annals.sagas.asker import Asker
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.runs import instance_id
from annals.sagas.start import child_id, waits
from annals.sagas.watch import Watch
from saga_machine import SagaMachine, saga_machine
from small_sagas import CHILD, KEY, WAIT, Answering, Numbered, answered, beside, command

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
        await ask.start(KEY, "test", {}, Asker())
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
        watch = Watch(catalog, history, ask, unmoved, being_imported, seconds=60, clock=lambda: now[0])
        await ask.start(KEY, "test", {}, Asker())
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
        await ask.start(KEY, "test", {}, Asker())
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


async def test_a_saga_that_was_suspended_twice_goes_on_when_it_is_resumed_once() -> None:
    async with saga_machine(SagaCatalog(Saga("test", Numbered, (answered("v"),)))) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        for _ in range(2):
            await ask.suspend(KEY, Asker("boss"))
        await ask.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
        await ask.resume(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_saga_that_was_resumed_twice_goes_on() -> None:
    async with saga_machine(SagaCatalog(Saga("test", Numbered, (answered("v"),)))) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        await ask.suspend(KEY, Asker("boss"))
        for _ in range(2):
            await ask.resume(KEY, Asker("boss"))
            await machine.clock.settle()
        await ask.raise_event(KEY, "yes-v", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("first", ["yes-v", "no-v"])
@pytest.mark.parametrize("restarted", [True, False])
async def test_the_first_answer_to_a_wait_counts_though_another_comes_before_it_is_taken(
    first: str, restarted: bool
) -> None:
    async with saga_machine(SagaCatalog(Saga("test", Numbered, (answered("v"),)))) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        await ask.suspend(KEY, Asker("boss"))
        await ask.raise_event(KEY, first, None, Asker("ada"))
        [other] = {"yes-v", "no-v"} - {first}
        with pytest.raises(RuleViolation, match=f"another answer was raised already: {first}"):
            await ask.raise_event(KEY, other, None, Asker("bob"))
        await ask.raise_event(KEY, first, None, Asker("ada"))
        await (ask.restart(KEY, "it stood still", Asker()) if restarted else ask.resume(KEY, Asker("boss")))
        await machine.clock.settle()
        meant = {"yes-v": SagaStatus.COMPLETED, "no-v": SagaStatus.COMPENSATED}
        assert (await ask.load(KEY)).status is meant[first]


async def test_a_deadline_that_passes_beside_another_wait_is_told_at_once() -> None:
    saga = beside(answered("v", days=1), answered("w"))
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
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
        await ask.start(KEY, "test", {}, Asker())
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
        await ask.start(KEY, "test", {}, Asker())
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


LOOKS, TELLS, ASKS = (
    "annals.looks-for-a-cancel",
    "annals.tells-before-it-waits",
    "annals.asks-at-the-deadline",
)


@pytest.mark.parametrize(
    ("steps", "asked", "patched"),
    [
        ((command("a"), command("b"), command("c")), ["perform"] * 3, [LOOKS]),
        ((command("a"), WAIT, command("b")), ["perform", "record", "perform"], [LOOKS, ASKS]),
        (
            (command("a"), Step("s", StartSaga("child", lambda _: {})), command("b")),
            ["perform", "record", "begin_child", "perform"],
            [LOOKS],
        ),
        ((Parallel(command("a"), command("b")), command("c")), ["perform"] * 3, [LOOKS, TELLS]),
        ((Parallel(answered("v"), WAIT), command("a")), [*["record"] * 3, "perform"], [LOOKS, TELLS, ASKS]),
    ],
)
async def test_what_came_to_pass_costs_an_activity_where_steps_beside_each_other_only_wait(
    steps: Any, asked: list[str], patched: list[str]
) -> None:
    catalog = SagaCatalog(Saga("test", Numbered, steps), CHILD)
    async with saga_machine(catalog, Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
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
        await machine.orchestrator.start(KEY, "test", {}, Asker())
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
        await ask.start(KEY, "test", {}, Asker())
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


async def record_only(machine: SagaMachine, declared: Saga[Any], event: str) -> None:
    """Raise an event like an orchestrator that dies before it has told the workflow."""
    now = machine.clock.now()
    await machine.history.decide(
        KEY, lambda state: state.raise_event(event, 7, "ada", waits(declared), now), Asker("ada")
    )


@pytest.mark.parametrize("others", [(), (answered("w"),)], ids=["alone", "beside another"])
@pytest.mark.parametrize(
    ("event", "ends"), [("yes-v", SagaStatus.COMPLETED), ("no-v", SagaStatus.COMPENSATED)]
)
async def test_an_answer_in_time_counts_though_its_workflow_does_not_hear_of_it(
    event: str, ends: SagaStatus, others: tuple[Step, ...]
) -> None:
    saga = beside(answered("v", days=1), *others)
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        await record_only(machine, saga, event)
        await machine.clock.advance(timedelta(days=2))
        if others:
            await ask.raise_event(KEY, "yes-w", None, Asker("ada"))
            await machine.clock.settle()
        ended = await ask.load(KEY)
        assert (ended.status, ended.step("v").result) == (ends, {"event": event, "data": 7})
        assert ended.raised == ()


async def test_an_answer_that_comes_to_its_workflow_after_it_was_found_counts_once() -> None:
    saga = Saga("test", Numbered, (Step("v", WAIT.action), WAIT))
    async with saga_machine(SagaCatalog(saga)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        await record_only(machine, saga, "yes")
        [raised] = (await ask.load(KEY)).raised
        await machine.clock.advance(timedelta(days=1, hours=1))
        assert (await ask.load(KEY)).step("v").status is StepStatus.COMPLETED
        await machine.workflows.raise_event(instance_id(KEY), "yes", raised.model_dump())
        await machine.clock.settle()
        assert (await ask.load(KEY)).step("w").status is StepStatus.WAITING
        await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_wait_that_began_before_answers_were_looked_for_ends_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saga = Saga("test", Numbered, (answered("v", days=1), command("b")))
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        ask = machine.orchestrator
        with monkeypatch.context() as before:
            of_before(before)
            await ask.start(KEY, "test", {}, Asker())
            await machine.clock.settle()
        await machine.clock.advance(timedelta(days=2))
        ended = await ask.load(KEY)
        assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "v: nobody answered in time")
        assert activities(machine) == ["record", "record"]
