"""Rebuilding a read model from a large store, what that costs the live load, and backup rates."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
import results
from http_load import Measured, always, saturate

from annals.events import DomainEvent, Position, StreamId
from annals.store import Append, records
from conftest import until
from suite.paths import BIN
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

EVENTS = int(os.environ.get("BENCH_EVENTS", "60000"))
A_STREAM = 10
PROJECTOR = "http://127.0.0.1:3502/v1.0/invoke/projector/method"
COMMAND = "/v1.0/invoke/command/method/commands/task.create"
LIVE_SECONDS = 5.0


def lines() -> Iterator[bytes]:
    """Yield an export of EVENTS events, one a commit, in streams of A_STREAM events that grow in turn."""
    tails = {"0": EVENTS}
    yield _line({"format": "annals-export/1", "exported_at": "2026-01-01T00:00:00Z", "lanes": tails})
    hashes: dict[str, str] = {}
    streams = EVENTS // A_STREAM
    for number in range(EVENTS):
        version, stream = divmod(number, streams)
        task = f"bench-{stream}"
        kind, data = (
            ("task.created", {"title": f"Task {stream}", "priority": "normal", "tags": ["a", "b"]})
            if version == 0
            else ("task.assigned", {"assignee": f"user-{version}", "previous": None})
        )
        event = DomainEvent(
            event_type=kind, source="command", aggregate_type="task", aggregate_id=task, data=data
        )
        append = Append(StreamId("default", f"task-{task}"), (event,), version)
        (recorded,) = records.record(append, Position(0, number + 1), hashes.get(task, ""))
        hashes[task] = recorded.hash
        commit = records.encode_commit(append, datetime.now(UTC), recorded.hash)
        yield _line(
            {
                "lane": 0,
                "seq": number + 1,
                "commit": commit.decode(),
                "events": [recorded.to_json().decode()],
            }
        )


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def write_export(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as out:
        out.write(b'{"read_models": []}\n')
        for line in lines():
            digest.update(line)
            out.write(line)
        out.write(_line({"end": {"commits": EVENTS, "events": EVENTS, "sha256": digest.hexdigest()}}))


async def annals(*arguments: str) -> float:
    """Run the command line and return the seconds it took."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(BIN / "annals"), *arguments, "--json", stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    return time.perf_counter() - began


@dataclass
class Memory:
    """The highest resident memory of a process, in MiB, among samples taken while `run` runs."""

    process: psutil.Process
    most: float = 0.0

    async def run(self) -> None:
        while True:
            self.most = max(self.most, self.process.memory_info().rss / 2**20)
            await asyncio.sleep(0.2)


async def rebuilt(http: httpx.AsyncClient) -> tuple[int, float]:
    """Rebuild the tasks; return the generation's number and the seconds until it has caught up."""
    began = time.perf_counter()
    answer = await http.post(f"{PROJECTOR}/projections/tasks/rebuild", json={"reason": "bench"})
    number = answer.json()["number"]

    async def caught_up() -> bool:
        found = await http.get(f"{PROJECTOR}/projections/tasks/generations/{number}")
        return bool(found.json()["caught_up"])

    await until(caught_up, 600)
    return number, time.perf_counter() - began


async def live() -> Measured:
    return await saturate(3501, always(COMMAND, b'{"title": "A task"}'), connections=4, seconds=LIVE_SECONDS)


async def test_rebuild_and_backup(suite: Suite, tmp_path: Path) -> None:
    source, copy = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    await asyncio.to_thread(write_export, source)
    pids = {name: suite.processes[name].pid for name in ("projector", "command")}
    memories = {name: Memory(psutil.Process(pid)) for name, pid in pids.items() if pid is not None}
    at_rest = {name: one.process.memory_info().rss / 2**20 for name, one in memories.items()}
    watching = [asyncio.create_task(one.run()) for one in memories.values()]
    async with httpx.AsyncClient(timeout=600) as http:
        importing = await annals("import", str(source))
        swept_from = time.perf_counter()

        async def no_lag() -> bool:
            return bool((await http.get(f"{PROJECTOR}/projections")).json()["lag"] == 0)

        await until(no_lag, 900)
        sweeping = time.perf_counter() - swept_from
        exporting = await annals("export", str(copy))
        number, alone = await rebuilt(http)
        compared = (await http.get(f"{PROJECTOR}/projections/tasks/generations/{number}/difference")).json()
        quiet = await live()
        building = asyncio.create_task(rebuilt(http))
        busy = await live()
        await building
    for one in watching:
        one.cancel()
    assert (compared["only_old"], compared["only_new"], compared["differing"]) == (0, 0, 0)
    rates = {
        "import": EVENTS / importing,
        "import until the read models have it": EVENTS / (importing + sweeping),
        "export": EVENTS / exporting,
        "rebuild": EVENTS / alone,
    }
    for name, rate in rates.items():
        sys.stdout.write(f"{name}: {rate:.0f} events/s\n")
    sys.stdout.write(f"commands alone {quiet}, beside a rebuild {busy}\n")
    results.write(
        "rebuild",
        {
            "events": EVENTS,
            "rates": rates,
            "commands": {"alone": asdict(quiet), "beside a rebuild": asdict(busy)},
            "memory": {
                name: {"at rest": at_rest[name], "at most": one.most} for name, one in memories.items()
            },
        },
    )
