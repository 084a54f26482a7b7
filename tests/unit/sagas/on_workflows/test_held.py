"""Sagas whose workflows Dapr holds, or no worker can run: halted, stalled, or of an unknown version."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from annals.dapr import DaprError
from annals.events import DomainEvent, RecordedEvent
from annals.sagas import (
    CancelOn,
    Saga,
    SagaCatalog,
    SagaStatus,
    Step,
    runs,
)
from annals.sagas.asker import Asker
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import NotBegun
from annals.sagas.runs import instance_id
from annals.sagas.start import beginning
from annals.sagas.workflow import SagaWorker
from annals.testing.fake import FakeSidecar
from annals.testing.fake.workflows import NoInstance
from conftest import until
from saga_machine import saga_machine
from small_sagas import CHILD, CHILDREN, KEY, MANY, ONE, WAIT, Answering, Numbered, command

ANEW = Saga("child", Numbered, (*CHILD.steps, Step("v", CHILD.steps[0].action)), 2)


async def test_a_version_that_the_worker_does_not_know_yet_waits_for_one_that_does() -> None:
    before, after = SagaCatalog(ONE, CHILD), SagaCatalog(ONE, CHILD, ANEW)
    async with saga_machine(after, before=before) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, Asker())
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


async def test_a_saga_with_other_steps_under_its_version_waits_for_a_worker_that_has_them() -> None:
    """Dapr would give the result of the first activity to whichever step is the first."""
    changed = replace(CHILD, steps=(Step("v", CHILD.steps[0].action), *CHILD.steps))
    async with saga_machine(SagaCatalog(changed), before=SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, Asker())
        await machine.clock.settle()
        with pytest.raises(DaprError, match="stalled"):
            await machine.workflows.pause(instance_id(KEY))
        assert await machine.types(KEY) == ["saga.started"]
        await machine.upgrade()
        for _ in changed.steps:
            await machine.clock.settle()
            await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


async def test_a_saga_that_came_to_a_worker_of_before_is_restarted_and_goes_on() -> None:
    async with saga_machine(SagaCatalog(CHILD, ANEW), before=SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, Asker())
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
        await ask.start(KEY, "child", {}, Asker())
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
        await ask.start(KEY, "child", {}, Asker())
        await machine.clock.settle()
        event = DomainEvent(
            event_type="thing.gone", source="t", aggregate_type="thing", aggregate_id="0", data={}
        )
        await machine.triggers.on_domain_event(RecordedEvent.record(event, version=1, lane=0, seq=1))
        await machine.clock.settle()
        assert (await ask.load(KEY)).cancel_reason == "thing.gone"
        with pytest.raises(DaprError, match="stalled"):
            await machine.workflows.pause(instance_id(KEY, 1))
        await machine.upgrade()
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED


async def test_one_that_is_cancelled_while_dapr_holds_it_starts_no_more_when_it_is_let_go() -> None:
    """As in an upgrade: nobody finds it to stand still while what it started is under way."""
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        await machine.orchestrator.start(KEY, "parent", {}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
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
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await ask.suspend(halted, Asker("boss"))
        await machine.clock.settle()  # or the turn that suspends it would end the stall
        machine.dapr.workflows.find(instance_id(CHILDREN[0])).stalled = True
        await ask.cancel(CHILDREN[0], "its task was deleted", Asker())
        await machine.clock.settle()
        assert (await ask.load(CHILDREN[0])).cancel_reason == "its task was deleted"
        left = await ask.load(halted)
        assert (left.status, left.suspended, left.run) == (SagaStatus.RUNNING, True, 0)


@pytest.mark.parametrize("let_go", [True, False])
async def test_who_cancels_what_dapr_holds_lets_no_child_go_on_that_somebody_halted(let_go: bool) -> None:
    async with saga_machine(SagaCatalog(MANY, CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        await ask.suspend(CHILDREN[0], Asker("boss"))
        await machine.clock.settle()  # or the turn that suspends it would end the stall
        held = machine.dapr.workflows.find(instance_id(KEY))
        held.stalled = True
        state = await ask.cancel(KEY, "she stays", Asker("boss"))
        await machine.clock.settle()
        assert (state.cancel_reason, state.run) == ("she stays", 0)
        halted = await ask.load(CHILDREN[0])
        assert (halted.status, halted.suspended, halted.run) == (SagaStatus.RUNNING, True, 0)
        held.stalled = not let_go
        await ask.resume(CHILDREN[0], Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED
        assert (await ask.load(CHILDREN[0])).status is SagaStatus.COMPENSATED
        assert (await ask.load(CHILDREN[3])).status is SagaStatus.NONE


async def test_one_that_is_halted_while_dapr_holds_it_stays_halted_when_it_is_cancelled() -> None:
    async with saga_machine(SagaCatalog(CHILD)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "child", {}, Asker())
        await machine.clock.settle()
        await ask.suspend(KEY, Asker("boss"))
        await machine.clock.settle()  # or the turn that suspends it would end the stall
        machine.dapr.workflows.find(instance_id(KEY)).stalled = True
        state = await ask.cancel(KEY, "she stays", Asker("boss"))
        assert (state.cancel_reason, state.suspended, state.run) == ("she stays", True, 0)
        await ask.resume(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED


async def test_a_saga_is_halted_when_its_workflow_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not said to be before that is there: it would go on in spite of it."""
    monkeypatch.setattr(runs, "PAUSES_SECONDS", (0.0,))
    async with saga_machine(SagaCatalog(CHILD)) as machine:
        ask, halt = machine.orchestrator, machine.workflows.pause
        await ask.start(KEY, "child", {}, Asker())
        await machine.clock.settle()
        restarted = await machine.history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
        with pytest.raises(NotBegun):
            await ask.suspend(KEY, Asker("boss"))

        async def pause(instance: str) -> bool:
            there = await halt(instance)
            if not there:
                await ask.replace_workflow(KEY, restarted, Asker())
            return there

        monkeypatch.setattr(runs, "PAUSES_SECONDS", (0.0, 0.0))
        monkeypatch.setattr(machine.workflows, "pause", pause)
        await ask.suspend(KEY, Asker("boss"))
        await ask.raise_event(KEY, "yes", None, Asker("ada"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.RUNNING
        await ask.resume(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("paused_late", [True, False])
async def test_a_saga_that_ends_while_it_is_being_halted_holds_up_the_one_that_runs_it_no_longer_than_asked(
    paused_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow ends only if it goes on, and what was under way may end the saga before that."""
    child = CHILDREN[0]
    halting: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def halt() -> None:
        halting.append(asyncio.create_task(machine.orchestrator.suspend(child, Asker("boss"))))
        await until(halted)

    async def halted() -> bool:
        return (await machine.orchestrator.load(child)).suspended

    catalog = SagaCatalog(ONE, Saga("child", Numbered, (command("a"),)))
    async with saga_machine(catalog, Answering(first=halt)) as machine:
        pause = machine.workflows.pause

        async def pause_late(instance: str) -> bool:
            await ended.wait()
            return await pause(instance)

        if paused_late:
            monkeypatch.setattr(machine.workflows, "pause", pause_late)
        ask = machine.orchestrator
        await ask.start(KEY, "parent", {}, Asker())
        await machine.clock.settle()
        ended.set()
        state = await halting[0]
        await machine.clock.settle()
        assert (await ask.load(child)).status is SagaStatus.COMPLETED
        if not state.status.ended:
            assert (await ask.load(KEY)).status is SagaStatus.RUNNING
            state = await ask.resume(child, Asker("boss"))
            await machine.clock.settle()
        assert state.status is SagaStatus.COMPLETED
        assert machine.dapr.workflows.find(instance_id(child)).ended
        assert (await ask.load(KEY)).status is SagaStatus.COMPLETED


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


async def test_a_worker_that_ends_leaves_no_work_behind() -> None:
    async with FakeSidecar() as sidecar:
        worker = SagaWorker(sidecar.grpc_port, SagaCatalog(CHILD), {})
        manager = worker._runtime._WorkflowRuntime__worker._async_worker_manager  # type: ignore[attr-defined]
        task = asyncio.create_task(worker.run())
        # The worker is connected before its loop has run anything.
        while not worker.connected or (loop := manager._queue_event_loop) is None:
            await asyncio.sleep(0.01)
        left = asyncio.run_coroutine_threadsafe(asyncio.Event().wait(), loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left.cancelled()
        assert loop.is_closed()


async def test_an_answer_to_a_saga_without_a_workflow_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "PAUSES_SECONDS", (0.0, 0.0))
    saga = Saga("test", Numbered, (WAIT,))
    async with saga_machine(SagaCatalog(saga)) as machine:
        ask = machine.orchestrator
        await machine.history.record(KEY, [beginning(ask.first_event(KEY, "test", {}))], None)
        with pytest.raises(NotBegun):
            await ask.raise_event(KEY, "yes", None, Asker())


async def test_a_saga_that_is_purged_leaves_no_workflow_of_any_run() -> None:
    saga = Saga("test", Numbered, (WAIT,))
    async with saga_machine(SagaCatalog(saga)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        await ask.restart(KEY, "it stood still", Asker())
        await ask.terminate(KEY, "enough", Asker())
        await machine.clock.settle()
        await ask.purge(KEY)
        for run in (0, 1):
            with pytest.raises(NoInstance):
                machine.dapr.workflows.find(instance_id(KEY, run))


async def test_two_that_restart_a_saga_at_once_restart_it_once() -> None:
    saga = Saga("test", Numbered, (WAIT,))
    async with saga_machine(SagaCatalog(saga)) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {}, Asker())
        lineage = ask.lineage

        async def restarted_meanwhile(*given: Any) -> Any:
            ask.lineage = lineage  # type: ignore[method-assign]
            await ask.restart(KEY, "it stood still", Asker())
            return await lineage(*given)

        ask.lineage = restarted_meanwhile  # type: ignore[method-assign]
        state = await ask.restart(KEY, "it stood still", Asker())
        assert state.run == (await ask.load(KEY)).run == 1
