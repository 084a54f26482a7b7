"""Whose reminders are after a task was assigned, on a real PostgreSQL."""

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
    return Reminders(database, store, unused, Alarms(unused), BEFORE, unused)


async def happens(
    store: MemoryEventStore, version: int, kind: str, at: datetime, **task: Any
) -> RecordedEvent:
    """A task as it is from then on, and the event of that."""
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
    # The one of a day before was past when the date was set.
    shown = await pool.fetch("SELECT id, user_id, status FROM notifications.reminders")
    assert [tuple(row) for row in shown] == [("7:due", "bob", "scheduled")]
