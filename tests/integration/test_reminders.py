"""Who has the reminders after a task was assigned, on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from annals.events import RecordedEvent, StreamId
from annals.projections import migrate
from annals.store import Append, MemoryEventStore
from annals_notification import migrations
from annals_notification.due import Alarms
from annals_notification.reminders import Reminders
from read_model_database import PoolDatabase
from task_histories import of_task

TASK = StreamId("one", "task-7")
BEFORE = (timedelta(days=1), timedelta(0))
A_DAY_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
async def store() -> MemoryEventStore:
    return MemoryEventStore()


@pytest.fixture
async def reminders(pool: asyncpg.Pool, store: MemoryEventStore) -> Reminders:
    database, unused = PoolDatabase(pool), cast("Any", None)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    await pool.execute("UPDATE notifications.service SET since = $1", A_DAY_AGO)

    async def never() -> bool:
        return False

    return Reminders(database, store, unused, Alarms(unused), BEFORE, never)


async def happens(
    store: MemoryEventStore, version: int, kind: str, at: datetime, **task: Any
) -> RecordedEvent:
    """Append an event and the task's state after it, and return the event as recorded."""
    event = of_task(TASK, kind, task).model_copy(update={"timestamp": at})
    await store.append(Append(TASK, (event,), version - 1, {"status": "todo", "title": ""} | task))
    [recorded] = await store.read_events([(TASK, version)])
    assert recorded is not None
    return recorded


async def test_reminders_are_of_whom_a_task_was_assigned_to_last_in_whichever_order_that_is_told(
    reminders: Reminders, store: MemoryEventStore, pool: asyncpg.Pool
) -> None:
    now = datetime.now(UTC)
    due = (now + timedelta(days=2)).isoformat()
    events = [
        await happens(store, 1, "task.created", now, due=due),
        await happens(store, 2, "task.assigned", now, due=due, assignee="ada"),
        await happens(store, 3, "task.assigned", now, due=due, assignee="bob"),
    ]
    for version in (1, 3, 2):
        await reminders.on_event(events[version - 1])
    shown = await pool.fetch("SELECT user_id, status FROM notifications.reminders")
    assert [tuple(row) for row in shown] == [("bob", "scheduled")] * 2


async def test_reminders_show_the_title_that_a_task_was_given_last(
    reminders: Reminders, store: MemoryEventStore, pool: asyncpg.Pool
) -> None:
    now = datetime.now(UTC)
    given = {"due": (now + timedelta(days=2)).isoformat(), "assignee": "ada"}
    await reminders.on_event(await happens(store, 1, "task.created", now, **given, title="Read"))
    renamed = await happens(store, 2, "task.updated", now, **given, title="Write", changes={"title": "Write"})
    await reminders.on_event(renamed)
    shown = await pool.fetch("SELECT user_id, title, status FROM notifications.reminders")
    assert [tuple(row) for row in shown] == [("ada", "Write", "scheduled")] * 2


async def test_an_assignment_that_is_told_late_plans_nothing_and_takes_nothing_back(
    reminders: Reminders, store: MemoryEventStore, pool: asyncpg.Pool
) -> None:
    now = datetime.now(UTC)
    due = now + timedelta(minutes=1)
    away = now - timedelta(days=2)
    given = {"due": due.isoformat(), "assignee": "bob"}
    assigned = await happens(store, 1, "task.assigned", away, assignee="ada")
    dated = await happens(store, 2, "task.due_date_set", now, **given)
    again = await happens(store, 3, "task.assigned", now + timedelta(minutes=2), **given)
    for event in (assigned, dated, again):
        await reminders.on_event(event)
    # The reminder one day before was already past when the date was set.
    shown = await pool.fetch("SELECT id, user_id, status FROM notifications.reminders")
    assert [tuple(row) for row in shown] == [("7:due", "bob", "scheduled")]


async def test_a_reminder_that_is_dropped_at_its_time_has_not_fired(
    reminders: Reminders, store: MemoryEventStore, pool: asyncpg.Pool
) -> None:
    now = datetime.now(UTC)
    due = now - timedelta(minutes=5)
    created = await happens(store, 1, "task.created", now - timedelta(minutes=9), due=due.isoformat())
    await reminders.on_event(created)
    # The store has it before the service has read of it.
    await happens(store, 2, "task.due_date_set", now, due=None)
    await reminders.fire("one", "7:due")
    shown = await pool.fetch("SELECT id, status, late, fired_at FROM notifications.reminders")
    assert [tuple(row) for row in shown] == [("7:due", "cancelled", None, None)]


@pytest.mark.parametrize("live_first", [False, True])
async def test_reminders_that_a_history_which_is_gone_left_give_way_to_what_is_imported(
    reminders: Reminders, store: MemoryEventStore, pool: asyncpg.Pool, *, live_first: bool
) -> None:
    """The result is the same whether the imported events or an event since the restore comes first."""
    now = datetime.now(UTC)
    gone, due, moved = (now + timedelta(days=days) for days in (9, 3, 5))
    await pool.execute(
        "INSERT INTO notifications.reminders (tenant, id, task_id, kind, title, due, fires, status, version)"
        " VALUES ('one', '7:due', '7', 'due', '', $1, $1, 'scheduled', 9),"
        " ('one', '7:24h', '7', '24h', '', $1, $1, 'cancelled', 3), ('one', '7:1h', '7', '1h', '', $1, $1,"
        " 'scheduled', 9)",
        gone,
    )

    async def shown() -> list[tuple[str, str, datetime]]:
        rows = await pool.fetch("SELECT id, status, due FROM notifications.reminders ORDER BY id")
        return [tuple(row) for row in rows]

    imported = [
        await happens(store, 1, "task.created", now, due=None),
        await happens(store, 2, "task.due_date_set", now, due=due.isoformat()),
    ]
    if not live_first:
        for event in imported * 2:
            await reminders.on_imported(event)
        assert await shown() == [
            ("7:1h", "cancelled", gone),
            ("7:24h", "scheduled", due),
            ("7:due", "scheduled", due),
        ]
    live = await happens(store, 3, "task.due_date_set", now, due=moved.isoformat())
    await reminders.on_event(live)
    for event in imported:
        await reminders.on_imported(event)
    await reminders.on_event(live)
    assert await shown() == [
        ("7:1h", "cancelled", gone),
        ("7:24h", "scheduled", moved),
        ("7:due", "scheduled", moved),
    ]
