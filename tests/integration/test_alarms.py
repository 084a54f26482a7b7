"""Alarms that ring by a clock other than the database's: what they find, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from annals.dapr import Message
from annals.dapr.invocation import Answer
from annals.events import IntegrationEvent, StreamId
from annals.projections import migrate
from annals.store import Append, MemoryEventStore
from annals_notification import migrations
from annals_notification.deliveries.plan import Notice
from annals_notification.due import Alarms, Due, Row
from annals_notification.held_events import HeldEvents
from annals_notification.recurrence import Recurrence
from annals_notification.recurrences import Recurrences
from annals_notification.reminders import Reminders
from read_model_database import PoolDatabase
from task_histories import of_task

A_LITTLE = timedelta(seconds=0.9)
TASK = StreamId("one", "task-7")


class Told:
    """Records what is told and published."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def tell(self, notice: Notice) -> None:
        self.names.append(notice.kind)

    async def publish(self, _topic: str, messages: Sequence[Message]) -> frozenset[str]:
        self.names += [one.entry_id for one in messages]
        return frozenset()


@pytest.mark.parametrize(("ahead", "comes"), [(A_LITTLE, True), (timedelta(minutes=1), False)])
async def test_an_alarm_a_little_ahead_of_the_database_finds_what_it_rings_for(
    pool: asyncpg.Pool, ahead: timedelta, comes: bool
) -> None:
    database, store, told = PoolDatabase(pool), MemoryEventStore(), Told()
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    alarms = Alarms(cast("Any", None))
    held = HeldEvents(database, cast("Any", told), alarms)

    async def never() -> bool:
        return False

    reminders = Reminders(database, store, cast("Any", told), alarms, (timedelta(0),), never)
    due = Due(alarms, reminders, held)

    async def ring(kind: str, row_id: str) -> None:
        assert await due.ring({"kind": kind, "tenant": "one", "id": row_id})

    at = datetime.now(UTC) + ahead
    task = {"title": "", "due": at.isoformat()}
    created = of_task(TASK, "task.created", task)
    await store.append(Append(TASK, (created,), 0, task | {"status": "todo"}))
    [recorded] = await store.read_events([(TASK, 1)])
    assert recorded is not None
    await reminders.on_event(recorded)
    await ring("reminder", "7:due")
    assert told.names == (["reminder.due"] if comes else [])

    told.names.clear()
    now = datetime.now(UTC)
    event = IntegrationEvent(
        event_id="held",
        event_type="notification.requested",
        tenant_id="one",
        source="test",
        timestamp=now,
        delay_until=now + ahead,
    )
    await held.hold(event, now)
    await ring("held_event", "held")
    assert told.names == (["held"] if comes else [])


@pytest.mark.parametrize("published", [False, True])
async def test_an_event_that_is_held_is_held_again_as_it_is_and_not_as_another(
    pool: asyncpg.Pool, published: bool
) -> None:
    database, told = PoolDatabase(pool), Told()
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    held = HeldEvents(database, cast("Any", told), Alarms(cast("Any", None)))
    now = datetime.now(UTC)
    at = now if published else now + timedelta(minutes=1)
    event = IntegrationEvent(
        event_id="held", event_type="order.paid", tenant_id="one", source="test", delay_until=at
    )
    assert await held.hold(event, now)
    repeated = event.with_context(timestamp=now + timedelta(seconds=1), user_id="ada", correlation_id="c")
    assert await held.hold(repeated, now)
    for other in ({"delay_until": at + timedelta(minutes=1)}, {"data": {"n": 1}}, {"extra": "more"}):
        assert not await held.hold(event.with_context(**other), now)
    assert told.names == (["held"] if published else [])
    kept = await pool.fetchval("SELECT event FROM notifications.held_events")
    assert IntegrationEvent.from_json(kept) == event


@pytest.mark.parametrize("rule", ["FREQ=DAILY", "FREQ=DAILY;COUNT=1"])
@pytest.mark.parametrize(("title", "sent"), [("Stand-up", 1), ("Retrospective", 0)])
async def test_an_occurrence_that_is_due_is_still_sent_if_its_recurrence_is_put_again_as_it_is(
    pool: asyncpg.Pool, rule: str, title: str, sent: int
) -> None:
    database = PoolDatabase(pool)
    keys: list[str] = []
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)

    class Commands:
        async def invoke(self, *_: str, json: Any, headers: dict[str, str], **__: float) -> Answer:  # noqa: ARG002
            keys.append(headers["idempotency-key"])
            return Answer(200, {})

    recurs = Recurrences(database, cast("Any", Commands()), Alarms(cast("Any", None)))
    start = datetime.now(UTC) - timedelta(seconds=20)

    async def put(title: str) -> None:
        command = {"type": "task.create", "data": {"title": title}}
        given = {"rule": rule, "start": start, "command": command}
        await recurs.put("one", "daily", Recurrence.model_validate(given))

    await put("Stand-up")
    # It was set up the day before, and its first occurrence has come due since.
    set_up = start - timedelta(days=1)
    await pool.execute(
        "UPDATE notifications.recurrences SET last = $1::text::timestamptz, next = $2::text::timestamptz",
        set_up.isoformat(),
        start.isoformat(),
    )
    await put(title)
    first = Row(datetime.min.replace(tzinfo=UTC), "", "")
    for row in await recurs.due(first, timedelta(seconds=-5)):
        await recurs.fire(row.tenant, row.row_id)
    assert len(keys) == sent
    assert await recurs.due(first, timedelta(seconds=-5)) == []


async def test_a_recurrence_that_had_stopped_goes_on_if_it_is_put_again_as_it_is(pool: asyncpg.Pool) -> None:
    database = PoolDatabase(pool)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    recurs = Recurrences(database, cast("Any", None), Alarms(cast("Any", None)))
    command = {"type": "task.create", "data": {"title": "Stand-up"}}
    daily = Recurrence.model_validate({"rule": "FREQ=DAILY", "command": command})
    row = await recurs.put("one", "daily", daily)
    await pool.execute("UPDATE notifications.recurrences SET next = NULL, last_error = 'took too long'")
    again = await recurs.put("one", "daily", daily)
    assert (again["next"], again["last_error"]) == (row["next"], None)


async def test_an_event_that_was_due_when_the_calendar_began_is_found_whatever_the_databases_zone(
    database: str,
) -> None:
    begin = datetime(1, 1, 1, 0, 30, tzinfo=UTC)
    settings = {"timezone": "America/New_York"}
    async with asyncpg.create_pool(database, min_size=1, server_settings=settings) as pool:
        tables, unused = PoolDatabase(pool), cast("Any", None)
        await migrate(tables, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
        await pool.execute(
            "INSERT INTO notifications.held_events VALUES ('one', 'held', '', '{}', $1::text::timestamptz)",
            begin.isoformat(),
        )
        first = Row(datetime.min.replace(tzinfo=UTC), "", "")
        found = await HeldEvents(tables, unused, unused).due(first, timedelta(seconds=-5))
    assert found == [Row(begin, "one", "held")]
