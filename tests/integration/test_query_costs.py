"""What a page of an answer costs the database: about what it shows, however much data there is.

The tests call the services' own routes, and PostgreSQL reports how many rows each statement reads. None of
them may belong to another tenant.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from annals.deadletters import DeadLetters
from annals.events import RecordedEvent, StreamId
from annals.projections import Applier, Generations, Sweeper, Visibility, migrate
from annals.store import Append, MemoryEventStore
from annals.web.problems import Problem, on_problem
from annals_notification import migrations, schedule_api, users_api
from annals_notification.deliveries.log import DeliveryLog, Ended, Receiver
from annals_notification.deliveries.plan import Notice
from annals_notification.deliveries.preferences import Channel
from annals_notification.deliveries.users import Users
from annals_notification.due import Alarms, Row
from annals_notification.notices import Notices
from annals_notification.recurrences import Recurrences
from annals_notification.reminders import Reminders
from annals_notification.retention import Retention
from annals_projector.queries import audit, events, sagas, streams, tasks
from annals_projector.read_models import PROJECTIONS
from read_model_database import PoolDatabase
from task_histories import history, of_task

NOW = datetime.now(UTC)
ROWS = 10_000
AT_MOST = 700
"""Rows that a page may read: it shows up to 100, and a filter may skip some."""

FILLED = f"""
INSERT INTO readmodels.event_index (tenant, stream, version, lane, seq, event_id, event_type, time,
  correlation_id, user_id, trace_id, source)
SELECT 'big', 'task-' || i / 10, i % 10 + 1, i % 64, i, 'event-' || i,
  (array['task.created', 'task.assigned', 'member.reserved'])[i % 3 + 1], now() - i * interval '1 minute',
  'correlation-' || i / 5, 'user-' || i % 50, md5(i::text), 'command'
FROM generate_series(1, {ROWS}) i;
INSERT INTO readmodels.tasks_1 (tenant, id, version, prior, deleted, title, status, priority, tags, due,
  assignee, created_at, updated_at)
SELECT 'big', 'task-' || i, 1, 0, false, md5(i::text), (array['todo', 'done'])[i % 2 + 1],
  (array['low', 'normal', 'high'])[i % 3 + 1], jsonb_build_array('tag-' || i % 10),
  CASE WHEN i % 3 = 0 THEN now() + i * interval '1 minute' END, 'member-' || i % 50,
  now() - i * interval '1 minute', now() - i * 7 % {ROWS} * interval '1 minute'
FROM generate_series(1, {ROWS}) i;
INSERT INTO readmodels.members_1 (tenant, id, version, prior, deleted, name, capacity, reserved, created_at,
  updated_at)
SELECT 'big', 'member-' || i, 1, 0, false, md5(i::text), 3, 0, now() - i * interval '1 minute', now()
FROM generate_series(1, {ROWS}) i;
INSERT INTO readmodels.sagas_1 (tenant, id, version, prior, deleted, type, saga_version, status, business_key,
  parent, step_names, steps, suspended, created_at, updated_at)
SELECT 'big', 'saga-' || i, 1, 0, false, 'task-handover', 1, (array['completed', 'failed'])[i % 2 + 1],
  'task-' || i, 'saga-' || i / 5, '[]', '{{}}', false, now() - i * interval '1 minute', now()
FROM generate_series(1, {ROWS}) i;
INSERT INTO notifications.deliveries (id, tenant, event_id, user_id, channel, kind, data, occurred, status,
  due, correlation_id, created_at)
SELECT 'delivery-' || i, 'big', 'event-' || i, 'user-' || i % 50, 'inbox', 'task.assigned', '{{}}', now(),
  'sent', now(), 'correlation-' || i / 5, now() - i * interval '1 minute'
FROM generate_series(1, {ROWS}) i;
INSERT INTO notifications.inbox (tenant, user_id, id, kind, data, created_at, read_at)
SELECT 'big', 'user-1', 'notice-' || i, 'task.assigned', '{{}}', now() - i * interval '1 minute',
  CASE WHEN i % 100 <> 0 THEN now() END
FROM generate_series(1, {ROWS}) i;
INSERT INTO notifications.reminders (tenant, id, task_id, user_id, kind, title, due, fires, status, version)
SELECT 'big', 'task-' || i || ':1h', 'task-' || i, 'user-' || i % 50, '1h', '', now() + i * interval '1 hour',
  now() + i * interval '1 hour', 'scheduled', 1
FROM generate_series(1, {ROWS}) i;
INSERT INTO notifications.preferences (tenant, user_id, data)
SELECT 'big', 'user-' || i, jsonb_build_object('subscriptions', jsonb_build_array(
  jsonb_build_object('events', 'task.*', 'channels', '["inbox"]'::jsonb, 'mine', i % 1000 <> 0)))
FROM generate_series(1, {ROWS}) i;
INSERT INTO notifications.recurrences (tenant, id, data, last, created_at)
SELECT 'big', 'recurrence-' || i, '{{}}', now(), now() - i * interval '1 minute'
FROM generate_series(1, {ROWS}) i;
ANALYZE
"""

QUERIES = (
    "/queries/tasks",
    *(f"/queries/tasks?sort={sort.value}" for sort in tasks.TaskSort),
    "/queries/tasks?assignee=member-7",
    "/queries/tasks?status=todo",
    "/queries/tasks?priority=high",
    "/queries/tasks?tag=tag-7",
    "/queries/members",
    "/queries/events",
    "/queries/events?type=task.created",
    "/queries/events?correlation_id=correlation-7",
    "/queries/events?user=user-7",
    "/queries/events?stream=task-7",
    "/queries/events?backwards=true",
    "/queries/events?backwards=true&type=task.created",
    "/queries/events?backwards=true&correlation_id=correlation-7",
    "/queries/events?backwards=true&user=user-7",
    "/queries/events?backwards=true&stream=task-7",
    "/queries/audit",
    "/queries/audit?type=task.created",
    "/queries/audit?user=user-7",
    "/queries/audit?stream=task-7",
    "/queries/audit?correlation_id=correlation-7",
    "/queries/audit?trace_id=8f14e45fceea167a5a36dedd4bea2543",
    "/queries/sagas",
    "/queries/sagas?status=failed",
    "/queries/sagas?business_key=task-7",
    "/queries/sagas?parent=saga-7",
    "/inbox/user-1",
    "/inbox/user-1?unread=true",
    "/deliveries",
    "/deliveries?user=user-7",
    "/deliveries?status=sent",
    "/deliveries?event_id=event-7",
    "/deliveries?correlation_id=correlation-7",
    "/reminders",
    "/reminders?user=user-7",
    "/reminders?task_id=task-7",
    "/recurrences",
)

ROW_BY_ID = (
    "/queries/tasks/task-7",
    "/queries/members/member-7",
    "/queries/sagas/saga-7",
    "/queries/events/event-7",
    "/recurrences/recurrence-7",
)


class Inexhaustible(MemoryEventStore):
    """Returns every event that is asked for, of any tenant."""

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        return [
            RecordedEvent.record(of_task(stream, "task.created", {}), version=version, lane=0, seq=1)
            for stream, version in refs
        ]


class Explained(PoolDatabase):
    """Records how many rows each statement reads."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.pool = pool
        self.looked_at: list[float] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        answer = await super().fetch(sql, *params)
        explained = await self.pool.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *params)
        self.looked_at.append(sum(map(_looked_at, _nodes(json.loads(explained)[0]["Plan"]))))
        return answer


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _looked_at(node: dict[str, Any]) -> float:
    if "Relation Name" not in node and node["Node Type"] != "Bitmap Index Scan":
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture
async def explained(pool: asyncpg.Pool, read_models: PoolDatabase) -> Explained:
    one = Explained(pool)
    await migrate(one, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    await pool.execute(FILLED)
    return one


@pytest.fixture
async def http(explained: Explained) -> AsyncIterator[httpx.AsyncClient]:
    async def up_to_date() -> None:
        """Return at once: nothing is written meanwhile."""

    async def disclose(_tenant: str, value: Any) -> Any:
        return value

    unused = cast("Any", None)
    store = Inexhaustible()
    waits = cast("Any", up_to_date)
    reminders = Reminders(explained, store, unused, unused, (), unused)
    recurrences = Recurrences(explained, unused, unused)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(tasks.routes(explained, disclose, waits))
    app.include_router(sagas.routes(explained, store, waits))
    app.include_router(streams.routes(store, PROJECTIONS, DeadLetters(unused, "", ""), disclose, waits))
    app.include_router(events.routes(explained, store, disclose, waits))
    app.include_router(audit.routes(explained, waits, up_to_date))
    app.include_router(users_api.routes(Users(explained), unused, unused))
    app.include_router(schedule_api.routes(reminders, recurrences, unused))
    transport = httpx.ASGITransport(app)
    headers = {"x-tenant-id": "big"}
    async with httpx.AsyncClient(transport=transport, base_url="http://big", headers=headers) as client:
        yield client


async def test_a_page_costs_what_it_shows(http: httpx.AsyncClient, explained: Explained) -> None:
    costs = {}
    for query in QUERIES:
        cursor: dict[str, str] = {}
        for place in ("first", "second"):
            explained.looked_at.clear()
            answer = await http.get(query, params=dict(httpx.URL(query).params) | cursor)
            assert answer.status_code == 200, answer.text
            costs[f"{query}, {place} page"] = sum(explained.looked_at)
            if (following := answer.json()["next"]) is None:
                break
            cursor = {"cursor": following}
    assert {query: cost for query, cost in costs.items() if cost > AT_MOST} == {}
    assert all(cost > 0 for cost in costs.values()), "every statement is looked into"
    assert len(costs) > len(QUERIES)


async def test_another_tenant_finds_and_changes_nothing_of_it(
    http: httpx.AsyncClient, explained: Explained
) -> None:
    small = {"x-tenant-id": "small"}

    async def found(query: str, headers: dict[str, str] | None = None) -> Any:
        answer = await http.get(query, headers=headers)
        assert answer.status_code == 200, f"{query}: {answer.text}"
        return answer.json()

    for query in QUERIES:
        assert (await found(query))["items"], query
        nothing = await found(query, headers=small)
        assert (nothing["items"], nothing["next"], nothing.get("unread", 0)) == ([], None, 0), query
    export = "/queries/audit/export"
    assert (await http.get(export)).text.count("\n") == ROWS + 1
    assert (await http.get(export, headers=small)).json() == {"end": {"entries": 0}}
    for row in ROW_BY_ID:
        await found(row)
        assert (await http.get(row, headers=small)).status_code == 404, row
    unset = await found("/preferences/nobody", headers=small)
    assert await found("/preferences/user-7", headers=small) == unset

    own = ("/preferences/user-7", "/deliveries?user=user-7", "/inbox/user-1", "/recurrences")
    before = [await found(one) for one in own]
    assert before[0] != unset
    assert (await http.post("/inbox/user-1/read", headers=small)).json() == {"changed": 0}
    assert (await http.put("/inbox/user-1/notice-100/read", headers=small)).json() == {"changed": 0}
    assert (await http.delete("/inbox/user-1/notice-1/read", headers=small)).json() == {"changed": 0}
    assert (await http.delete("/recurrences/recurrence-7", headers=small)).status_code == 404
    for user in ("user-1", "user-7"):
        await Users(explained).forget("small", user)
    assert [await found(one) for one in own] == before
    await found("/recurrences/recurrence-7")


async def test_to_tell_of_an_event_costs_what_there_is_to_tell(explained: Explained) -> None:
    log = DeliveryLog(explained)
    notice = Notice("big", "event-1", "task.assigned", frozenset({"user-7", "nobody"}), {}, NOW)
    _, interested = await log.interested(notice)
    assert set(interested) == {"user-7", *(f"user-{number}" for number in range(1_000, ROWS + 1, 1_000))}
    await Notices(log, lambda: None).tell(dataclasses.replace(notice, event_id="event-new"))
    await explained.pool.execute(
        """INSERT INTO notifications.deliveries
             (id, tenant, event_id, user_id, channel, kind, data, occurred, status, due)
           SELECT 'waits-' || i, 'big', 'event-' || i, 'user-7', 'email', '', '{}', now(), 'pending',
             now() + (i - 3) * interval '1 hour' FROM generate_series(1, 10000) i"""
    )
    due = await log.claim(Channel.EMAIL, set(), 2, 200, timedelta(minutes=3))
    assert {one.id for one in due.claimed} == {"waits-1", "waits-2", "waits-3"}
    for one in due.claimed:
        await log.end(Ended(one, "sent", "250 OK"))
    due = await log.claim(Channel.EMAIL, {Receiver("big", "user-8")}, 2, 200, timedelta(minutes=3))
    assert due.claimed == []
    assert due.seconds == pytest.approx(3600, abs=60)
    assert 0 < max(explained.looked_at) < AT_MOST


async def test_to_claim_costs_what_is_claimed_however_much_waits(explained: Explained) -> None:
    log = DeliveryLog(explained)
    await explained.pool.execute(
        """INSERT INTO notifications.deliveries
             (id, tenant, event_id, user_id, channel, kind, data, occurred, status, due)
           SELECT 'waits-' || i, 'big', 'event-' || i, 'user-' || i % 100, 'email', '', '{}', now(),
             'pending', now() FROM generate_series(1, 10000) i;
           ANALYZE notifications.deliveries"""
    )
    due = await log.claim(Channel.EMAIL, set(), 2, 50, timedelta(minutes=3))
    assert len(due.claimed) == 100
    assert len({one.receiver for one in due.claimed}) == 2
    assert 0 < max(explained.looked_at) < AT_MOST


async def test_to_follow_a_task_costs_what_it_has(explained: Explained) -> None:
    store = MemoryEventStore()
    unused = cast("Any", None)
    reminders = Reminders(explained, store, unused, Alarms(unused), (), unused)
    task = StreamId("big", "task-task-7")
    changes = (("task.created", {"title": "", "due": None}), ("task.assigned", {"assignee": "user-8"}))
    state = {"status": "todo", "assignee": "user-8"}
    await store.append(Append(task, tuple(of_task(task, *change) for change in changes), 0, state))
    recorded = await store.read_events([(task, version) for version in (1, 2)])
    assert len(recorded) == 2
    for one in (*recorded, recorded[-1].model_copy(update={"event_type": "task.deleted"})):
        await reminders.on_event(one)
    await reminders.due(Row(NOW, "", ""), timedelta(hours=1))
    assert 0 < max(explained.looked_at) < AT_MOST


async def test_to_apply_events_costs_what_they_change(
    explained: Explained, dead_letters: DeadLetters
) -> None:
    store = MemoryEventStore()
    events = await history(store, random.Random(1), streams=10)
    generations = Generations(explained, PROJECTIONS)
    visibility = Visibility(explained, store)
    applier = Applier(explained, store, lambda: generations.live, dead_letters, visibility.applied)
    await generations.refresh()
    await applier.apply(events)
    await Sweeper(explained, store, applier, ["tasks"]).sweep()
    assert 0 < max(explained.looked_at) < AT_MOST


async def test_a_look_for_what_is_to_be_forgotten_costs_nothing_where_nothing_is(
    explained: Explained,
) -> None:
    await Retention(explained, lambda: 365).look()
    assert explained.looked_at
    assert sum(explained.looked_at) < AT_MOST
