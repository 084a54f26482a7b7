"""What the service does not do before it knows the operator's settings, and what it parks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters
from annals.events import StreamId
from annals.live import LiveSettings
from annals.store import Append
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock
from annals.web.background import background
from annals_notification.app import create
from annals_notification.settings import NotificationSettings
from conftest import until
from event_stores import opened
from task_histories import of_task


def of_empty_tables(sql: str) -> bytes:
    """Return the answer of empty tables to a statement of the service."""
    if "FOR UPDATE" in sql and "DELETE" not in sql:
        given: Any = {"claimed": [], "preferences": [], "too_large": 0, "seconds": None}
    elif "'interested'" in sql:
        given = {"since": "2020-01-01T00:00:00Z", "interested": [], "more": []}
    else:
        given = [] if "json_agg" in sql else 0
    return orjson.dumps([[orjson.dumps(given).decode()]])


async def test_nothing_is_sent_or_forgotten_before_the_live_settings_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator may have paused sending, or shortened how long things are kept."""
    asked = asyncio.Event()
    statements: list[str] = []

    async def ask(live: LiveSettings[NotificationSettings]) -> None:
        await asked.wait()
        live.asked.set()
        await asyncio.Event().wait()

    def database(_operation: str, _data: bytes, metadata: Mapping[str, str]) -> bytes:
        statements.append(metadata["sql"])
        return of_empty_tables(metadata["sql"])

    def of(*words: str) -> list[str]:
        return [one for one in statements if all(word in one for word in words)]

    async def due_was_looked_for() -> bool:
        return bool(of("notifications.reminders", "ORDER BY fires"))

    async def sending_and_forgetting() -> bool:
        return bool(of("notifications.deliveries", "SKIP LOCKED") and of("SET forgotten"))

    monkeypatch.setattr(LiveSettings, "run", ask)
    dapr = FakeDapr(clock=VirtualClock(), bindings={"notifications": database})
    async with FakeSidecar("notification", dapr=dapr) as sidecar:
        settings = NotificationSettings(dapr_grpc_port=sidecar.grpc_port, dapr_http_port=sidecar.http_port)
        app = create(settings)
        async with app.router.lifespan_context(app):
            await until(due_was_looked_for)
            assert not of("SKIP LOCKED") and not of("SET forgotten")
            asked.set()
            await until(sending_and_forgetting)


class ThatMayRefuse:
    """The service's tables. A refused statement gives no rows and no error, as through the binding."""

    def __init__(self) -> None:
        self.refuses: tuple[str, ...] = ()
        self.planned: list[bool] = []
        """For each attempt to write reminders, whether it succeeded."""

    def __call__(self, _operation: str, _data: bytes, metadata: Mapping[str, str]) -> bytes:
        sql = metadata["sql"]
        taken = not any(word in sql for word in self.refuses)
        if "INSERT INTO notifications.reminders" in sql:
            self.planned.append(taken)
        if not taken:
            return b"[]"
        return of_empty_tables(sql)


@asynccontextmanager
async def following(tables: ThatMayRefuse, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeadLetters]:
    """Run the service with a task whose reminders it must plan; yield its dead letters."""
    monkeypatch.setattr("annals.store.follower._RETRY_SECONDS", (0.01,) * 5)
    dapr = FakeDapr(clock=VirtualClock(), bindings={"notifications": tables})
    task = StreamId("acme", "task-7")
    state = {"status": "todo", "title": "", "due": "2099-01-01T00:00:00+00:00"}
    async with FakeSidecar("notification", dapr=dapr) as sidecar, opened(sidecar.grpc_port) as store:
        client = DaprSidecar(sidecar.grpc_port)
        letters = DeadLetters(client, "eventstore", "notification")
        settings = NotificationSettings(dapr_grpc_port=sidecar.grpc_port, dapr_http_port=sidecar.http_port)
        app = create(settings)

        async def ready() -> bool:
            return not await app.ready()

        async with app.router.lifespan_context(app), background(letters.run(), "dead letters"):
            await until(ready)
            await store.append(Append(task, (of_task(task, "task.created", state),), 0, state))
            yield letters
        await client.close()


async def test_a_database_that_takes_no_writes_for_a_while_has_nothing_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = ThatMayRefuse()
    tables.refuses = ("INSERT", "UPDATE", "DELETE")

    async def tried_often() -> bool:
        return len(tables.planned) > 10

    async def planned() -> bool:
        return tables.planned[-1]

    async with following(tables, monkeypatch) as letters:
        await until(tried_often)
        assert not letters.parked("acme")
        tables.refuses = ()
        await until(planned)


async def test_an_event_is_parked_that_the_database_refuses_while_it_takes_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = ThatMayRefuse()
    tables.refuses = ("INSERT INTO notifications.reminders",)

    async def parked() -> bool:
        return bool(letters.parked("acme"))

    async with following(tables, monkeypatch) as letters:
        await until(parked)
    assert tables.planned == [False] * 5
