"""What is over is forgotten after some time, and not done again when its event is redelivered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from annals.events import IntegrationEvent
from annals.projections import migrate
from annals_notification import migrations
from annals_notification.deliveries.log import DeliveryLog
from annals_notification.deliveries.plan import Notice
from annals_notification.held_events import HeldEvents
from annals_notification.notices import Notices
from annals_notification.retention import Retention
from read_model_database import PoolDatabase

DAYS = 90
OVER = timedelta(days=100)
UNUSED = cast("Any", None)
TABLES = ("deliveries", "inbox", "reminders", "held_events")


class Kept:
    """The tables of a service that was installed three years ago."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.database = PoolDatabase(pool)
        self.days = DAYS
        self.retention = Retention(self.database, lambda: self.days)
        self.notices = Notices(DeliveryLog(self.database), lambda: None)
        self.held = HeldEvents(self.database, UNUSED, UNUSED)

    async def count(self) -> dict[str, int]:
        return {
            table: await self.pool.fetchval(f"SELECT count(*) FROM notifications.{table}") for table in TABLES
        }

    async def pass_an_hour(self) -> None:
        await self.pool.execute("UPDATE notifications.service SET moved_at = moved_at - interval '1 hour'")

    async def forget(self) -> dict[str, int]:
        """Look twice, an hour apart, and return what was forgotten."""
        assert await self.retention.look() == {}
        await self.pass_an_hour()
        return await self.retention.look()

    async def fill(self, ago: timedelta, name: str, rows: int = 1) -> None:
        """Add rows of each kind: some that are over, and some that are not, however old they are."""
        for over in (True, False):
            await self.pool.execute(_FILL, name if over else f"{name}-waits", over, ago, rows)


_FILL = """
WITH place AS (
  SELECT $1 || '-' || i AS id, now() - $3::interval AS at FROM generate_series(1, $4::integer) i),
deliveries AS (
  INSERT INTO notifications.deliveries (id, tenant, event_id, user_id, channel, kind, data, occurred, status,
    due, ended_at)
  SELECT id, 'one', id, 'ada', 'webhook', 'task.assigned', '{}', at,
    CASE WHEN $2 THEN 'sent' ELSE 'pending' END, at, CASE WHEN $2 THEN at END FROM place),
inbox AS (
  INSERT INTO notifications.inbox (tenant, user_id, id, kind, data, created_at, read_at)
  SELECT 'one', 'ada', id, 'task.assigned', '{}', at, CASE WHEN $2 THEN at END FROM place),
reminders AS (
  INSERT INTO notifications.reminders (tenant, id, task_id, kind, title, due, fires, status, version)
  SELECT 'one', id, id, 'due', '', at, at, CASE WHEN $2 THEN 'fired' ELSE 'scheduled' END, 1 FROM place)
INSERT INTO notifications.held_events (tenant, id, topic, event, due, published_at)
SELECT 'one', id, 'integration-events', '{}', at, CASE WHEN $2 THEN at END FROM place"""


@pytest.fixture
async def kept(pool: asyncpg.Pool) -> Kept:
    one = Kept(pool)
    await migrate(one.database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    await pool.execute("UPDATE notifications.service SET since = now() - interval '3 years'")
    return one


async def test_what_is_over_is_forgotten_and_nothing_else(kept: Kept) -> None:
    await kept.fill(OVER, "old", rows=1_500)  # more rows than one statement deletes
    await kept.fill(timedelta(days=80), "young")
    looked = [kept.retention.look() for _ in range(3)]
    assert await asyncio.gather(*looked) == [{}, {}, {}]
    await kept.pass_an_hour()
    forgotten = await asyncio.gather(*(kept.retention.look() for _ in range(3)))  # as several replicas do
    assert {table: sum(one.get(table, 0) for one in forgotten) for table in TABLES} == dict.fromkeys(
        TABLES, 1_500
    )
    assert await kept.count() == dict.fromkeys(TABLES, 1_502)


async def test_what_is_kept_for_ever_is_not_forgotten(kept: Kept) -> None:
    kept.days = 0
    await kept.fill(OVER, "old")
    assert await kept.forget() == {}


async def test_a_setting_that_was_taken_back_within_the_hour_forgets_nothing(kept: Kept) -> None:
    await kept.fill(timedelta(days=2), "young")
    kept.days = 1
    assert await kept.retention.look() == {}
    kept.days = DAYS
    await kept.pass_an_hour()
    assert await kept.retention.look() == {}


async def test_nobody_is_told_again_of_what_was_forgotten(kept: Kept) -> None:
    def assigned(ago: timedelta) -> Notice:
        happened = datetime.now(UTC) - ago
        return Notice("one", f"event-{ago}", "task.assigned", frozenset({"ada"}), {}, happened)

    old, young = assigned(OVER), assigned(timedelta(days=80))
    for notice in (old, young):
        await kept.notices.tell(notice)
    before = await kept.count()
    assert before["inbox"] == 2
    await kept.pool.execute("UPDATE notifications.deliveries SET ended_at = occurred")
    assert await kept.forget() == {"deliveries": 1}
    for notice in (old, young):
        await kept.notices.tell(notice)
    assert (await kept.count())["deliveries"] == before["deliveries"] - 1


async def test_what_was_published_and_forgotten_is_not_held_again(kept: Kept) -> None:
    asked = datetime.now(UTC) - OVER
    event = IntegrationEvent(
        event_type="notification.requested",
        tenant_id="one",
        source="test",
        timestamp=asked,
        delay_until=asked,
    )
    await kept.pool.execute(
        "INSERT INTO notifications.held_events VALUES ('one', $1, 'integration-events', '{}', $2, $2)",
        event.event_id,
        asked,
    )
    assert await kept.forget() == {"held_events": 1}
    await kept.held.hold(event, asked)
    assert (await kept.count())["held_events"] == 0
