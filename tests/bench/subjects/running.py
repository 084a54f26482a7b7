"""Starts the subjects beside a suite, whose PostgreSQL, NATS and control plane they share."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
from http_load import Measured
from nats.js.api import StreamConfig

from annals.free_ports import free_port
from conftest import COMPONENTS, running
from subjects.environment import HERE, MESSAGE_DB, PYTHON
from suite import ports
from suite.page import node
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts, sidecar
from suite.suite import Suite

INGRESS = 3502
"""The projector's sidecar: a call through it passes two sidecars, as calls between services do."""


@dataclass(frozen=True)
class Subject:
    """Something that takes commands: its port, the path prefix of its commands, and its processes."""

    name: str
    port: int
    prefix: str
    processes: tuple[Process, ...]
    does: str
    database: str
    projector: int | None = None
    """The port of the process that writes the read model, if there is one."""


def secrets(suite: Suite) -> dict[str, str]:
    """Return the secrets of the suite: the addresses of its servers."""
    found: dict[str, str] = json.loads((suite.home / ".annals" / "secrets.json").read_text())
    return found


async def new_database(suite: Suite, name: str) -> str:
    """Create a database for a subject on the suite's PostgreSQL and return its connection string."""
    dsn = secrets(suite)["postgres"]
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return dsn.removesuffix("annals") + name


def annals(suite: Suite) -> Subject:
    """Return the suite itself as a subject. All of it runs; only `command` and `projector` have work."""
    names = ("command", "command-dapr", "projector", "projector-dapr")
    return Subject(
        "Annals",
        INGRESS,
        "/v1.0/invoke/command/method",
        tuple(suite.processes[name] for name in names),
        "two sidecars; stores, publishes, projects",
        "annals",
        projector=8002,
    )


def _postgres_environment(dsn: str) -> dict[str, str]:
    at = urlsplit(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": at.path.removeprefix("/"),
        "POSTGRES_HOST": at.hostname or "",
        "POSTGRES_PORT": str(at.port),
        "POSTGRES_USER": at.username or "",
        "POSTGRES_PASSWORD": at.password or "",
        "POSTGRES_POOL_SIZE": "16",
        "POSTGRES_MAX_OVERFLOW": "16",
    }


@asynccontextmanager
async def _serving(
    suite: Suite, name: str, argv: list[str], env: dict[str, str], database: str
) -> AsyncIterator[Subject]:
    port = free_port()
    spec = Spec(
        name.lower(),
        argv,
        lambda: ports.open_port(port),
        env=env | {"APP_PORT": str(port)},
        cwd=HERE,
    )
    async with running(spec, suite.logs) as process:
        yield Subject(name, port, "", (process,), "HTTP; stores", database)


@asynccontextmanager
async def eventsourcing(suite: Suite) -> AsyncIterator[Subject]:
    """Run pyeventsourcing behind FastAPI."""
    env = _postgres_environment(await new_database(suite, "eventsourcing"))
    argv = [str(PYTHON), "served.py", "eventsourcing"]
    async with _serving(suite, "pyeventsourcing", argv, env, "eventsourcing") as subject:
        yield subject


class Threads:
    """pyeventsourcing without HTTP: threads of one process create tasks."""

    def __init__(self, dsn: str) -> None:
        self._env = _postgres_environment(dsn)

    @classmethod
    async def on(cls, suite: Suite) -> Threads:
        return cls(await new_database(suite, "eventsourcing_threads"))

    async def create(self, threads: int, seconds: float) -> Measured:
        process = await asyncio.create_subprocess_exec(
            *(str(PYTHON), "eventsourcing_tasks.py", str(threads), str(seconds)),
            stdout=asyncio.subprocess.PIPE,
            cwd=HERE,
            env=self._env,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        answer = json.loads(out)
        return Measured.of(answer["latencies"], answer["seconds"], 0)


@asynccontextmanager
async def protean(suite: Suite) -> AsyncIterator[Subject]:
    """Run Protean behind FastAPI, on Message DB."""
    dsn = await new_database(suite, "message_store")
    connection = await asyncpg.connect(dsn)
    # Message DB's install.sh without its extension pgcrypto: PostgreSQL itself has what that is for.
    for part in ("schema", "tables", "types", "functions", "indexes"):
        for script in sorted((MESSAGE_DB / part).glob("*.sql")):
            await connection.execute(
                "SET search_path TO message_store, public; SET check_function_bodies TO off"
            )
            await connection.execute(script.read_text())
    await connection.execute("ALTER DATABASE message_store SET search_path TO message_store, public")
    await connection.close()
    argv = [str(PYTHON), "served.py", "protean"]
    env = {
        "DATABASE": dsn,
        "PROTEAN_LOG_LEVEL": "WARNING",
    }  # otherwise it spends most of its time logging commands
    async with _serving(suite, "Protean", argv, env, "message_store") as subject:
        yield subject


@asynccontextmanager
async def emmett(suite: Suite) -> AsyncIterator[Subject]:
    """Run Emmett behind Node's HTTP server."""
    dsn = await new_database(suite, "emmett")
    argv = [str(node().program), "emmett_app.js"]
    async with _serving(suite, "Emmett", argv, {"DATABASE": dsn}, "emmett") as subject:
        yield subject


@asynccontextmanager
async def _with_sidecar(
    suite: Suite, name: str, argv: list[str], resources: list[Path]
) -> AsyncIterator[tuple[Process, Process, int]]:
    at, port = SidecarPorts.free(), free_port()
    env = {"APP_PORT": str(port), "DAPR_HTTP_PORT": str(at.http), "DAPR_GRPC_PORT": str(at.grpc)}
    app = Spec(name, argv, lambda: ports.open_port(port), env=env)
    config = suite.home / "config.yaml"
    beside = sidecar(name, at, resources=resources, config=config, home=suite.home, app_port=port)
    # Start both before waiting for either: the Python SDK waits for its sidecar, and the sidecar for its app.
    first, second = Process(beside, suite.logs, restart=False), Process(app, suite.logs, restart=False)
    try:
        await first.start()
        await second.start()
        await asyncio.gather(first.wait_ready(), second.wait_ready())
        yield second, first, port
    finally:
        await second.stop()
        await first.stop()


@asynccontextmanager
async def noop(suite: Suite) -> AsyncIterator[Subject]:
    """Run two sidecars and an app that does nothing."""
    argv = [sys.executable, str(HERE.parent / "noop_app.py")]
    async with _with_sidecar(suite, "noop", argv, []) as (app, beside, _):
        yield Subject("noop", INGRESS, "/v1.0/invoke/noop/method", (app, beside), "two sidecars; nothing", "")


@asynccontextmanager
async def plain(suite: Suite) -> AsyncIterator[Subject]:
    """Run Dapr alone, with a projector."""
    client = await nats.connect(secrets(suite)["nats"])
    await client.jetstream().add_stream(StreamConfig(name="plain", subjects=["plain-events"]))
    await client.close()
    own = suite.home / "plain"
    own.mkdir()
    given = secrets(suite) | {"postgres": await new_database(suite, "plain")}
    (own / "secrets.json").write_text(json.dumps(given))
    text = (COMPONENTS / "shared" / "secretstore.yaml").read_text()
    (own / "secretstore.yaml").write_text(text.replace(".annals/secrets.json", str(own / "secrets.json")))
    resources = [HERE / "plain_components", own]
    argv = [sys.executable, str(HERE / "plain_app.py")]
    async with (
        _with_sidecar(suite, "plain", argv, resources) as (app, beside, _),
        _with_sidecar(suite, "plain-projector", [*argv, "projector"], resources) as (reader, its, port),
    ):
        yield Subject(
            "plain Dapr",
            INGRESS,
            "/v1.0/invoke/plain/method",
            (app, beside, reader, its),
            "two sidecars; stores, publishes, projects",
            "plain",
            projector=port,
        )
