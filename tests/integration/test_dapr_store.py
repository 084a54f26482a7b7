"""The event store on real sidecars, each store by its component file alone; an unfit store is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from annals.dapr import DaprSidecar
from annals.events import StreamId
from annals.free_ports import free_port
from annals.store import Appended, DaprEventStore, OutcomeUnknown, StoreUnavailable, UnfitStore, keys
from annals.store.postgresql import PostgresEventStore
from annals.store.probe import probe
from conftest import copy_components, until, write_secrets
from event_store_conformance import EventStoreConformance, new_stream, to_append
from event_stores import REDIS, lane_held, opened
from suite import infra
from suite.infra.postgres import prepare_settings

IN_MEMORY_PUBSUB = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: domain-events
spec:
  type: pubsub.in-memory
  version: v1
"""


def resources(tmp_path: Path, *names: str, **texts: str) -> Path:
    """Fill a folder with component files: `names` are paths below components, `texts` are contents."""
    folder = copy_components(tmp_path / "components", "shared/secretstore.yaml", *names)
    for name, text in ({"pubsub": IN_MEMORY_PUBSUB} | texts).items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


class TestOnPostgresThroughDapr(EventStoreConformance):
    @pytest.fixture
    async def store(
        self, database: str, bare_sidecar: Callable[..., Any], tmp_path: Path
    ) -> AsyncIterator[DaprEventStore]:
        write_secrets(tmp_path, postgres=database)
        _, at = await bare_sidecar(resources(tmp_path, "stores/postgresql/eventstore.yaml"))
        async with opened(at.grpc) as store:
            yield store


async def test_a_transaction_that_nobody_goes_on_with_holds_up_others_for_seconds_only(
    database: str, bare_sidecar: Callable[..., Any], tmp_path: Path
) -> None:
    """A transaction stays open when its sidecar's host loses power, as nothing tells PostgreSQL."""
    await prepare_settings(database)
    write_secrets(tmp_path, postgres=database)
    _, at = await bare_sidecar(resources(tmp_path, "stores/postgresql/eventstore.yaml"))
    async with opened(at.grpc) as store:
        first = await store.append(to_append(new_stream(), 0))
        following = keys.log(first.position.lane, first.position.seq + 1)
        silent = await asyncpg.connect(database)
        await silent.execute("BEGIN")
        await silent.execute(
            "INSERT INTO annals_state (key, value, etag) VALUES ($1, '{}', gen_random_uuid())", following
        )

        async def goes_on() -> bool:
            try:
                behind = await store.append(to_append(new_stream(), 0))
            except (OutcomeUnknown, StoreUnavailable):
                return False
            return behind.position.seq > first.position.seq

        async def ended() -> bool:
            return silent.is_closed()

        await until(goes_on, 60)
        await until(ended, what="PostgreSQL to have ended it")  # it frees the key before it hangs up


async def test_how_long_an_operator_lets_transactions_wait_stays_as_it_is(database: str) -> None:
    name = database.rpartition("/")[2]
    for wanted in ("10s", "1min"):
        await prepare_settings(database)
        connection = await asyncpg.connect(database)
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == wanted
        await connection.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1min'")
        await connection.close()


class TestOnSqliteThroughDapr(EventStoreConformance):
    @pytest.fixture
    async def store(self, bare_sidecar: Callable[..., Any], tmp_path: Path) -> AsyncIterator[DaprEventStore]:
        write_secrets(tmp_path, **{"sqlite-events": str(tmp_path / "events.db")})
        _, at = await bare_sidecar(resources(tmp_path, "stores/sqlite/eventstore.yaml"))
        async with opened(at.grpc) as store:
            yield store


class TestOnMariaDbThroughDapr(EventStoreConformance):
    @pytest.fixture
    async def store(
        self, mariadb: infra.MariaDb, bare_sidecar: Callable[..., Any], tmp_path: Path
    ) -> AsyncIterator[DaprEventStore]:
        await mariadb.recreate("annals")
        write_secrets(tmp_path, **mariadb.secrets)
        _, at = await bare_sidecar(resources(tmp_path, "stores/mysql/eventstore.yaml"))
        async with opened(at.grpc) as store:
            yield store


async def test_a_mysql_that_takes_keys_for_equal_by_case_is_refused(
    mariadb: infra.MariaDb, bare_sidecar: Callable[..., Any], tmp_path: Path
) -> None:
    await mariadb.recreate("annals", collation="utf8mb4_general_ci")
    write_secrets(tmp_path, **mariadb.secrets)
    _, at = await bare_sidecar(resources(tmp_path, "stores/mysql/eventstore.yaml"))
    client = DaprSidecar(at.grpc)
    try:
        with pytest.raises(UnfitStore, match="differ only by case"):
            await probe(client, "eventstore")
    finally:
        await client.close()


async def test_a_key_that_mysql_cannot_hold_is_refused_and_holds_up_nobody(
    mariadb: infra.MariaDb, bare_sidecar: Callable[..., Any], tmp_path: Path
) -> None:
    await mariadb.recreate("annals")
    write_secrets(tmp_path, **mariadb.secrets)
    _, at = await bare_sidecar(resources(tmp_path, "stores/mysql/eventstore.yaml"))
    async with opened(at.grpc) as store:
        too_long = StreamId.of("t" * 63, "a" * 63, "i" * 128)
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.append(to_append(too_long, 0))
        await store.append(to_append(new_stream(), 0))


async def test_a_key_that_mysql_has_not_cleaned_up_is_refused_and_holds_up_nobody(
    mariadb: infra.MariaDb, bare_sidecar: Callable[..., Any], tmp_path: Path
) -> None:
    """The component cleans up expired keys every minute, first a minute after the sidecar starts."""
    await mariadb.recreate("annals")
    write_secrets(tmp_path, **mariadb.secrets)
    _, at = await bare_sidecar(resources(tmp_path, "stores/mysql/eventstore.yaml"))
    client = DaprSidecar(at.grpc)
    store = DaprEventStore(client, owner="test", command_ttl_seconds=1)
    running = asyncio.create_task(store.run())
    await lane_held(store)
    stream = new_stream()
    await store.append(to_append(stream, 0, command_id="key"))

    async def expired() -> bool:
        return (await store.load(stream, "key"))[1] is None

    await until(expired)
    outcomes = await asyncio.gather(
        store.append(to_append(new_stream(), 0)),
        store.append(to_append(stream, 1, command_id="key")),
        store.append(to_append(new_stream(), 0)),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [Appended, StoreUnavailable, Appended]
    await store.drain()
    await running
    await client.close()


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
    server = infra.Redis(tmp_path, free_port())
    server.initialise()
    await launch(server.spec())
    write_secrets(tmp_path, **server.secrets)
    _, at = await bare_sidecar(resources(tmp_path, eventstore=REDIS))
    client = DaprSidecar(at.grpc)
    try:
        with pytest.raises(UnfitStore, match=r"state\.redis"):
            await probe(client, "eventstore")
    finally:
        await client.close()
