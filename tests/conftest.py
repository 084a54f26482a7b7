"""Fixtures and helpers for all tests, above all the real servers that some tests need.

A server is started when a test first asks for it and stops at the end of the run.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, settings

import untraced
from annals.free_ports import free_port
from fuzz.depth import DEEP
from suite import infra, profiles
from suite.paths import ROOT
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts, sidecar

COMPONENTS = ROOT / "components"

pytest.register_assert_rewrite("event_store_conformance", "sidecar_conformance")

# Derandomised and without a deadline: an unchanged tree must not fail by a new draw or on a slow machine.
# `make fuzz` draws new examples each time.
settings.register_profile(
    "annals",
    max_examples=2_000 if DEEP else 100,
    derandomize=not DEEP,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("annals")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule the tests of several workers with `OneSuite`."""
    from beside_each_other import OneSuite  # here, because only `make test` needs pytest-xdist

    return OneSuite(config, log)


@asynccontextmanager
async def running(spec: Spec, log_dir: Path, *, restart: bool = False) -> AsyncIterator[Process]:
    """Start a process and yield it once it is ready; stop it on exit."""
    log_dir.mkdir(parents=True, exist_ok=True)
    process = Process(spec, log_dir, restart=restart)
    try:
        await process.start()
        await process.wait_ready()
        yield process
    finally:
        await process.stop()


def copy_components(folder: Path, *names: str) -> Path:
    """Copy component files, named relative to `components/`, into a folder."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(COMPONENTS / name, folder)
    return folder


def write_secrets(home: Path, **values: str) -> None:
    """Write the secrets file that the components of `home` read."""
    path = home / ".annals" / "secrets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.Postgres]:
    """Run a PostgreSQL server for the whole session."""
    directory = tmp_path_factory.mktemp("postgres")
    server = infra.Postgres(directory, free_port())
    server.initialise()
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="session")
async def nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.Nats]:
    """Run a NATS server with JetStream for the whole session."""
    directory = tmp_path_factory.mktemp("nats")
    server = infra.Nats(directory, free_port())
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="session")
async def mariadb(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.MariaDb]:
    """Run a MariaDB server for the whole session."""
    directory = tmp_path_factory.mktemp("mariadb")
    server = infra.MariaDb(directory, free_port())
    server.initialise()
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="module")
def no_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Turn tracing off for a suite whose tests need no traces, and yield the sidecars' configuration file.

    The suite then starts without Zipkin, which takes as much CPU to start as all the other processes
    together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "zipkin", list)
        yield untraced.config(tmp_path_factory.mktemp("untraced"))


@pytest.fixture
def new_database(postgres: infra.Postgres) -> Callable[[], Awaitable[str]]:
    """Return a function that creates a database for the test and returns its connection string."""

    async def create() -> str:
        name = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return postgres.dsn.removesuffix("annals") + name

    return create


@pytest.fixture
async def database(new_database: Callable[[], Awaitable[str]]) -> str:
    """Create a database for the test and return its connection string."""
    return await new_database()


Launch = Callable[..., Any]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Return a function to start processes that stop with the test: `await launch(spec, restart=False)`."""
    async with AsyncExitStack() as stack:

        async def start(spec: Spec, *, restart: bool = False) -> Process:
            return await stack.enter_async_context(running(spec, tmp_path / "logs", restart=restart))

        yield start


@pytest.fixture
async def bare_sidecar(launch: Launch, tmp_path: Path) -> Callable[..., Any]:
    """Return a function to start a sidecar without an app: `await bare_sidecar(folder, app_id="command")`."""

    async def start(
        *resources: Path, app_id: str = "command", restart: bool = False
    ) -> tuple[Process, SidecarPorts]:
        at = SidecarPorts.free()
        spec = sidecar(app_id, at, resources=resources, config=None, home=tmp_path)
        return await launch(spec, restart=restart), at

    return start


async def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> Any:
    """Wait until `condition` returns a true value, and return it; raise TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.05)
        return value


def beyond_loopback(processes: Mapping[str, int | None]) -> set[tuple[str, int]]:
    """Return the name and port of each socket on which a process or its children listen beyond loopback."""
    found = set()
    for name, pid in processes.items():
        root = psutil.Process(pid)
        sockets = root.net_connections("tcp")
        for child in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a child process of PostgreSQL that has ended meanwhile
                sockets += child.net_connections("tcp")
        for one in sockets:
            if one.status == psutil.CONN_LISTEN and not _loopback(one.laddr.ip):
                found.add((name, one.laddr.port))
    return found


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
