"""The world of one broker in the conformance suite: a proxy, a writer, projectors and recorders."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from faulty_proxy import Faults, FaultyProxy
from matrix import Broker

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, RecordedEvent, StreamId, new_id
from annals.free_ports import free_port
from annals.store import Append, DaprEventStore
from annals.web.background import background
from conftest import COMPONENTS, until, write_secrets
from event_stores import lane_held
from suite import keys, ports, profiles
from suite.process import Process, Spec
from suite.sidecar import SidecarPorts, sidecar

_HERE = Path(__file__).parent
_SIDECAR_ENV = ("APP_PORT", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT")


class Crashing(Protocol):
    """Something that can be killed and comes back: a `Process` or its stand-in."""

    def kill(self) -> None:
        """Kill it as a crash would."""

    async def wait_exit(self) -> None:
        """Wait until it has ended."""

    async def wait_ready(self) -> None:
        """Wait until it is ready again."""


class Network(Protocol):
    """What lies before the broker: a `FaultyProxy` or its stand-in."""

    injected: int
    faults: Faults | None

    def cut_all(self) -> None:
        """Cut every open connection."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The sidecar of an app, and its ports."""

    sidecar: Crashing
    http: int
    grpc: int


StartBeside = Callable[[str, str, int], Awaitable[Beside]]
"""Starts the sidecar of an app, given the app id, a unique name and the app's port."""


@dataclass
class App:
    """An app and its sidecar; both restart when they are killed."""

    process: Process
    sidecar: Crashing
    port: int

    async def kill(self) -> None:
        """Kill both at once, as when their node dies, and wait until both are ready again."""
        self.process.kill()
        self.sidecar.kill()
        await asyncio.gather(self.process.wait_exit(), self.sidecar.wait_exit())
        await asyncio.gather(self.process.wait_ready(), self.sidecar.wait_ready())


@dataclass
class Recorder:
    """A subscriber that records what it receives; see recorder.py."""

    app: App
    record: Path
    orders: Path

    def tell(self, **orders: Any) -> None:
        """Set the orders for its answers from now on."""
        self.orders.write_text(json.dumps(orders))

    def lines(self) -> list[dict[str, Any]]:
        """Return every delivery, in the order of arrival."""
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def taken(self) -> Counter[str]:
        """Count how often it acknowledged each event."""
        return Counter(line["id"] for line in self.lines() if line["answer"] == "SUCCESS")

    async def takes(self, events: Iterable[DomainEvent], seconds: float) -> bool:
        """Wait up to `seconds` and return whether it has acknowledged all of these events."""
        wanted = {event.event_id for event in events}

        async def all_of_them() -> bool:
            return wanted <= self.taken().keys()

        return await happens(all_of_them, seconds)

    def in_order(self, events: Iterable[DomainEvent]) -> bool:
        """Return whether the first deliveries of each stream's events came in the order of their versions."""
        wanted = {event.event_id for event in events}
        came: dict[tuple[str, str], list[int]] = defaultdict(list)
        seen: set[str] = set()
        for line in self.lines():
            if line["id"] in wanted and line["id"] not in seen:
                seen.add(line["id"])
                came[line["tenantid"], line["subject"]].append(int(line["streamversion"]))
        return all(versions == sorted(versions) for versions in came.values())


@dataclass
class World:
    """A broker and everything around it. Whatever a test starts in addition ends with the world."""

    broker: Broker
    home: Path
    pool: asyncpg.Pool
    server: Crashing
    proxy: Network
    writer: DaprSidecar
    store: DaprEventStore
    beside: StartBeside
    stack: AsyncExitStack
    projectors: list[App] = field(default_factory=list)
    recorders: dict[str, list[Recorder]] = field(default_factory=lambda: defaultdict(list))

    async def recorder(self, app_id: str) -> Recorder:
        """Start one more replica of a subscriber."""
        name = f"{app_id}-{len(self.recorders[app_id])}"
        record, orders = self.home / f"{name}.jsonl", self.home / f"{name}.orders"
        orders.write_text("{}")
        argv = [sys.executable, str(_HERE / "recorder.py")]
        app = await self._app(app_id, name, argv, {"RECORD": str(record), "ORDERS": str(orders)})
        found = Recorder(app, record, orders)
        self.recorders[app_id].append(found)
        return found

    async def projector(self) -> App:
        """Start one more replica of the projector."""
        name = f"projector-{len(self.projectors)}"
        argv = [sys.executable, "-m", "annals_projector"]
        app = await self._app("projector", name, argv, {"ANNALS_INSTANCE": name})
        self.projectors.append(app)
        return app

    async def append(self, events: Iterable[DomainEvent]) -> list[RecordedEvent]:
        """Append events to their streams, in order within each stream; return them as recorded."""
        by_stream: dict[StreamId, list[DomainEvent]] = defaultdict(list)
        for event in events:
            by_stream[event.stream].append(event)

        async def stream(own: list[DomainEvent]) -> None:
            for version, event in enumerate(own):
                await self.store.append(Append(event.stream, (event,), version))

        await asyncio.gather(*map(stream, by_stream.values()))
        refs = [(name, version) for name, own in by_stream.items() for version in range(1, len(own) + 1)]
        return await self.store.read_events(refs)

    async def shows(self, events: Iterable[RecordedEvent]) -> bool:
        """Return whether the read models equal a fold of these whole streams and index each event once."""
        by_id = {event.event_id: event for event in events}
        wanted: dict[tuple[str, str], dict[str, Any]] = {}
        for event in sorted(by_id.values(), key=lambda event: event.version):
            of = {"tenant": event.tenant_id, "id": event.aggregate_id}
            row = wanted.setdefault((event.tenant_id, event.aggregate_id), of | {"description": None})
            row |= event.data.get("changes", event.data) | {"version": event.version}
        rows = await self.pool.fetch(
            "SELECT tenant, id, version, title, description FROM readmodels.tasks WHERE id = ANY($1)",
            list({name for _, name in wanted}),
        )
        if {(row["tenant"], row["id"]): dict(row) for row in rows} != wanted:
            return False
        indexed = await self.pool.fetch(
            "SELECT event_id FROM readmodels.event_index WHERE event_id = ANY($1)", list(by_id)
        )
        return sorted(row["event_id"] for row in indexed) == sorted(by_id)

    async def projected(self, events: Iterable[RecordedEvent], seconds: float = 120) -> None:
        """Wait until `shows` holds for these events."""
        given = list(events)
        await until(lambda: self.shows(given), seconds, "the read models to be what the store folds to")

    async def _app(self, app_id: str, name: str, argv: list[str], env: Mapping[str, str]) -> App:
        port = free_port()
        beside = await self.beside(app_id, name, port)
        given = dict(zip(_SIDECAR_ENV, map(str, (port, beside.http, beside.grpc)), strict=True))
        spec = Spec(name, argv, lambda: ports.http_ok(port, "/readyz"), env={**env, **given})
        process = Process(spec, self.home / "logs")
        await process.start()
        self.stack.push_async_callback(process.stop)
        await process.wait_ready()
        return App(process, beside.sidecar, port)


@asynccontextmanager
async def world(broker: Broker, home: Path, dsn: str) -> AsyncIterator[World]:
    """Start a broker behind the proxy, the writer's sidecar with a store, one projector and one recorder."""
    async with AsyncExitStack() as stack:
        server, proxy = await _server(broker, home, dsn, stack)
        resources = (COMPONENTS / "shared", COMPONENTS / "brokers" / broker.name, _store(home))

        async def daprd(app_id: str, name: str, port: int | None) -> tuple[Process, SidecarPorts]:
            at = SidecarPorts.free()
            health = "/healthz" if port else None
            spec = sidecar(
                app_id, at, resources=resources, config=None, home=home, app_port=port, health_path=health
            )
            process = Process(replace(spec, name=f"{name}-dapr"), home / "logs")
            await process.start()
            stack.push_async_callback(process.stop)
            return process, at

        async def beside(app_id: str, name: str, port: int) -> Beside:
            process, at = await daprd(app_id, name, port)
            return Beside(process, at.http, at.grpc)

        own, at = await daprd("command", "writer", None)
        await own.wait_ready()
        writer = DaprSidecar(at.grpc, timeout=15)
        stack.push_async_callback(writer.close)
        store = DaprEventStore(writer, owner="writer")
        await stack.enter_async_context(background(store.run(), "lane"))
        pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=4))

        await lane_held(store)
        yield await inhabited(World(broker, home, pool, server, proxy, writer, store, beside, stack))


async def inhabited(found: World) -> World:
    """Start the first projector and the first recorder, and wait until the recorder receives events.

    A sidecar is ready before it has subscribed, and some brokers keep nothing for later subscribers.
    """
    await found.projector()
    recorder = await found.recorder("saga-orchestrator")

    async def subscribed() -> bool:
        return await recorder.takes(await found.append(history(1, 1)), 2)

    await happens(subscribed, 60)
    return found


async def _server(broker: Broker, home: Path, dsn: str, stack: AsyncExitStack) -> tuple[Process, FaultyProxy]:
    assert broker.server is not None
    proxy_port = free_port()
    server = broker.server(home / "server", free_port())
    (home / "server").mkdir()
    server.initialise()
    if broker.name == "kafka":
        # A Kafka client reconnects to the address that the broker advertises, so that must be the proxy's.
        properties = home / "server" / "kafka" / "server.properties"
        told = f"\nadvertised.listeners=CLIENTS://127.0.0.1:{proxy_port}\n"
        properties.write_text(properties.read_text() + told)
    proxy = await stack.enter_async_context(FaultyProxy(proxy_port, server.port))
    behind = {
        name: value.replace(f"127.0.0.1:{server.port}", f"127.0.0.1:{proxy_port}")
        for name, value in server.secrets.items()
    }
    write_secrets(home, postgres=dsn, **profiles.MAIL, **behind)
    keys.make(home / ".annals")
    process = Process(server.spec(), home / "logs")
    (home / "logs").mkdir()
    await process.start()
    stack.push_async_callback(process.stop)
    await process.wait_ready()
    return process, proxy


def _store(home: Path) -> Path:
    """Return a folder with only the event store's component; no workflow runs here."""
    folder = home / "store"
    folder.mkdir()
    shutil.copy(COMPONENTS / "stores" / "postgresql" / "eventstore.yaml", folder)
    return folder


async def happens(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Wait up to `seconds` and return whether the condition came to hold."""
    try:
        return bool(await until(condition, seconds))
    except TimeoutError:
        return False


def history(streams: int, length: int, *, tenant: str = "default", data: str = "") -> list[DomainEvent]:
    """Return the events of tasks that are created and then changed, so that a row shows which events made it.

    The title names the last version; the description names the last even version, followed by `data`.
    """
    run = new_id()

    def event(stream: int, version: int) -> DomainEvent:
        fields = {"title": f"version {version}"}
        if version % 2 == 0:
            fields["description"] = f"changed with version {version}{data}"
        kind, change = ("created", fields) if version == 1 else ("updated", {"changes": fields})
        return DomainEvent(
            event_type=f"task.{kind}",
            source="conformance",
            tenant_id=tenant,
            aggregate_type="task",
            aggregate_id=f"{run}-{stream}",
            data=change,
        )

    return [event(stream, version) for version in range(1, length + 1) for stream in range(streams)]
