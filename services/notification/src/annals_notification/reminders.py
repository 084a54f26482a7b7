"""Reminders of due dates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from annals.dapr import Database
from annals.events import RecordedEvent, StreamId
from annals.store import EventReader, Head, StoreUnavailable
from annals.telemetry import metrics
from annals_notification.counted import counted
from annals_notification.deliveries.plan import Notice
from annals_notification.due import CLOCKS_APART, Alarms, NotNow, Row, rows_due, statement_of_due
from annals_notification.gathered import Gathered
from annals_notification.notices import Notices

_LATE = timedelta(minutes=1)
_WAITED_FOR = timedelta(days=1)
"""How long a reminder waits for a release that can read its task."""
_EVER = datetime.min.replace(tzinfo=UTC)

# What a task had before is looked up by the task (OFFSET 0) and cancelled by its key, as an insertion in
# conflict: whatever PostgreSQL takes the numbers of rows to be, it reads no others.
_SET = """
WITH tasks AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (tenant text, task_id text, version bigint)),
planned AS (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS row (
    tenant text, id text, task_id text, user_id text, kind text, title text, due timestamptz,
    fires timestamptz, version bigint, correlation_id text, causation_id text)),
written AS (
  INSERT INTO notifications.reminders AS r
    (tenant, id, task_id, user_id, kind, title, due, fires, status, version, correlation_id, causation_id)
  SELECT tenant, id, task_id, user_id, kind, title, due, fires, 'scheduled', version, correlation_id,
    causation_id
  FROM planned
  -- Before there was this service nobody was to be reminded by it.
  WHERE fires > (SELECT since FROM notifications.service)
  UNION ALL
  SELECT had.tenant, had.id, had.task_id, had.user_id, had.kind, had.title, had.due, had.fires, 'cancelled',
    tasks.version, had.correlation_id, had.causation_id
  FROM tasks CROSS JOIN LATERAL (
    SELECT * FROM notifications.reminders one
    WHERE one.tenant = tasks.tenant AND one.task_id = tasks.task_id OFFSET 0) had
  WHERE had.status = 'scheduled' AND had.version < tasks.version
    AND NOT EXISTS (SELECT FROM planned WHERE planned.tenant = had.tenant AND planned.id = had.id)
  ORDER BY tenant, id
  ON CONFLICT (tenant, id) DO UPDATE SET user_id = excluded.user_id, title = excluded.title,
    due = excluded.due, fires = excluded.fires, version = excluded.version, late = NULL,
    fired_at = NULL, status = excluded.status, correlation_id = excluded.correlation_id,
    causation_id = excluded.causation_id
  WHERE r.version < excluded.version AND CASE excluded.status
    WHEN 'cancelled' THEN r.status = 'scheduled' ELSE r.status <> 'fired' OR r.fires <> excluded.fires END
  RETURNING tenant, id, fires, status)
SELECT coalesce(json_agg(json_build_array(tenant, id, fires)), '[]')::text FROM written
WHERE status = 'scheduled'"""

_HAD = """
SELECT coalesce(json_agg(r), '[]')::text
FROM jsonb_to_recordset($1::text::jsonb) AS task (tenant text, task_id text)
  JOIN notifications.reminders r USING (tenant, task_id)"""

_GIVE_WAY = """
WITH gone AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    tenant text, id text, version bigint, becomes bigint)),
older AS (
  UPDATE notifications.reminders r SET version = gone.becomes
  FROM gone WHERE r.tenant = gone.tenant AND r.id = gone.id AND r.version = gone.version RETURNING 1)
SELECT count(*)::text FROM older"""

_ONE = f"""
SELECT json_build_object('row', (
  SELECT to_jsonb(r) FROM notifications.reminders r
  WHERE tenant = $1 AND id = $2 AND status = 'scheduled'
    AND fires <= now() + {CLOCKS_APART}))::text"""  # noqa: S608 - a constant of the code

_FIRED = counted("""
UPDATE notifications.reminders SET status = $4, late = $5::text::boolean, fired_at = now()
WHERE tenant = $1 AND id = $2 AND status = 'scheduled' AND fires = $3::text::timestamptz""")

_DUE = statement_of_due("reminders", "fires", "status = 'scheduled'")

_LIST = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(r) - 'tenant' AS row, fires::text AS sort_key, id FROM notifications.reminders r
  WHERE tenant = $1 AND ($2::text IS NULL OR task_id = $2) AND ($3::text IS NULL OR user_id = $3)
    AND ($4::text IS NULL OR status = $4)
    AND ($5::text IS NULL OR (fires, id) > ($5::text::timestamptz, $6::text))
  ORDER BY fires, id LIMIT $7::text::integer) page"""

_SHOW = counted("""
UPDATE notifications.reminders SET user_id = $3, title = $4
WHERE tenant = $1 AND task_id = $2 AND status = 'scheduled'""")


@dataclass(frozen=True, slots=True)
class Reminder:
    """One reminder that a task is to have."""

    kind: str
    due: datetime
    fires: datetime


def plan(task: Mapping[str, Any] | None, before: Sequence[timedelta], since: datetime) -> list[Reminder]:
    """The reminders of a task as it is: none that would already be past at a time. Pure."""
    if task is None or task.get("status") != "todo" or not task.get("due"):
        return []
    due = datetime.fromisoformat(task["due"])
    planned = {_kind(one): due - one for one in before}
    return [Reminder(kind, due, fires) for kind, fires in planned.items() if fires > since]


def _kind(before: timedelta) -> str:
    hours, rest = divmod(int(before.total_seconds()), 3600)
    return "due" if not before else f"{hours}h" if not rest else f"{int(before.total_seconds())}s"


def _of_another_history(
    had: Iterable[Mapping[str, Any]],
    heads: Mapping[StreamId, Head | None],
    since: Mapping[StreamId, datetime],
) -> list[dict[str, Any]]:
    """Rows that the heads, which were read later, do not explain, with the version that each is to have.

    A version beyond the head's is of a history that is gone; one that is the head's may be. What is of it
    is made older than the head, and so planned anew. Of what is due when the task is stays what shows the
    task as it is, and what would not be planned any more: that may be to be told of now.
    """
    found = []
    for row in had:
        stream = StreamId.of(row["tenant"], "task", row["task_id"])
        head = heads[stream]
        if head is None or head.state is None or row["version"] < head.version:
            continue
        rightly_due = row["status"] == "scheduled" and any(
            one.due == datetime.fromisoformat(row["due"]) for one in plan(head.state, (timedelta(0),), _EVER)
        )
        past = datetime.fromisoformat(row["fires"]) <= since[stream]
        as_planned = row["version"] == head.version and (row["user_id"], row["title"]) == _shown(head.state)
        version = head.version if rightly_due and (past or as_planned) else head.version - 1
        if version != row["version"]:
            key = {name: row[name] for name in ("tenant", "id", "version")}
            found.append(key | {"head": head.version, "becomes": version})
    return found


def _shown(task: Mapping[str, Any]) -> tuple[str | None, str]:
    """Whose a task is and its title, as its reminders show them."""
    return task.get("assignee"), task.get("title", "")


@dataclass(frozen=True, slots=True)
class _Change:
    """That a task was changed, by an event; what is to be reminded of since then."""

    stream: StreamId
    since: datetime
    correlation_id: str | None
    event_id: str
    imported: bool


class Reminders:
    """See `due.Kind`. `before` is how long before a due date to remind.

    `being_imported` says whether the store is being filled from a backup.
    """

    name = "reminder"

    def __init__(
        self,
        database: Database,
        store: EventReader,
        notices: Notices,
        alarms: Alarms,
        before: Sequence[timedelta],
        being_imported: Callable[[], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._store = store
        self._notices = notices
        self._alarms = alarms
        self._before = before
        self._being_imported = being_imported
        self._followed: Gathered[_Change, None] = Gathered(self._follow)
        # To look takes a read of every lane: together, and no more once it is known.
        self._whether_filled: Gathered[None, bool] = Gathered(self._look_whether_filled)
        self._filled = False
        for late in ("true", "false"):
            # Born with the first late one the counter would show no increase, and alert nobody.
            metrics.REMINDERS.labels(late)

    async def on_event(self, event: RecordedEvent) -> None:
        """Follow what changes a task's reminders. Raises DatabaseError and StoreError.

        What came due since it happened, while this service was away, is reminded of late.
        """
        match event.event_type:
            case "task.created" if event.data.get("due") is None:
                return
            case "task.created" | "task.completed" | "task.reopened" | "task.deleted" | "task.due_date_set":
                await self._changed(event, min(event.timestamp, datetime.now(UTC)), imported=False)
            case "task.assigned" | "task.unassigned":
                await self._show(event.stream)
            case "task.updated" if "title" in event.data.get("changes", ()):
                await self._show(event.stream)

    async def on_imported(self, event: RecordedEvent) -> None:
        """The same for what came from a backup: only what is still to come is reminded of.

        Whatever it says: a task that was written through several lanes has no state before its last event
        is there, and that may be any of them. What is kept from before of a history that is not the
        imported one gives way; as long as it may still be, who asks is to ask again.
        """
        if event.aggregate_type == "task":
            await self._changed(event, datetime.now(UTC), imported=True)

    async def _show(self, stream: StreamId) -> None:
        """Have the list of reminders show whose the task is, and its title.

        Who is told of what is read when one fires. The event that told of it is a hint: of two that
        replicas wrote at once, either may come last.
        """
        head, _ = await self._store.load(stream, certain=True)
        if head is None or head.state is None or not head.state.get("due"):
            return
        await self._database.fetch(
            _SHOW, stream.tenant, stream.name.removeprefix("task-"), *_shown(head.state)
        )

    async def _changed(self, event: RecordedEvent, since: datetime, *, imported: bool) -> None:
        await self._followed.get(_Change(event.stream, since, event.correlation_id, event.event_id, imported))

    async def _follow(self, changes: Sequence[_Change]) -> dict[_Change, None]:
        """Bring tasks' reminders in line with what the tasks are now.

        The event that told of a change is a hint: a task is read from the store. What comes of its
        reminders belongs to the chain of that event, the last one where several told of the same task.
        """
        last: dict[StreamId, _Change] = {}
        since: dict[StreamId, datetime] = {}
        for change in changes:
            last[change.stream] = change
            since[change.stream] = min(change.since, since.get(change.stream, change.since))
        had = await self._had({change.stream for change in changes if change.imported})
        heads = await self._heads(last)
        gone = _of_another_history(had, heads, since)
        if any(row["version"] > row["head"] for row in gone):
            if await self._being_imported():
                raise StoreUnavailable("tasks that there are reminders of are still being imported")
            # Only after an import was through their heads are whole.
            heads = await self._heads(last)
            gone = _of_another_history(had, heads, since)
        if gone:
            await self._database.fetch(_GIVE_WAY, orjson.dumps(gone).decode())
        tasks, rows = [], []
        for stream, change in last.items():
            head = heads[stream]
            # The rest of it is still to be imported, and then told of; or no release that can read it had it.
            if head is None or head.state is None:
                continue
            task_id = stream.name.removeprefix("task-")
            state = head.state
            task = {"tenant": stream.tenant, "task_id": task_id, "version": head.version}
            tasks.append(task)
            user_id, title = _shown(state)
            rows += [
                task
                | {
                    "id": f"{task_id}:{one.kind}",
                    "user_id": user_id,
                    "kind": one.kind,
                    "title": title,
                    "due": one.due,
                    "fires": one.fires,
                    "correlation_id": change.correlation_id,
                    "causation_id": change.event_id,
                }
                for one in plan(state, self._before, since[stream])
            ]
        written = await self._database.fetch(_SET, orjson.dumps(tasks).decode(), orjson.dumps(rows).decode())
        for tenant, row_id, fires in written:
            self._alarms.set(self.name, tenant, row_id, datetime.fromisoformat(fires))
        return dict.fromkeys(changes)

    async def _had(self, streams: Iterable[StreamId]) -> list[dict[str, Any]]:
        """The reminders that these tasks have."""
        tasks = [{"tenant": one.tenant, "task_id": one.name.removeprefix("task-")} for one in streams]
        had: list[dict[str, Any]] = []
        if tasks:
            had = await self._database.fetch(_HAD, orjson.dumps(tasks).decode())
        return had

    async def _heads(self, streams: Iterable[StreamId]) -> dict[StreamId, Head | None]:
        streams = list(streams)
        found = await asyncio.gather(*(self._store.load(stream, certain=True) for stream in streams))
        return {stream: head for stream, (head, _) in zip(streams, found, strict=True)}

    async def fire(self, tenant: str, row_id: str) -> None:
        """See `due.Kind`."""
        row = (await self._database.fetch(_ONE, tenant, row_id))["row"]
        if row is None:
            return
        fires, due = datetime.fromisoformat(row["fires"]), datetime.fromisoformat(row["due"])
        state = await self._state(StreamId.of(tenant, "task", row["task_id"]), row["version"], fires)
        still = state.get("status") == "todo" and state.get("due") is not None
        status, late = "cancelled", datetime.now(UTC) - fires > _LATE
        if still and datetime.fromisoformat(state["due"]) == due:
            # Told first and marked second: told again it is the same notice, and counts once.
            assignee = state.get("assignee")
            await self._notices.tell(
                Notice(
                    tenant,
                    f"reminder:{row_id}:{row['fires']}",
                    "reminder.due",
                    frozenset({assignee} if assignee else ()),
                    {
                        "task_id": row["task_id"],
                        "title": state.get("title", ""),
                        "due": row["due"],
                        "before": row["kind"],
                        "late": late,
                    },
                    datetime.now(UTC),
                    row["correlation_id"],
                    row["causation_id"],
                    addressed=assignee is not None,
                )
            )
            status = "fired"
            metrics.REMINDERS.labels(str(late).lower()).inc()
        await self._database.fetch(_FIRED, tenant, row_id, row["fires"], status, str(late).lower())

    async def _state(self, task: StreamId, version: int, fires: datetime) -> Mapping[str, Any]:
        """A task as it is, once no import into the store is under way. Raises NotNow.

        Empty where it is gone, or has had no state for so long that nobody is to be told any more.
        """
        head, _ = await self._store.load(task, certain=True)
        # While an import is under way, what comes after a head may be still to come, whatever its version.
        if not self._filled or head is None or head.version < version:
            if not await self._whether_filled.get(None):
                raise NotNow(f"{task} may still be to be imported")
            # Only after an import was through its head is whole.
            head, _ = await self._store.load(task, certain=True)
        state = head.state if head is not None else {}
        if state is None and datetime.now(UTC) - fires < _WAITED_FOR:
            raise NotNow(f"{task} has no state: it was imported where nobody could read it")
        return state or {}

    async def _look_whether_filled(self, asked: Sequence[None]) -> dict[None, bool]:
        """Whether no import is under way, nor can begin any more: it would need an empty store.

        A store without a lane was emptied, and is to be filled.
        """
        self._filled = bool(await self._store.tails()) and not await self._being_imported()
        return dict.fromkeys(asked, self._filled)

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        """See `due.Kind`."""
        return await rows_due(self._database, _DUE, after, ahead)

    async def page(
        self, tenant: str, filters: tuple[str | None, ...], after: Sequence[str | None], limit: int
    ) -> list[dict[str, Any]]:
        """A page of reminders by task, user and status. Raises DatabaseError."""
        rows: list[dict[str, Any]] = await self._database.fetch(_LIST, tenant, *filters, *after, str(limit))
        return rows
