"""Side by side, in one run: what two sidecars cost, what the store costs, what Annals makes of it."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from http_load import Measured, measure

from annals.dapr import DaprSidecar, Write
from annals.events import DomainEvent, StreamId, new_id
from annals.store import Append, DaprEventReader, DaprEventStore, read_feed
from conftest import COMPONENTS, running, until
from suite import ports
from suite.paths import ROOT
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts, sidecar
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "8"))
CONNECTIONS = 32
LINES: list[str] = []


def say(line: str) -> None:
    LINES.append(line)
    sys.stdout.write(line + "\n")


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    """The embedded suite, with no request traced: the same for all that is compared."""
    home = tmp_path_factory.mktemp("bench")
    config = yaml.safe_load((COMPONENTS / "config.yaml").read_text())
    config["spec"]["tracing"]["samplingRate"] = "0"
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    async with Suite("embedded", home=home, config=home / "config.yaml") as suite:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        say(f"{machine}, {CONNECTIONS} connections")
        yield suite


@pytest.fixture(scope="module")
async def noop(suite: Suite) -> AsyncIterator[dict[str, Process]]:
    at, port = SidecarPorts.free(), ports.free_port()
    argv = [sys.executable, str(Path(__file__).with_name("noop_app.py"))]
    app = Spec("noop", argv, lambda: ports.open_port(port), env={"APP_PORT": str(port)})
    config = suite.home / "config.yaml"
    beside = sidecar("noop", at, resources=[], config=config, home=suite.home, app_port=port)
    async with running(app, suite.logs) as process, running(beside, suite.logs) as its_sidecar:
        yield {"noop": process, "noop-dapr": its_sidecar}


def row(name: str, measured: Measured) -> None:
    say(f"{name:28} {measured.rate:8.0f}/s   p50 {measured.p50:6.1f} ms   p99 {measured.p99:6.1f} ms")


def processor_seconds(processes: Mapping[str, Process]) -> dict[str, float]:
    """What each process has used of the processors until now, children and all; this one makes the load."""
    used = {"load": sum(psutil.Process().cpu_times()[:2])}
    for name, process in processes.items():
        whole = psutil.Process(process.pid)
        used[name] = sum(sum(one.cpu_times()[:2]) for one in (whole, *whole.children(recursive=True)))
    return used


async def until_calm(processes: Mapping[str, Process]) -> None:
    """Wait until nothing is left to do for what came: half a second in which hardly anything is used."""

    async def calm() -> bool:
        before = sum(processor_seconds(processes).values())
        await asyncio.sleep(0.5)
        return sum(processor_seconds(processes).values()) - before < 0.2

    await until(calm, 120)


def say_processor_times(
    counts: Mapping[str, float], used: Mapping[str, tuple[dict[str, float], dict[str, float]]]
) -> None:
    """A line for each process: the milliseconds it used for one request of each kind."""
    say(f"{'processor time a request, ms':28}" + "".join(f"{kind:>10}" for kind in used))
    each = {
        kind: {name: 1000 * (after[name] - before[name]) / counts[kind] for name in after}
        for kind, (before, after) in used.items()
    }
    for name in sorted(each["command"], key=lambda name: -each["command"][name]):
        say(f"  {name:26}" + "".join(f"{times[name]:10.2f}" for times in each.values()))
    say(f"  {'in all':26}" + "".join(f"{sum(times.values()):10.2f}" for times in each.values()))


async def lag_counts(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("http://127.0.0.1:8002/metrics")).text
    prefix = 'annals_projection_lag_seconds_bucket{le="'
    lines = [line for line in text.splitlines() if line.startswith(prefix)]
    return {line[len(prefix) : line.index('"}')]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def test_commands_against_noop_invocations(suite: Suite, noop: dict[str, Process]) -> None:
    processes = suite.processes | noop
    body = b'{"title": "Write the report", "due": "2030-01-01T09:00:00Z"}'
    invoke = "/v1.0/invoke/{}/method/{}"
    paths = {
        "noop": invoke.format("noop", "noop"),
        "command": invoke.format("command", "commands/task.create"),
    }
    for path in paths.values():
        await measure(3502, path, body, connections=CONNECTIONS, seconds=2)
    async with httpx.AsyncClient() as client:
        before = await lag_counts(client)
        await until_calm(processes)
        at_rest = processor_seconds(processes)
        empty = await measure(3502, paths["noop"], body, connections=CONNECTIONS, seconds=SECONDS)
        after_noop = processor_seconds(processes)
        commands = await measure(3502, paths["command"], body, connections=CONNECTIONS, seconds=SECONDS)

        async def all_visible() -> bool:
            made = (await client.get("http://127.0.0.1:8001/metrics")).text
            done = next(
                line for line in made.splitlines() if line.startswith('annals_commands_total{outcome="done"')
            )
            return (await lag_counts(client))["+Inf"] >= float(done.rsplit(" ", 1)[1])

        await until(all_visible, 120)
        after = await lag_counts(client)
        await until_calm(processes)
        after_commands = processor_seconds(processes)
    row("noop through two sidecars", empty)
    row("task.create, end to end", commands)
    say(f"  ratio {commands.rate / empty.rate:.2f}")
    total = after["+Inf"] - before["+Inf"]
    p99 = next(edge for edge in after if after[edge] - before[edge] >= 0.99 * total)
    say(f"projection lag under that load: 99 % of {total:.0f} events within {p99} s")
    say_processor_times(
        {"noop": empty.rate * SECONDS, "command": commands.rate * SECONDS},
        {"noop": (at_rest, after_noop), "command": (after_noop, after_commands)},
    )
    assert empty.failed == commands.failed == 0


async def test_raw_transactions(suite: Suite) -> None:
    client = DaprSidecar(13501)
    try:
        for size in (1, 16):
            done, end = 0, time.perf_counter() + SECONDS / 2
            while time.perf_counter() < end:
                writes = [Write(f"bench/{new_id()}", b"x" * 500, insert_only=True) for _ in range(4 * size)]
                await client.transact("eventstore", writes)
                done += size
            say(f"raw sidecar transactions, 4 keys x {size:2}: {done / (SECONDS / 2):8.0f} commits/s")
    finally:
        await client.close()


async def test_loading_and_replay(suite: Suite) -> None:
    client = DaprSidecar(13501)
    store = DaprEventStore(client, owner="bench")
    lane = asyncio.create_task(store.run())
    try:

        async def held() -> bool:
            return store.lane is not None

        await until(held)
        streams = {length: StreamId("bench", f"thing-{uuid.uuid4()}") for length in (10, 1_000, 10_000)}
        for length, stream in streams.items():
            for version in range(0, length, 500):
                await store.append(to_append(stream, version, min(500, length)))
        times = await medians({length: partial(store.load, stream) for length, stream in streams.items()})
        say("load: " + ", ".join(f"{length:,} events {took * 1000:.2f} ms" for length, took in times.items()))
        say(f"  ratio 10,000 to 10 events {times[10_000] / times[10]:.2f}")
        reader = DaprEventReader(client, "eventstore")
        started, count = time.perf_counter(), 0
        async for _, events in read_feed(reader):
            count += len(events)
        took = time.perf_counter() - started
        say(f"replay from the store: {count} events, {count / took:.0f}/s")
        await store.drain()
        await lane
    finally:
        lane.cancel()
        await client.close()


def to_append(stream: StreamId, version: int, count: int) -> Append:
    kind, _, name = stream.name.partition("-")
    event = {
        "event_type": "thing.happened",
        "source": "bench",
        "tenant_id": stream.tenant,
        "aggregate_type": kind,
        "aggregate_id": name,
        "data": {"text": "x" * 100},
    }
    return Append(
        stream, tuple(DomainEvent.model_validate(event) for _ in range(count)), version, {"count": version}
    )


async def medians(work: dict[int, Callable[[], Any]], times: int = 100) -> dict[int, float]:
    """The median of several runs of each, in seconds; in turn, so that noise strikes all alike."""
    took: dict[int, list[float]] = {name: [] for name in work}
    for _ in range(times):
        for name, run in work.items():
            started = time.perf_counter()
            await run()
            took[name].append(time.perf_counter() - started)
    return {name: sorted(runs)[times // 2] for name, runs in took.items()}


def test_write_down() -> None:
    path = ROOT / ".annals" / "bench.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(LINES) + "\n")
    assert LINES
