"""A few kills of each process under load. `make soak` does this and more, for minutes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from soak.load import Callers, Ledger, client, lead_tasks
from soak.rest import at_rest
from suite import infra, profiles
from suite.suite import Suite

_CALLERS = 8


@pytest.fixture(scope="module")
async def suite(no_traces: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    """Run a suite for these tests alone: its store must hold only what the callers here did."""
    async with Suite("embedded", home=tmp_path_factory.mktemp("kills"), config=no_traces) as suite:
        yield suite


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Everything that callers of the suite were told."""
    return Ledger()


async def killed(suite: Suite, ledger: Ledger, victims: list[str]) -> None:
    """Run load and kill the victims one after another; at the end, every process is ready again."""
    dice, stop = random.Random(len(victims)), asyncio.Event()
    async with client(_CALLERS) as http, asyncio.TaskGroup() as tasks:
        for _ in range(_CALLERS):
            tasks.create_task(lead_tasks(Callers(http, ledger), "default", stop))
        for victim in victims:
            await asyncio.sleep(dice.uniform(0.3, 2.0))
            process = suite.processes[victim]
            await asyncio.gather(*(one.wait_ready() for one in suite.processes.values()))
            process.kill()
            await process.wait_exit()
        await asyncio.gather(*(one.wait_ready() for one in suite.processes.values()))
        stop.set()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "victims",
    [
        ["command", "command-dapr"] * 2,
        ["postgres", "nats"] * 2,
        ["projector", "saga-orchestrator", "scheduler", "projector-dapr", "saga-orchestrator-dapr"],
    ],
    ids="-".join,
)
async def test_callers_go_on_after_kills(suite: Suite, ledger: Ledger, victims: list[str]) -> None:
    before = len(ledger.commands)
    async with asyncio.timeout(150):
        await killed(suite, ledger, victims)
    assert len(ledger.commands) - before > 20


@pytest.mark.timeout(180)
async def test_nothing_acknowledged_is_lost_or_doubled(suite: Suite, ledger: Ledger) -> None:
    if not ledger.commands:
        pytest.skip("nothing was asked: run it with the kills before it")
    directory = suite.home / ".annals" / "embedded"
    dsn = infra.Postgres(directory, profiles.POSTGRES_PORT).dsn
    broker = infra.Nats(directory, profiles.NATS_PORT).url
    _, wrong = await at_rest(dsn, broker, ledger, most=120, same=90)
    assert wrong == []
