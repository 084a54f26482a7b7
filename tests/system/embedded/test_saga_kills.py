"""A kill at each step of the hand-over in turn, of each process that carries it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from annals.sagas import Retry
from conftest import until
from suite import infra, profiles
from suite.suite import Suite
from system.conftest import Sagas

# The saga's step and status when the kill comes, and the assignee's answer.
POINTS = [
    ("reserve-capacity", "running", "accept"),
    ("assign-task", "running", "accept"),
    ("find-previous-assignee", "running", "accept"),
    ("notify", "running", "accept"),
    ("await-answer", "waiting", "accept"),
    ("accept-task", "running", "accept"),
    ("notify", "compensating", "decline"),
    ("assign-task", "compensating", "decline"),
    ("reserve-capacity", "compensating", "decline"),
]
# Together they cover every point. Each kill of the scheduler costs 20 s, until its old lease ends.
VICTIMS = {
    "saga-orchestrator": POINTS[0::3],
    "saga-orchestrator-dapr": POINTS[1::3],
    "command": POINTS[2::3],
    "scheduler": POINTS[6:7],
}
# How many of about ten kills may lose their workflow; for each kill it is a matter of chance.
LOST = 3


@pytest.fixture(scope="module")
def begun_anew() -> dict[str, int]:
    """For each killed victim, how many sagas were restarted afterwards."""
    return {}


@pytest.fixture(scope="module")
async def heads(embedded: Suite) -> AsyncIterator[asyncpg.Connection]:
    directory = embedded.home / ".annals" / "embedded"
    connection = await asyncpg.connect(infra.Postgres(directory, profiles.POSTGRES_PORT).dsn)
    yield connection
    await connection.close()


async def stands(heads: asyncpg.Connection, saga_id: str, step: str, status: str) -> bool:
    """Return whether a saga has come to a point. It asks the store, because the API may be down."""
    key = f"stream/default/saga-{saga_id}/head"
    value = await heads.fetchval("SELECT value FROM annals_state WHERE key = $1", key)
    state = json.loads(value)["state"] if value else {}
    here = state.get("steps", {}).get(step, {}).get("status")
    past = {"running": ("running", "completed"), "compensating": ("compensating", "compensated")}
    return here in past.get(status, (status,))


async def answered(sagas: Sagas, saga_id: str, member: str, event: str) -> bool:
    """Return whether the answer was taken; a killed process does not take it."""
    try:
        answer = await sagas.answer(saga_id, member, event)
    except httpx.HTTPError:
        return False
    return answer.status_code in (202, 422)


async def started(sagas: Sagas) -> tuple[str, str, str] | None:
    """Start a hand-over, or return None while a killed process is not back yet."""
    try:
        return await sagas.handover()
    except (AssertionError, httpx.HTTPError):
        return None


async def over(sagas: Sagas, saga_id: str) -> dict[str, Any] | None:
    """Return the saga if it has ended, or else None."""
    try:
        saga = await sagas.get(saga_id)
    except (AssertionError, httpx.HTTPError):
        return None
    return saga if saga["status"] in ("completed", "compensated", "failed") else None


async def gave_up(sagas: Sagas, saga_id: str) -> bool:
    """Return whether all tries of a step failed, as when a victim is down for longer than they last."""
    tries = 1 + Retry().max_retries
    facts = await sagas.facts(f"saga-{saga_id}")
    failed = [fact["data"] for fact in facts if fact["event_type"] == "saga.step_failed"]
    steps = [one["step"] for one in failed if not one["compensation"] and one["error"]["kind"] != "rejected"]
    return any(steps.count(step) == tries for step in steps)


async def kill_at_each(
    suite: Suite, heads: asyncpg.Connection, sagas: Sagas, victim: str, points: list[tuple[str, str, str]]
) -> int:
    """Kill the victim at each point; return how many sagas were restarted."""
    process = suite.processes[victim]
    begun_anew = 0
    for step, status, answer in points:
        await process.wait_ready()
        process.restarts = 0  # so that the runner does not back off: these kills are ours
        saga_id, task, member = await until(partial(started, sagas))
        if status == "compensating" or step == "accept-task":
            await until(partial(answered, sagas, saga_id, member, answer))
        async with asyncio.timeout(30):
            while not await stands(heads, saga_id, step, status):
                await asyncio.sleep(0.001)
        process.kill()
        await until(partial(answered, sagas, saga_id, member, answer), 60)
        await process.wait_ready()
        # A saga whose workflow the kill lost is restarted after 150 to 182 s without progress.
        saga = await until(partial(over, sagas, saga_id), 300)
        await sagas.check(saga_id, task, member)
        told = [event["event_type"] for event in await sagas.facts(f"saga-{saga_id}")]
        begun_anew += "saga.restarted" in told
        taken_back = answer == "decline" or await gave_up(sagas, saga_id)
        expected = "compensated" if taken_back else "completed"
        assert saga["status"] == expected, f"killed {victim} at {step} {status}: {saga}"
    return begun_anew


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_kill_leaves_task_and_capacity_right(
    embedded: Suite, heads: asyncpg.Connection, sagas: Sagas, begun_anew: dict[str, int], victim: str
) -> None:
    """Cover every step and every victim once; `pytest -m soak tests/system` runs the whole matrix."""
    begun_anew[victim] = await kill_at_each(embedded, heads, sagas, victim, VICTIMS[victim])


def test_a_kill_loses_a_workflow_now_and_then_and_not_each_time(begun_anew: dict[str, int]) -> None:
    """Chance decides each kill, so the limit holds for all victims together."""
    if missing := VICTIMS.keys() - begun_anew:
        pytest.skip(f"not all that are to be killed were, and left all right: {sorted(missing)}")
    assert sum(begun_anew.values()) <= LOST, begun_anew


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_kill_at_each_step_leaves_task_and_capacity_right(
    embedded: Suite, heads: asyncpg.Connection, sagas: Sagas, victim: str
) -> None:
    assert await kill_at_each(embedded, heads, sagas, victim, POINTS) <= LOST
