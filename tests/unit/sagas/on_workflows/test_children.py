"""Children of sagas on real workflows: ended by force, lost, or under an id that is taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from annals.dapr.invocation import Answer
from annals.sagas import (
    AwaitEvent,
    Saga,
    SagaCatalog,
    SagaState,
    SagaStatus,
    Step,
    children,
)
from annals.sagas.asker import Asker
from annals.sagas.claims import ClaimContended
from annals.sagas.events import SagaCompensating, SagaFailed
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.runs import instance_id
from annals.sagas.start import entry
from saga_machine import SagaMachine, saga_machine
from small_sagas import CHILD, CHILDREN, KEY, MANY, ONE, Numbered, command


async def test_a_child_that_is_ended_by_force_is_counted_and_the_others_go_on() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
        await ask.start(taken, "child", {"n": 99}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await ask.start(CHILDREN[3], "child", {"n": 3}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await ask.start(CHILDREN[3], "child", {"n": 3}, Asker())
        await machine.clock.settle()
        await ask.terminate(KEY, "enough", Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).terminated
        assert not (await ask.load(CHILDREN[3])).terminated


async def with_a_lost_child(machine: SagaMachine) -> Orchestrator:
    """What is asked of a saga of many: the workflow of its first child is lost, the others are over."""
    ask = machine.orchestrator
    await ask.start(KEY, "parent", {}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await ask.restart(KEY, "it stood still", Asker())
        await machine.clock.settle()
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[0].id}
        late |= {"type": "child", "input": {}, "cancelled": False, "begun": True}
        await machine.children.begin(late, None)
        await ask.raise_event(CHILDREN[0], "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_child_that_begins_after_its_parent_was_ended_is_taken_back(restarted: bool) -> None:
    """As when it is begun while the store is slow, or by the workflow of a run from before."""
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        if restarted:
            await ask.restart(KEY, "it stood still", Asker())
            await ask.cancel(KEY, "not any more", Asker())
            await machine.clock.settle()
        else:
            await ask.terminate(KEY, "not any more", Asker())
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[3].id}
        late |= {"type": "child", "input": {}, "cancelled": False}
        await machine.children.begin(late, None)
        # As the watch does when it finds it.
        if not (await ask.load(CHILDREN[3])).status.ended:
            await ask.restart(CHILDREN[3], "it stood still", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[3])).status is SagaStatus.COMPENSATED


@pytest.mark.parametrize(
    ("cancelled", "becomes"), [(True, SagaStatus.COMPENSATED), (False, SagaStatus.PENDING)]
)
async def test_a_child_that_an_earlier_run_begins_late_is_left_to_the_next_run_unless_that_was_cancelled(
    cancelled: bool, becomes: SagaStatus
) -> None:
    """Once it was cancelled, the next run may have passed over the child, which was not there yet."""
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await machine.history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
        if cancelled:
            await machine.history.decide(KEY, lambda saga: saga.cancel("not any more"))
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[3].id}
        late |= {"type": "child", "input": {}, "cancelled": False}
        begun = await machine.children.begin(late, None)
        assert (begun["start"] is None) == cancelled
        assert (await machine.orchestrator.load(CHILDREN[3])).status is becomes


async def test_a_lost_child_with_which_another_run_goes_on_just_then_is_not_given_up() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        load = machine.orchestrator.load

        async def restarted_then(key: SagaKey) -> SagaState:
            state = await load(key)
            if key == KEY:
                await machine.history.decide(CHILDREN[0], lambda saga: saga.restart(1, "it stood still"))
            return state

        machine.orchestrator.load = restarted_then  # type: ignore[method-assign]
        late = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[0].id}
        late |= {"type": "child", "input": {}, "cancelled": False, "begun": True}
        await machine.children.begin(late, None)
        child = await load(CHILDREN[0])
        assert (child.run, child.cancel_requested) == (1, False)


async def test_a_child_that_failed_and_that_people_retry_has_failed() -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        failed = [entry(SagaCompensating(reason="no")), entry(SagaFailed(reason="no", left=("w",)))]
        await machine.history.record(CHILDREN[0], failed, None)
        await machine.history.decide(CHILDREN[0], lambda saga: saga.retry_compensation())
        again = {"id": "p", "tenant": "default", "user": "ada", "run": 0, "child": CHILDREN[0].id}
        again |= {"type": "child", "input": {}, "cancelled": False, "begun": True}
        found = await machine.children.begin(again, None)
        assert found == {"refused": None, "start": None, "status": "failed", "reason": "no"}


async def test_a_child_whose_claim_many_want_at_once_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_INSIST_SECONDS", 0)
    async with saga_machine(SagaCatalog(ONE, CHILD)) as machine:
        take, contended = machine.claims.take, [ClaimContended("by many")] * 2

        async def at_last(*given: Any) -> None:
            if given[0].id == CHILDREN[0].id and contended:
                raise contended.pop()
            await take(*given)

        machine.claims.take = at_last  # type: ignore[method-assign]
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await machine.orchestrator.raise_event(CHILDREN[0], "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
        assert not contended


async def test_an_only_child_that_is_ended_by_force_fails_its_step() -> None:
    async with saga_machine(SagaCatalog(ONE, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
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
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason) == (SagaStatus.COMPENSATED, "all: enough")
