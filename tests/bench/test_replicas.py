"""Commands with 1, 2 and 4 replicas of the command service, each with its sidecar."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, replace

import cost
import httpx
import lag
import pytest
import results
from http_load import Measured, creates, median, saturate
from subjects.running import annals

from annals.free_ports import free_port
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
REPLICAS = (1, 2, 4)
CLIENTS = 32


def another_command(suite: Suite, number: int) -> tuple[int, list[Spec]]:
    """Return one more replica: its app's port, and the specs of its sidecar and itself."""
    app = next(app for app in suite.apps if app.app_id == "command")
    app = replace(app, app_port=free_port(), ports=SidecarPorts.free())
    beside, service = suite._sidecar(app), suite._service(app)
    env = dict(service.env) | {"ANNALS_INSTANCE": f"bench-{number}"}
    return app.app_port, [
        replace(beside, name=f"{beside.name}-{number}"),
        replace(service, name=f"{service.name}-{number}", env=env),
    ]


async def done(http: httpx.AsyncClient, port: int) -> float:
    """Return how many commands a replica has completed."""
    text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith('annals_commands_total{outcome="done"')]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def test_replicas(suite: Suite) -> None:
    subject = annals(suite)
    # Replicas can be added but not removed while others measure, so their number only rises. Each number is
    # measured in several rounds.
    runs: dict[int, list[Measured]] = {}
    shares: dict[int, list[float]] = {}
    memory: dict[int, float] = {}
    async with AsyncExitStack() as stack, httpx.AsyncClient(timeout=30) as http:
        late = lag.of(subject, http)
        replicas = [8001]
        processes: list[Process] = [suite.processes["command"], suite.processes["command-dapr"]]
        for wanted in REPLICAS:
            while len(replicas) < wanted:
                port, specs = another_command(suite, len(replicas) + 1)
                started = [Process(spec, suite.logs, restart=False) for spec in specs]
                for process in started:
                    await process.start()
                    stack.push_async_callback(process.stop)
                for process in started:
                    await process.wait_ready()
                replicas.append(port)
                processes += started
            warm = await saturate(subject.port, creates(subject.prefix), connections=CLIENTS, seconds=2)
            await late.settled(warm.count)
            before = [await done(http, port) for port in replicas]
            for _ in range(ROUNDS):
                measured = await saturate(
                    subject.port, creates(subject.prefix), connections=CLIENTS, seconds=SECONDS
                )
                await late.settled(measured.count)
                runs.setdefault(wanted, []).append(measured)
            counts = [await done(http, port) - was for port, was in zip(replicas, before, strict=True)]
            shares[wanted] = [count / sum(counts) for count in counts]
            memory[wanted] = sum(cost.memory(processes).values())
            sys.stdout.write(f"{wanted} replicas: {median(runs[wanted])}, shares {shares[wanted]}\n")
    assert not any(run.failed for each in runs.values() for run in each)
    results.write(
        "replicas",
        {
            "clients": CLIENTS,
            "runs": {number: asdict(median(each)) for number, each in runs.items()},
            "shares": shares,
            "memory": memory,
        },
    )
