"""The event store on real sidecars: PostgreSQL and SQLite by component YAML alone, Redis refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from annals.dapr import DaprSidecar
from annals.store import DaprEventStore, UnfitStore
from annals.store.postgresql import PostgresEventStore
from annals.store.probe import probe
from conftest import COMPONENTS, until, write_secrets
from event_store_conformance import EventStoreConformance
from suite import ports
from suite.process import Spec

SQLITE = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: eventstore
spec:
  type: state.sqlite
  version: v1
  metadata:
    - name: connectionString
      value: {path}
    - name: keyPrefix
      value: none
"""

REDIS = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: eventstore
spec:
  type: state.redis
  version: v1
  metadata:
    - name: redisHost
      value: 127.0.0.1:{port}
    - name: keyPrefix
      value: none
"""

IN_MEMORY_PUBSUB = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: domain-events
spec:
  type: pubsub.in-memory
  version: v1
"""


@asynccontextmanager
async def opened(grpc_port: int, owner: str = "test") -> AsyncIterator[DaprEventStore]:
    client = DaprSidecar(grpc_port)
    store = DaprEventStore(client, owner=owner)
    running = asyncio.create_task(store.run())
    try:

        async def held() -> bool:
            if running.done():
                await running
            return store.lane is not None

        await until(held)
        yield store
        await store.drain()
        await running
    finally:
        running.cancel()
        await client.close()


def resources(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "components"
    folder.mkdir(exist_ok=True)
    (folder / "pubsub.yaml").write_text(IN_MEMORY_PUBSUB)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


class TestOnPostgresThroughDapr(EventStoreConformance):
    @pytest.fixture
    async def store(
        self, database: str, bare_sidecar: Callable[..., Any], tmp_path: Path
    ) -> AsyncIterator[DaprEventStore]:
        write_secrets(tmp_path, postgres=database)
        folder = resources(tmp_path)
        for name in ("secretstore.yaml", "eventstore.yaml"):
            shutil.copy(COMPONENTS / "shared" / name, folder)
        _, at = await bare_sidecar(folder)
        async with opened(at.grpc) as store:
            yield store


class TestOnSqliteThroughDapr(EventStoreConformance):
    @pytest.fixture
    async def store(self, bare_sidecar: Callable[..., Any], tmp_path: Path) -> AsyncIterator[DaprEventStore]:
        folder = resources(tmp_path, eventstore=SQLITE.format(path=tmp_path / "events.db"))
        _, at = await bare_sidecar(folder)
        async with opened(at.grpc) as store:
            yield store


class TestOnPostgresItself(EventStoreConformance):
    @pytest.fixture
    async def store(self, database: str) -> AsyncIterator[PostgresEventStore]:
        async with asyncpg.create_pool(database, min_size=1, max_size=10) as pool:
            store = PostgresEventStore(pool)
            await store.create_tables()
            yield store


async def test_a_store_that_does_not_keep_first_write_is_refused(
    launch: Callable[..., Any], bare_sidecar: Callable[..., Any], tmp_path: Path
) -> None:
    port = ports.free_port()
    server = shutil.which("redis-server")
    assert server, "redis-server is needed: `make setup-test` installs it"
    argv = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    await launch(Spec("redis", argv, lambda: ports.open_port(port)))
    _, at = await bare_sidecar(resources(tmp_path, eventstore=REDIS.format(port=port)))
    client = DaprSidecar(at.grpc)
    try:
        with pytest.raises(UnfitStore, match=r"state\.redis"):
            await probe(client, "eventstore")
    finally:
        await client.close()
