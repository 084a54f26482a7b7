"""Sagas whose workflow is lost on a real Dapr: they go on, and no answer is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from annals.dapr import Workflows
from annals.sagas.history import SagaKey
from annals.sagas.runs import instance_id
from conftest import until
from suite.suite import Suite
from system.conftest import Sagas, workflow_engine, workflow_reaches


@pytest.fixture(scope="module")
async def watched(no_traces: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNALS_STALLED_AFTER", "4")
        async with Suite("embedded", home=tmp_path_factory.mktemp("suite"), config=no_traces) as suite:
            yield suite


async def lose(saga_id: str, run: int = 0) -> None:
    """End the workflow of a saga, and its children, behind the orchestrator's back."""
    async with workflow_engine() as sidecar:
        await Workflows(sidecar).terminate(instance_id(SagaKey(saga_id, "default"), run))
    await workflow_reaches(saga_id, "TERMINATED", run)


async def restarts(sagas: Sagas, saga_id: str) -> list[str]:
    """Return the reasons for which a saga was restarted, in order."""
    facts = await sagas.facts(f"saga-{saga_id}")
    return [fact["data"]["reason"] for fact in facts if fact["event_type"] == "saga.restarted"]


async def test_an_answer_to_a_saga_that_stands_still_is_not_lost(watched: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    await lose(saga_id)
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed", seconds=60)
    await sagas.check(saga_id, task, member)
    assert await restarts(sagas, saga_id) == ["it stood still"]


async def test_one_that_is_to_be_taken_back_is_taken_back(watched: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    await lose(saga_id)
    await sagas.post(f"{saga_id}/cancel", {"reason": "enough"})
    saga = await sagas.reaches(saga_id, "compensated", seconds=60)
    assert saga["reason"] == "enough"
    await sagas.check(saga_id, task, member)


async def test_an_operator_restarts_one_that_waits_and_it_waits_on(watched: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    [deadline] = [step["deadline"] for step in (await sagas.get(saga_id))["steps"] if step["deadline"]]
    await lose(saga_id)
    for run in (1, 2):
        answer = await sagas.post(f"{saga_id}/restart", {"reason": "lost"})
        assert answer.status_code == 202, answer.text
        await lose(saga_id, run)
    await sagas.post(f"{saga_id}/restart")
    await sagas.answer(saga_id, member)
    saga = await sagas.reaches(saga_id, "completed")
    assert [step["deadline"] for step in saga["steps"] if step["deadline"]] == [deadline]
    await sagas.check(saga_id, task, member)
    assert await restarts(sagas, saga_id) == ["lost", "lost", "restart by an operator"]
    again = await sagas.post(f"{saga_id}/restart")
    assert (again.status_code, again.json()["rule"]) == (422, "saga.ended")
    assert (await sagas.post("nowhere/restart")).status_code == 404


async def test_sagas_that_another_runs_go_on_with_it(watched: Suite, sagas: Any) -> None:
    leaving, successor = await sagas.member(), await sagas.member()
    for _ in range(2):
        task = (await sagas.client.created())["id"]
        assigned = await sagas.client.command("task.assign", {"id": task, "assignee": leaving})
        await sagas.client.shown("tasks", assigned.json()["position"])
    parent = await sagas.start("member-offboarding", {"member": leaving, "successors": [successor]})

    async def children() -> list[str] | None:
        found = await sagas.client.items("sagas", parent=parent)
        return [child["id"] for child in found] if len(found) == 2 else None

    first, second = await until(children)
    for child in (first, second):
        await sagas.waits(child)
    await sagas.answer(first, successor)
    await sagas.reaches(first, "completed")
    await lose(parent)
    await sagas.answer(second, successor)
    saga = await sagas.reaches(parent, "completed", seconds=60)
    assert (saga["output"]["tasks"], saga["output"]["handed_over"]) == (2, 2)
    assert len(await restarts(sagas, parent)) == len(await restarts(sagas, second)) == 1
    assert not await restarts(sagas, first)


async def test_one_that_rightly_waits_is_left_alone(watched: Suite, sagas: Any) -> None:
    saga_id, _, member = await sagas.handover()
    await sagas.waits(saga_id)
    other, *_ = await sagas.handover()
    await sagas.waits(other)
    await lose(other)
    await sagas.post(f"{other}/cancel")
    await sagas.reaches(other, "compensated", seconds=60)
    assert not await restarts(sagas, saga_id), "looked at as long as one that was restarted"
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")
