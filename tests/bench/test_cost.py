"""What a command costs besides time: processor, bytes and packets over loopback, SQL, write-ahead log.

It needs a run of its own, because here PostgreSQL logs each statement, which slows everything down.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import cost
import httpx
import lag
import pytest
import results
from http_load import creates, saturate
from subjects import running

import untraced
from suite.process import Process, Spec
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
CLIENTS = 8


class Watched(Suite):
    """The suite with a PostgreSQL that logs each statement."""

    async def _launch(self, spec: Spec) -> Process:
        if spec.name == "postgres":
            spec = replace(spec, argv=[*spec.argv, *cost.LOGGING])
        return await super()._launch(spec)


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    home = tmp_path_factory.mktemp("bench")
    async with Watched("embedded", home=home, config=untraced.config(home)) as suite:
        yield suite


async def test_cost(watched: Watched) -> None:
    costs: dict[str, dict[str, Any]] = {}
    async with AsyncExitStack() as stack, httpx.AsyncClient(timeout=30) as http:
        beside = (running.noop, running.plain, running.eventsourcing, running.protean, running.emmett)
        started = [await stack.enter_async_context(start(watched)) for start in beside]
        idle_cpu = 0.0
        for subject in (running.annals(watched), *started):
            late = lag.of(subject, http)
            script = creates(subject.prefix)
            warm = await saturate(subject.port, script, connections=CLIENTS, seconds=1)
            await late.settled(warm.count)
            before = await cost.count(watched, subject)
            await asyncio.sleep(SECONDS)
            idle = await cost.count(watched, subject)
            idle_cpu = (sum(idle.cpu.values()) - sum(before.cpu.values())) / (idle.at - before.at) / 1000
            measured = await saturate(subject.port, script, connections=CLIENTS, seconds=SECONDS)
            await late.settled(measured.count)
            after = await cost.count(watched, subject)
            costs[subject.name] = cost.each(before, idle, after, measured.count)
            sys.stdout.write(f"{subject.name}: {measured.count} commands, each {costs[subject.name]}\n")
    results.write("cost", {"clients": CLIENTS, "each": costs, "cores of the suite at rest": idle_cpu})
