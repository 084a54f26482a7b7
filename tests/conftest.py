"""Real servers for the tests that want them, started once a run and gone after it."""

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
from fuzz.depth import DEEP
from suite import infra, ports, profiles
from suite.paths import ROOT
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts, sidecar

COMPONENTS = ROOT / "components"

pytest.register_assert_rewrite("event_store_conformance", "sidecar_conformance")

# The same each time, however slow the machine is: what is unchanged is not refused. `make fuzz` draws anew.
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
    """Whose turn it is, where several workers run the tests."""
    from beside_each_other import OneSuite  # here, for only they have pytest-xdist

    return OneSuite(config, log)


@asynccontextmanager
async def running(spec: Spec, log_dir: Path, *, restart: bool = False) -> AsyncIterator[Process]:
    """A process that is ready inside, and gone after."""
    log_dir.mkdir(parents=True, exist_ok=True)
    process = Process(spec, log_dir, restart=restart)
    try:
        await process.start()
        await process.wait_ready()
        yield process
    finally:
        await process.stop()


def copy_components(folder: Path, *names: str) -> Path:
    """Fill a folder with component files, named by where they are below components."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(COMPONENTS / name, folder)
    return folder


def write_secrets(home: Path, **values: str) -> None:
    """The secrets file that the components of `home` read."""
    path = home / ".annals" / "secrets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.Postgres]:
    """A PostgreSQL for the whole run."""
    directory = tmp_path_factory.mktemp("postgres")
    server = infra.Postgres(directory, ports.free_port())
    server.initialise()
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="session")
async def nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.Nats]:
    """A NATS with JetStream for the whole run."""
    directory = tmp_path_factory.mktemp("nats")
    server = infra.Nats(directory, ports.free_port())
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="session")
async def mariadb(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[infra.MariaDb]:
    """A MariaDB for the whole run."""
    directory = tmp_path_factory.mktemp("mariadb")
    server = infra.MariaDb(directory, ports.free_port())
    server.initialise()
    async with running(server.spec(), directory):
        yield server


@pytest.fixture(scope="module")
def no_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sidecars' configuration for a suite of which no trace is asked for: it starts without Zipkin.

    That takes as much of the processors as all else that starts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "zipkin", list)
        yield untraced.config(tmp_path_factory.mktemp("untraced"))


@pytest.fixture
def new_database(postgres: infra.Postgres) -> Callable[[], Awaitable[str]]:
    """Makes a database of the test's own, and gives its connection string."""

    async def create() -> str:
        name = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return postgres.dsn.removesuffix("annals") + name

    return create


@pytest.fixture
async def database(new_database: Callable[[], Awaitable[str]]) -> str:
    """The connection string of a database of the test's own."""
    return await new_database()


Launch = Callable[..., Any]


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Starts processes that end with the test: `await launch(spec, restart=False)`."""
    async with AsyncExitStack() as stack:

        async def start(spec: Spec, *, restart: bool = False) -> Process:
            return await stack.enter_async_context(running(spec, tmp_path / "logs", restart=restart))

        yield start


@pytest.fixture
async def bare_sidecar(launch: Launch, tmp_path: Path) -> Callable[..., Any]:
    """Starts a sidecar without an app: `await bare_sidecar(resources, app_id="command")`."""

    async def start(
        *resources: Path, app_id: str = "command", restart: bool = False
    ) -> tuple[Process, SidecarPorts]:
        at = SidecarPorts.free()
        spec = sidecar(app_id, at, resources=resources, config=None, home=tmp_path)
        return await launch(spec, restart=restart), at

    return start


async def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> Any:
    """Wait until a condition holds and return what it gave; fail when it never does."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.05)
        return value


def beyond_loopback(processes: Mapping[str, int | None]) -> set[tuple[str, int]]:
    """Where the processes, or their children, listen for others than this machine: name and port."""
    found = set()
    for name, pid in processes.items():
        root = psutil.Process(pid)
        sockets = root.net_connections("tcp")
        for child in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a connection of PostgreSQL's that was closed meanwhile
                sockets += child.net_connections("tcp")
        for one in sockets:
            if one.status == psutil.CONN_LISTEN and not _loopback(one.laddr.ip):
                found.add((name, one.laddr.port))
    return found


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
