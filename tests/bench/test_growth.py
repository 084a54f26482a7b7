"""Commands and loading as the store grows, with a command service for each size of store, side by side."""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import results
from http_load import Measured, Request, Script, creates, median, saturate

import untraced
from annals.dapr import DaprSidecar
from annals.events import StreamId
from annals.free_ports import free_port
from annals.store import DaprEventReader
from conftest import running, write_secrets
from suite import infra, keys, manifest, ports, profiles
from suite.infra.postgres import prepare_settings
from suite.paths import BIN, ROOT
from suite.process import Spec
from suite.sidecar import SidecarPorts, sidecar

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
SIZES = tuple(int(size) for size in os.environ.get("BENCH_SIZES", "10000,100000,1000000").split(","))
CLIENTS = 16
LOADS = 300
A_STREAM = 10
TEMPLATE = "xxxxxxxxxxxx"
"""The id of the task that all others are copies of.

The copies' ids are the numbers from 1, padded to the same length.
"""
PREFIX = "/v1.0/invoke/command/method"


@dataclass(frozen=True)
class World:
    """A command service with a store of its own."""

    events: int
    at: SidecarPorts

    @property
    def streams(self) -> int:
        return self.events // A_STREAM

    def any_task(self) -> str:
        return f"{random.randrange(1, self.streams):0{len(TEMPLATE)}}"


@asynccontextmanager
async def world(events: int, dsn: str, nats: infra.Nats, home: Path) -> AsyncIterator[World]:
    home.mkdir()
    write_secrets(home, postgres=dsn, nats=nats.url, **profiles.MAIL)
    keys.make(home / ".annals")
    await prepare_settings(dsn)
    app = next(
        app for app in manifest.read(ROOT / "dapr.yaml", "nats", "postgresql") if app.app_id == "command"
    )
    at, port = SidecarPorts.free(), free_port()
    beside = sidecar(
        "command", at, resources=app.resources, config=untraced.config(home), home=home, app_port=port
    )
    service = Spec(
        "command",
        [str(BIN / "python"), "-m", "annals_command"],
        lambda: ports.http_ok(port, "/readyz"),
        env={
            "APP_ID": "command",
            "APP_PORT": str(port),
            "DAPR_HTTP_PORT": str(at.http),
            "DAPR_GRPC_PORT": str(at.grpc),
        },
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(beside, home / "logs"))
        async with running(service, home / "logs"):
            await write_template(at.http)
        began = time.perf_counter()
        await fill(dsn, events)
        sys.stdout.write(f"{events} events in {time.perf_counter() - began:.0f} s\n")
        await stack.enter_async_context(running(service, home / "logs"))
        filled = World(events, at)
        await verify(filled)
        yield filled


async def new_database(dsn: str, events: int) -> str:
    """Create a database and return its connection string."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE DATABASE bench_{events}")
    await connection.close()
    return dsn.removesuffix("annals") + f"bench_{events}"


async def verify(world: World) -> None:
    """Check that the library reads the last copy like any stream, and that it ends at the lane's tail."""
    client = DaprSidecar(world.at.grpc)
    reader = DaprEventReader(client, "eventstore")
    last = world.streams - 1
    try:
        stream = StreamId("default", f"task-{last:0{len(TEMPLATE)}}")
        read = [event async for event in reader.read_stream(stream)]
        assert [event.version for event in read] == list(range(1, A_STREAM + 1))
        assert [event.seq for event in read] == [last * A_STREAM + event.version for event in read]
        assert {event.stream for event in read} == {stream}
    finally:
        await client.close()


async def write_template(port: int) -> None:
    """Create one task, with as many events as every task has, through the service itself."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{PREFIX}/commands/") as http:
        given = {"id": TEMPLATE, "title": "Write the report", "due": "2030-01-01T09:00:00Z"}
        (await http.post("task.create", json=given)).raise_for_status()
        for number in range(1, A_STREAM):
            given = {"id": TEMPLATE, "assignee": f"user-{number}"}
            (await http.post("task.assign", json=given)).raise_for_status()


_COPIES = f"""(SELECT number, lpad(number::text, {len(TEMPLATE)}, '0') AS task
    FROM generate_series(1, $2::bigint) AS number)"""
# The template's row with the template's task, event id and place in the lane replaced by the copy's own.
_COPY = f"""INSERT INTO annals_state (key, value)
SELECT replace(replace($5, '{TEMPLATE}', task), '$seq', seq::text),
    convert_to(replace(replace(replace(given,
        '{TEMPLATE}', task),
        $3::text, left($3, 24) || lpad(to_hex(seq), 12, '0')),
        '"seq":' || $4::bigint, '"seq":' || seq), 'UTF8')
FROM (SELECT convert_from(value, 'UTF8') AS given FROM annals_state WHERE key = $1),
    (SELECT task, number * {A_STREAM} + $4 AS seq FROM {_COPIES})"""
_COPY_HEAD = f"""INSERT INTO annals_state (key, value)
SELECT replace(key, '{TEMPLATE}', task), value
FROM annals_state, {_COPIES} WHERE key = $1"""
_END_LEASE = """UPDATE annals_state SET value = convert_to(
    jsonb_set(convert_from(value, 'UTF8')::jsonb, '{tail}', to_jsonb($1::bigint))::text, 'UTF8')
WHERE key = 'lane/0/lease'"""
_PUBLISHED = """UPDATE annals_state SET value = convert_to($1::bigint::text, 'UTF8')
WHERE key = 'lane/0/published'"""


async def fill(dsn: str, events: int) -> None:
    """Copy the template's rows with other ids and places in the lane, while no service is running.

    The hashes stay those of the template; nothing that is measured here reads them.
    """
    copies, stream = events // A_STREAM - 1, f"stream/default/task-{TEMPLATE}"
    connection = await asyncpg.connect(dsn, command_timeout=600)
    try:
        for version in range(1, A_STREAM + 1):
            key = f"{stream}/{version}"
            event = json.loads(
                await connection.fetchval("SELECT value FROM annals_state WHERE key = $1", key)
            )
            assert (event["lane"], event["seq"]) == (0, version)
            await connection.execute(_COPY, key, copies, event["event_id"], version, key)
            await connection.execute(
                _COPY, f"log/0/{version}", copies, event["event_id"], version, "log/0/$seq"
            )
        await connection.execute(_COPY_HEAD, f"{stream}/head", copies)
        for statement in (_END_LEASE, _PUBLISHED):
            assert await connection.execute(statement, copies * A_STREAM + A_STREAM) == "UPDATE 1"
        await connection.execute("VACUUM ANALYZE annals_state")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def assigns(world: World) -> Script:
    """Assign existing tasks, each to somebody else."""

    def script() -> Iterator[Request]:
        while True:
            body = f'{{"id": "{world.any_task()}", "assignee": "{uuid.uuid4()}"}}'
            yield f"{PREFIX}/commands/task.assign", body.encode()

    return script


async def loading(world: World) -> float:
    """Return the median time to load a stream, in milliseconds."""
    client = DaprSidecar(world.at.grpc)
    reader = DaprEventReader(client, "eventstore")
    took: list[float] = []
    try:
        for _ in range(LOADS):
            stream = StreamId("default", f"task-{world.any_task()}")
            started = time.perf_counter()
            head, _ = await reader.load(stream)
            took.append((time.perf_counter() - started) * 1000)
            assert head is not None
            assert head.version >= A_STREAM
    finally:
        await client.close()
    return statistics.median(took)


async def test_growth(tmp_path: Path) -> None:
    creating: dict[int, list[Measured]] = {}
    assigning: dict[int, list[Measured]] = {}
    loaded: dict[int, list[float]] = {}
    # Servers of its own, which end with it: the clean-up of such a store must not burden the parts that
    # follow.
    postgres, nats = infra.Postgres(tmp_path, free_port()), infra.Nats(tmp_path, free_port())
    postgres.initialise()
    async with AsyncExitStack() as stack:
        for server in (postgres, nats):
            await stack.enter_async_context(running(server.spec(), tmp_path / "logs"))
        worlds = [
            await stack.enter_async_context(
                world(size, await new_database(postgres.dsn, size), nats, tmp_path / str(size))
            )
            for size in sorted(SIZES, reverse=True)  # largest first: its aftermath is over first
        ]
        for each in worlds:
            await saturate(each.at.http, creates(PREFIX), connections=CLIENTS, seconds=2)
        for number in range(ROUNDS):
            for each in worlds if number % 2 else reversed(worlds):
                for runs, script in ((creating, creates(PREFIX)), (assigning, assigns(each))):
                    measured = await saturate(each.at.http, script, connections=CLIENTS, seconds=SECONDS)
                    runs.setdefault(each.events, []).append(measured)
                loaded.setdefault(each.events, []).append(await loading(each))
    found = {
        size: {
            "creates": asdict(median(creating[size])),
            "assigns": asdict(median(assigning[size])),
            "load": statistics.median(loaded[size]),
        }
        for size in SIZES
    }
    for size, one in found.items():
        sys.stdout.write(f"{size}: {one}\n")
    assert not any(run.failed for runs in (creating, assigning) for each in runs.values() for run in each)
    results.write("growth", {"clients": CLIENTS, "sizes": found})
