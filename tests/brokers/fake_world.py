"""A world with the fake sidecar in place of broker and daprd, and a real PostgreSQL behind its binding."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
from faulty_proxy import Faults
from matrix import Broker
from world import Beside, World, inhabited

from annals.dapr import DaprSidecar
from annals.store import DaprEventStore
from annals.testing.fake import Disorder, FakeDapr, FakeSidecar, read_retries, read_subscriptions
from annals.web.background import background
from conftest import COMPONENTS
from event_stores import lane_held
from suite import keys


class _Crashing:
    """A fake sidecar that a test can kill and wait for as if it were a process."""

    def __init__(self, sidecar: FakeSidecar) -> None:
        self._sidecar = sidecar

    def kill(self) -> None:
        """Do nothing; the sidecar dies in `wait_exit`."""

    async def wait_exit(self) -> None:
        """Kill the sidecar."""
        await self._sidecar.kill()

    async def wait_ready(self) -> None:
        """Start the sidecar again."""
        await self._sidecar.start()


class _Broker:
    """The fake broker, which a test can kill like a server."""

    def __init__(self, dapr: FakeDapr) -> None:
        self._broker = dapr.broker

    def kill(self) -> None:
        """Make the broker unavailable."""
        self._broker.down()

    async def wait_exit(self) -> None:
        """Return at once; the broker is already unavailable."""

    async def wait_ready(self) -> None:
        """Make the broker available again."""
        self._broker.up()


class _Network:
    """The only network fault that the fake can have: disorder of deliveries."""

    injected = 0

    def __init__(self, dapr: FakeDapr) -> None:
        self._broker = dapr.broker

    @property
    def faults(self) -> Faults | None:
        """The counterpart of `FaultyProxy.faults`."""
        return None

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        if faults is None:
            self._broker.disorder = None
        else:
            self.injected += 1
            self._broker.disorder = Disorder(faults.seed, duplicate=0.1, reorder=0.3, lose=0.05, late=0.1)

    def cut_all(self) -> None:
        """Do nothing; there are no connections to cut."""


@asynccontextmanager
async def fake_world(broker: Broker, home: Path, dsn: str) -> AsyncIterator[World]:
    """The counterpart of `world.world`."""
    for folder in ("logs", ".annals"):
        (home / folder).mkdir()
    keys.make(home / ".annals")
    shared = json.loads((home / ".annals" / "shared-keys.json").read_text())
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=8))
        dapr = FakeDapr(
            subscriptions=read_subscriptions(COMPONENTS / "shared"),
            retries=read_retries(COMPONENTS / "shared"),
            bindings={"readmodels": _postgresql(pool)},
            secrets={"shared-keys": shared},
        )

        async def beside(app_id: str, _name: str, port: int) -> Beside:
            sidecar = await stack.enter_async_context(FakeSidecar(app_id, port, dapr=dapr))
            return Beside(_Crashing(sidecar), sidecar.http_port, sidecar.grpc_port)

        own = await stack.enter_async_context(FakeSidecar("command", dapr=dapr))
        writer = DaprSidecar(own.grpc_port, timeout=15)
        stack.push_async_callback(writer.close)
        store = DaprEventStore(writer, owner="writer")
        await stack.enter_async_context(background(store.run(), "lane"))

        await lane_held(store)
        found = World(broker, home, pool, _Broker(dapr), _Network(dapr), writer, store, beside, stack)
        yield await inhabited(found)


def _postgresql(pool: asyncpg.Pool) -> Callable[..., object]:
    """Return a stand-in for bindings.postgresql: a query that fails in execution gives no rows, no error."""

    async def invoke(operation: str, _data: bytes, metadata: Mapping[str, str]) -> bytes:
        if operation == "exec":
            await pool.execute(metadata["sql"])
            return b""
        try:
            rows = await pool.fetch(metadata["sql"], *json.loads(metadata.get("params", "[]")))
        except asyncpg.PostgresError:
            return b"[]"
        return json.dumps([list(row) for row in rows]).encode()

    return invoke
