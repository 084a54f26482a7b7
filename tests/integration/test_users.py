"""What is kept about users, on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from annals.projections import migrate
from annals_notification import migrations
from annals_notification.deliveries.preferences import Preferences
from annals_notification.deliveries.users import Users
from read_model_database import PoolDatabase

MUCH = 2_500
AT_MOST = 1_000
"""Rows that one statement may change: no sidecar waits until all rows of a busy user are changed."""
TABLES = ("preferences", "inbox", "deliveries")

FILL = """
WITH inbox AS (
  INSERT INTO notifications.inbox (tenant, user_id, id, kind, data)
  SELECT $1, $2, 'notice-' || i, 'task.assigned', '{}' FROM generate_series(1, $3::integer) i)
INSERT INTO notifications.deliveries
  (id, tenant, event_id, user_id, channel, kind, data, occurred, status, due)
SELECT $1 || $2 || i, $1, 'event-' || i, $2, 'inbox', 'task.assigned', '{}', now(), 'sent', now()
FROM generate_series(1, $3::integer) i"""


class Patient(PoolDatabase):
    """Refuses a statement that changes too many rows."""

    async def fetch(self, sql: str, *params: str | None) -> Any:
        answer = await super().fetch(sql, *params)
        assert not isinstance(answer, int) or answer <= AT_MOST, sql
        return answer


@pytest.fixture
async def users(pool: asyncpg.Pool) -> Users:
    database = Patient(pool)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    users = Users(database)
    for tenant, user, rows in (("one", "ada", MUCH), ("one", "bob", 1), ("two", "ada", 1)):
        await users.prefer(tenant, user, Preferences())
        await pool.execute(FILL, tenant, user, rows)
    return users


async def test_who_had_much_is_forgotten_in_parts_and_nobody_else_is(
    users: Users, pool: asyncpg.Pool
) -> None:
    await users.forget("one", "ada")
    await users.forget("one", "nobody")
    for table in TABLES:
        left = await pool.fetch(f"SELECT tenant, user_id FROM notifications.{table}")
        assert sorted(map(tuple, left)) == [("one", "bob"), ("two", "ada")]


async def test_all_that_is_unread_is_read_in_parts_and_nobody_elses_is(
    users: Users, pool: asyncpg.Pool
) -> None:
    assert await users.mark("one", "ada", "notice-7", read=True) == 1
    assert await users.read_all("one", "ada") == MUCH - 1
    assert await users.read_all("one", "ada") == 0
    unread = await pool.fetch("SELECT tenant, user_id FROM notifications.inbox WHERE read_at IS NULL")
    assert sorted(map(tuple, unread)) == [("one", "bob"), ("two", "ada")]
    assert await users.mark("one", "ada", "notice-7", read=False) == 1
    assert await users.mark("one", "ada", "notice-7", read=False) == 0
    assert await users.read_all("one", "ada") == 1
