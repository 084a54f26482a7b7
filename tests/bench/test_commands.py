"""Commands through each subject in turn: at saturation, at half that rate, and as whole lives of tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict

import cost
import httpx
import lag
import pytest
import results
from http_load import Measured, at_rate, creates, lives, median, saturate
from subjects import running
from subjects.running import Subject, Threads

from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
FEW, MANY = 8, 32


@pytest.fixture(scope="module")
async def subjects(suite: Suite) -> AsyncIterator[list[Subject]]:
    async with AsyncExitStack() as stack:
        beside = (running.plain, running.eventsourcing, running.protean, running.emmett)
        empty = await stack.enter_async_context(running.noop(suite))
        started = [await stack.enter_async_context(start(suite)) for start in beside]
        yield [empty, running.annals(suite), *started]


def say(name: str, measured: Measured) -> None:
    sys.stdout.write(
        f"{name:34} {measured.rate:7.0f}/s  p50 {measured.p50:6.1f}  p99 {measured.p99:6.1f}  "
        f"p99.9 {measured.p999:6.1f} ms  failed {measured.failed}\n"
    )


async def test_commands(suite: Suite, subjects: list[Subject]) -> None:
    threads = await Threads.on(suite)
    found: dict[str, dict[str, Measured]] = {}
    async with httpx.AsyncClient(timeout=30) as http:
        lags = {subject.name: lag.of(subject, http) for subject in subjects}

        async def in_turn(what: str, clients: int, *, whole_lives: bool = False) -> None:
            runs: dict[str, list[Measured]] = {}
            for _ in range(ROUNDS):
                for subject in subjects:
                    script = (lives if whole_lives else creates)(subject.prefix)
                    measured = await saturate(subject.port, script, connections=clients, seconds=SECONDS)
                    await lags[subject.name].settled(measured.count)
                    runs.setdefault(subject.name, []).append(measured)
                if clients == FEW:
                    runs.setdefault("pyeventsourcing, threads", []).append(
                        await threads.create(clients, SECONDS)
                    )
            found[what] = {name: median(each) for name, each in runs.items()}
            for name, measured in found[what].items():
                say(f"{what}: {name}", measured)

        for subject in subjects:  # keeps compilation, connections and first caching out of the measurement
            warm = await saturate(subject.port, lives(subject.prefix), connections=MANY, seconds=2)
            await lags[subject.name].settled(warm.count)
        await in_turn("few", FEW)
        await in_turn("many", MANY)
        await in_turn("lives", MANY, whole_lives=True)
        late: dict[str, dict[str, float]] = {}
        found["half"] = {}
        for subject in subjects:
            watched = lags[subject.name]
            if not isinstance(watched, lag.NoLag):
                await watched.begin()
            measured = await at_rate(
                subject.port,
                creates(subject.prefix),
                rate=found["many"][subject.name].rate / 2,
                connections=128,
                seconds=SECONDS * ROUNDS,
            )
            await watched.settled(measured.count)
            if not isinstance(watched, lag.NoLag):
                late[subject.name] = {"p50": await watched.within(0.5), "p99": await watched.within(0.99)}
            found["half"][subject.name] = measured
            say(f"half: {subject.name}", measured)
    sys.stdout.write(f"lag at half load, seconds: {late}\n")
    failed = {
        f"{what}: {name}": measured.failed
        for what, each in found.items()
        for name, measured in each.items()
        if measured.failed
    }
    assert not failed
    results.write(
        "commands",
        {
            "clients": {"few": FEW, "many": MANY},
            "seconds": SECONDS,
            "rounds": ROUNDS,
            "does": {subject.name: subject.does for subject in subjects}
            | {"pyeventsourcing, threads": "in one process; stores"},
            "runs": {what: {name: asdict(run) for name, run in each.items()} for what, each in found.items()},
            "lag": late,
            "memory": {subject.name: cost.memory(subject.processes) for subject in subjects},
            "versions": results.versions(),
        },
    )
