"""Plans and fires the reminders of tasks' due dates.

An event only says that a task changed. What is planned and sent follows from the task as the store has it.
"""

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
from annals_notification.due import EARLY_TOLERANCE_SQL, Alarms, NotNow, Row, rows_due, statement_of_due
from annals_notification.gathered import Gathered
from annals_notification.notices import Notices

_LATE = timedelta(minutes=1)  # past its time, a reminder counts as late
_WAITED_FOR = timedelta(days=1)
"""How long a reminder waits for a release that can read its task."""
_EVER = datetime.min.replace(tzinfo=UTC)

# A task's earlier reminders are looked up by the task (OFFSET 0), and cancelled by their keys, as conflicting
# insertions: so PostgreSQL reads no other rows, whatever numbers of rows it expects.
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
  -- No reminder from before the start of this service, or from before its retention.
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
    AND fires <= now() + {EARLY_TOLERANCE_SQL}))::text"""  # noqa: S608 - a constant of the code

_FIRED = counted("""
UPDATE notifications.reminders SET status = $4, late = $5::text::boolean,
  fired_at = CASE WHEN $4 = 'fired' THEN now() END
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
    """A reminder that a task should have."""

    kind: str
    due: datetime
    fires: datetime


def plan(task: Mapping[str, Any] | None, before: Sequence[timedelta], since: datetime) -> list[Reminder]:
    """Return the reminders that a task's state calls for, of those that fire after `since`. Pure."""
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
    """Return the reminders whose version the heads do not explain, with the version that each must get.

    `heads` are read after `had`. A reminder with a version beyond the head's belongs to a history that an
    import has replaced; one with the head's own version may belong to it, too. Such a reminder is made older
    than the head, and so planned anew. But a scheduled reminder for the task's present due date gets the
    head's version, and stays, if it shows the task as it is, or if its time has passed: it would not be
    planned again, and may have to fire now.
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
    """Return a task's assignee and title, as its reminders show them."""
    return task.get("assignee"), task.get("title", "")


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a task by an event. Reminders are planned that fire after `since`."""

    stream: StreamId
    since: datetime
    correlation_id: str | None
    event_id: str
    imported: bool


class Reminders:
    """Plans reminders and fires them when they are due; implements `due.Kind`.

    `before` says how long before a due date to remind, `being_imported` whether the store is being filled
    from a backup.
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
        # The check reads every lane: concurrent callers share it, and it ends once the store is filled.
        self._whether_filled: Gathered[None, bool] = Gathered(self._look_whether_filled)
        self._filled = False
        for late in ("true", "false"):
            # A counter that only appears with the first late reminder shows no increase, and raises no alert.
            metrics.REMINDERS.labels(late)

    async def on_event(self, event: RecordedEvent) -> None:
        """Update the reminders of a task after an event. Raises DatabaseError and StoreError.

        Reminders that came due since the event, while this service was down, are sent late.
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
        """Update the reminders of a task after an imported event: only future ones are planned.

        The type of the event does not matter: a task that was written through several lanes has no state
        before its last event is imported, which may be of any type. Reminders of a history that the import
        replaced give way. While the import may still explain them, this raises StoreUnavailable, so that the
        event is handled again.
        """
        if event.aggregate_type == "task":
            await self._changed(event, datetime.now(UTC), imported=True)

    async def _show(self, stream: StreamId) -> None:
        """Update the assignee and the title that the list of reminders shows for a task.

        A reminder that fires reads both anew. They are not taken from the event: of two events that replicas
        wrote at the same time, either may come last.
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
        """Bring the reminders of tasks in line with the tasks as the store has them now.

        New reminders get the correlation and causation of the event: the last one, if there are several for
        the same task.
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
                raise StoreUnavailable("tasks with reminders are still being imported")
            # The heads are certain to be complete only if they are read after the end of an import.
            heads = await self._heads(last)
            gone = _of_another_history(had, heads, since)
        if gone:
            await self._database.fetch(_GIVE_WAY, orjson.dumps(gone).decode())
        tasks, rows = [], []
        for stream, change in last.items():
            head = heads[stream]
            # Either more of the task is still to be imported, and its events will follow, or no release that
            # imported it could read it.
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
        """Return the stored reminders of tasks."""
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
        """Give notice of a due date, if the task is still to do and still due then: see `due.Kind`."""
        row = (await self._database.fetch(_ONE, tenant, row_id))["row"]
        if row is None:
            return
        fires, due = datetime.fromisoformat(row["fires"]), datetime.fromisoformat(row["due"])
        state = await self._state(StreamId.of(tenant, "task", row["task_id"]), row["version"], fires)
        still = state.get("status") == "todo" and state.get("due") is not None
        status, was_late = "cancelled", None
        if still and datetime.fromisoformat(state["due"]) == due:
            # Tell first and mark second: a repeat is the same notice, and is delivered once.
            assignee, late = state.get("assignee"), datetime.now(UTC) - fires > _LATE
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
            status, was_late = "fired", str(late).lower()
            metrics.REMINDERS.labels(was_late).inc()
        await self._database.fetch(_FIRED, tenant, row_id, row["fires"], status, was_late)

    async def _state(self, task: StreamId, version: int, fires: datetime) -> Mapping[str, Any]:
        """Return a task's state, once no import into the store is under way. Raises NotNow.

        The state is empty if the task is gone, or has had no state for so long that nobody is told any more.
        """
        head, _ = await self._store.load(task, certain=True)
        # While an import is under way, events after the head may be still to come, whatever its version.
        if not self._filled or head is None or head.version < version:
            if not await self._whether_filled.get(None):
                raise NotNow(f"{task} may not be imported completely yet")
            # The head is certain to be complete only if it is read after the end of an import.
            head, _ = await self._store.load(task, certain=True)
        state = head.state if head is not None else {}
        if state is None and datetime.now(UTC) - fires < _WAITED_FOR:
            raise NotNow(f"{task} has no state: no release that imported it could read it")
        return state or {}

    async def _look_whether_filled(self, asked: Sequence[None]) -> dict[None, bool]:
        """Find out whether the store is filled: no import is under way, and none can begin any more.

        An import needs an empty store. A store without a lane was emptied, and an import may follow.
        """
        self._filled = bool(await self._store.tails()) and not await self._being_imported()
        return dict.fromkeys(asked, self._filled)

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        """Return a page of reminders that are due: see `due.Kind`."""
        return await rows_due(self._database, _DUE, after, ahead)

    async def page(
        self, tenant: str, filters: tuple[str | None, ...], after: Sequence[str | None], limit: int
    ) -> list[dict[str, Any]]:
        """Return a page of reminders, by the time they fire. Raises DatabaseError.

        `filters` are the task, user and status; None is no condition.
        """
        rows: list[dict[str, Any]] = await self._database.fetch(_LIST, tenant, *filters, *after, str(limit))
        return rows
