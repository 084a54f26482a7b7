"""Cancels on real workflows: noticed at the next step, whatever they cross."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from dapr.ext.workflow import DaprWorkflowContext

from annals.dapr.invocation import Answer
from annals.sagas import (
    Saga,
    SagaCatalog,
    SagaStatus,
    StartSaga,
    Step,
)
from annals.sagas.asker import Asker
from annals.sagas.runs import instance_id
from saga_machine import SagaMachine, saga_machine
from small_sagas import CHILD, CHILDREN, KEY, MANY, WAIT, Answering, Numbered, command


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
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason, did) == (SagaStatus.COMPENSATED, "not any more", meant)


COMMANDS = Saga("test", Numbered, (command("a"), command("b")))


def timers(machine: SagaMachine) -> list[Any]:
    history = machine.dapr.workflows.find(instance_id(KEY)).history
    return [event for event in history if event.HasField("timerCreated")]


async def test_a_saga_of_commands_costs_the_scheduler_no_timer() -> None:
    async with saga_machine(SagaCatalog(COMMANDS), Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
        assert timers(machine) == []


async def test_a_saga_that_is_cancelled_during_a_step_begins_no_other() -> None:
    async def cancel() -> None:
        await machine.orchestrator.cancel(KEY, "not any more", Asker())

    answering = Answering(cancel)
    async with saga_machine(SagaCatalog(COMMANDS), answering) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
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
            await machine.orchestrator.start(KEY, "test", {}, Asker())
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
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        with monkeypatch.context() as before:
            before.setattr(DaprWorkflowContext, "is_patched", lambda _self, _name: False)
            waited.set()
            await machine.clock.settle()
        assert machine.dapr.workflows.find(instance_id(KEY)).stalled
        await machine.upgrade()
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
    assert answering.did == ["a", "b"]


async def test_a_cancel_between_a_restart_and_its_workflow_is_told_to_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask, tell = machine.orchestrator, machine.workflows.raise_event
        await ask.start(KEY, "parent", {}, Asker())
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


async def test_a_saga_that_is_cancelled_is_taken_back_after_the_one_that_it_runs() -> None:
    class Busy:
        def __init__(self) -> None:
            self.did: list[str] = []

        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            self.did.append(path.removeprefix("commands/"))
            return Answer(503 if self.did[-1] == "c_back" and self.did.count("c_back") == 1 else 200, {})

    busy = Busy()
    child = Saga("child", Numbered, (command("c"), WAIT))
    parent = Saga("parent", Numbered, (command("a"), Step("all", StartSaga("child", lambda _: {}))))
    async with saga_machine(SagaCatalog(parent, child), busy) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await machine.orchestrator.cancel(KEY, "not any more", Asker())
        await machine.clock.settle()
        assert busy.did == ["a", "c", "c_back"]
        await machine.clock.advance(timedelta(minutes=1))
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPENSATED
    assert busy.did == ["a", "c", "c_back", "c_back", "a_back"]
