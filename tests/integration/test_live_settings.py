"""Live settings on a real sidecar and PostgreSQL: changed, refused, absent, and missed by no service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from annals.dapr import Configuration, DaprSidecar
from annals.live import LiveSettings
from annals.web.background import background
from annals_command.settings import CommandLive
from conftest import copy_components, until, write_secrets
from suite.infra.postgres import prepare_settings
from suite.process import Process

SETTINGS = ("shared/secretstore.yaml", "shared/settings.yaml")
LISTENING = "state = 'idle' AND query ILIKE 'listen annals_settings'"  # an active backend does not listen yet


class Table:
    """The settings table, which a test changes by hand as an operator would."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def set(self, key: str, value: str | None) -> None:
        await self.pool.execute("SELECT annals_set($1, $2, 'grace', 'to see')", key, value)

    async def listeners(self) -> list[int]:
        """Return the backends through which sidecars listen for changes."""
        found = await self.pool.fetch(
            f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {LISTENING}"
        )
        return [row["pid"] for row in found]


@pytest.fixture
async def table(database: str, pool: asyncpg.Pool) -> Table:
    await prepare_settings(database)
    return Table(pool)


@pytest.fixture
async def start(database: str, tmp_path: Path, bare_sidecar: Any) -> Callable[..., Any]:
    """Return a function that starts a sidecar with the suite's own files and returns it with a client."""

    async def start(*files: str, **given: Any) -> tuple[Process, DaprSidecar]:
        write_secrets(tmp_path, postgres=database)
        process, at = await bare_sidecar(copy_components(tmp_path / "components", *files), **given)
        return process, DaprSidecar(at.grpc)

    return start


@asynccontextmanager
async def followed(
    sidecar: DaprSidecar, *, look_seconds: float = 600
) -> AsyncIterator[LiveSettings[CommandLive]]:
    """Keep live settings up to date.

    Settings are read again only every `look_seconds`: by default a change shows only through its
    notification.
    """
    configuration = Configuration(sidecar, "settings", look_seconds=look_seconds)
    live = LiveSettings("command", CommandLive(max_backlog=7), configuration)
    async with background(live.run(), "live settings"):
        async with asyncio.timeout(30):
            await live.asked.wait()
        yield live
    await sidecar.close()


async def test_a_change_arrives_while_it_runs_and_says_who_made_it(start: Any, table: Table) -> None:
    await table.set("command.max_backlog", "50")
    _, sidecar = await start(*SETTINGS)
    async with followed(sidecar) as live:
        assert live.current == CommandLive(max_backlog=50)
        await until(table.listeners)
        await table.set("command.read_only", "true")
        await until(lambda: _is(live, read_only=True))
        shown = next(one for one in live.describe() if one.key == "command.read_only")
        assert (shown.value, shown.default, shown.by, shown.why) == (True, False, "grace", "to see")
        await table.set("command.read_only", None)
        await until(lambda: _is(live, read_only=False))
        await table.pool.execute("DELETE FROM annals_settings")
        await until(lambda: _is(live, max_backlog=7))


async def test_a_change_while_the_sidecar_is_dead_is_found_when_it_is_back(start: Any, table: Table) -> None:
    process, sidecar = await start(*SETTINGS, restart=True)
    async with followed(sidecar) as live:
        process.restart = False
        process.kill()
        await process.wait_exit()
        await table.set("command.max_backlog", "51")
        await until(lambda: _unreached(live), what="that it noticed")
        assert live.current.max_backlog == 7
        await process.start()
        await until(lambda: _is(live, max_backlog=51))
        await until(table.listeners)
        await table.set("command.max_backlog", "52")
        await until(lambda: _is(live, max_backlog=52))


async def test_a_sidecar_that_hears_no_more_is_found_out_and_subscribed_to_anew(
    start: Any, table: Table
) -> None:
    _, sidecar = await start(*SETTINGS)
    async with followed(sidecar, look_seconds=1) as live:
        for backend in await until(table.listeners):
            await table.pool.execute("SELECT pg_terminate_backend($1)", backend)
        await until(lambda: _none(table.listeners))
        await table.set("command.max_backlog", "53")
        await until(lambda: _is(live, max_backlog=53))
        await until(table.listeners)


async def test_what_is_malformed_or_unknown_is_refused_and_said_and_the_last_good_value_stays(
    start: Any, table: Table
) -> None:
    _, sidecar = await start(*SETTINGS)
    async with followed(sidecar, look_seconds=1) as live:
        await table.set("command.max_backlog", "54")
        await until(lambda: _is(live, max_backlog=54))
        with capture_logs() as logs:
            await table.set("command.max_backlog", "many")
            await table.set("command.readonly", "true")
            await table.set("command.log_level", "debug")
            await until(lambda: _is(live, log_level="debug"))
        assert (live.current.max_backlog, live.current.read_only) == (54, False)
        refused = {one["key"]: one for one in logs if one["log_level"] == "error"}
        assert "valid integer" in refused["command.max_backlog"]["expected"]
        assert refused["command.max_backlog"]["value"] == "many"
        assert "read_only" in refused["command.readonly"]["expected"]
        shown = {one.key: one.refused for one in live.describe()}
        assert "valid integer" in str(shown["command.max_backlog"])
        assert "read_only" in str(shown["command.readonly"])
        await table.set("command.max_backlog", "55")
        await until(lambda: _is(live, max_backlog=55))


@pytest.mark.parametrize("files", [SETTINGS[:1], SETTINGS], ids=["no component", "no table"])
async def test_without_the_store_the_defaults_hold(start: Any, files: tuple[str, ...]) -> None:
    _, sidecar = await start(*files)
    async with followed(sidecar) as live:
        assert live.current == CommandLive(max_backlog=7)
        assert live.unreached is not None
        assert "configuration stores not configured" in live.unreached


@pytest.mark.parametrize(
    ("key", "value", "version", "metadata"),
    [
        ("Command.Read", "true", "1", "{}"),
        ("command.read_only", None, "1", "{}"),
        ("command.read_only", "true", "one", "{}"),
        ("command.read_only", "true", "1", '{"by": null}'),
        ("command.read_only", "true", "1", '["by"]'),
    ],
)
async def test_the_table_takes_nothing_that_would_break_a_sidecar(
    table: Table, key: str, value: str | None, version: str, metadata: str
) -> None:
    insert = "INSERT INTO annals_settings VALUES ($1, $2, $3, $4::jsonb)"
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await table.pool.execute(insert, key, value, version, metadata)


async def _is(live: LiveSettings[CommandLive], **values: object) -> bool:
    return all(getattr(live.current, name) == value for name, value in values.items())


async def _unreached(live: LiveSettings[CommandLive]) -> bool:
    return live.unreached is not None


async def _none(found: Callable[[], Any]) -> bool:
    return not await found()
