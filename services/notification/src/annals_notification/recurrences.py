"""Stores recurrences, and sends the command of each occurrence when it is due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from annals.dapr import Database, NotAnswered, ServiceInvocation
from annals.store import MAX_EVENT_BYTES, require_publishable
from annals_notification.counted import counted
from annals_notification.due import Alarms, NotNow, Row, rows_due, statement_of_due
from annals_notification.recurrence import COUNTING_SECONDS, FIRING_SECONDS, Recurrence, cpu_limit
from annals_notification.stored_text import stored_text

_COMMAND_SECONDS = 30.0
_UNKNOWN = "unknown-command"
_DENIED = 403
_CONFLICT = 409

_PUT = counted("""
INSERT INTO notifications.recurrences AS r (tenant, id, data, next, last)
VALUES ($1, $2, $3::text::jsonb, $4::text::timestamptz, $5::text::timestamptz)
ON CONFLICT (tenant, id) DO UPDATE SET data = excluded.data, last_error = NULL,
  last = CASE WHEN r.data = excluded.data THEN r.last ELSE excluded.last END,
  -- An occurrence that is due stays due; a recurrence that had stopped, without a `next`, goes on.
  next = CASE WHEN r.data = excluded.data THEN least(r.next, excluded.next) ELSE excluded.next END""")

_GET = """
SELECT json_build_object('row', (
  SELECT to_jsonb(r) - 'tenant' FROM notifications.recurrences r WHERE tenant = $1 AND id = $2))::text"""

_PAUSE = counted("""
UPDATE notifications.recurrences SET data = data || jsonb_build_object('paused', $4::text::boolean),
  next = $5::text::timestamptz, last = $6::text::timestamptz
WHERE tenant = $1 AND id = $2 AND last = $3::text::timestamptz""")

_DELETE = counted("DELETE FROM notifications.recurrences WHERE tenant = $1 AND id = $2")

_ADVANCE = counted("""
UPDATE notifications.recurrences SET last = $4::text::timestamptz, next = $5::text::timestamptz,
  occurrences = occurrences + $6::text::bigint, last_error = $7
WHERE tenant = $1 AND id = $2 AND last = $3::text::timestamptz""")

_DUE = statement_of_due("recurrences", "next", "next IS NOT NULL")

_LIST = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(r) - 'tenant' AS row, created_at::text AS sort_key, id FROM notifications.recurrences r
  WHERE tenant = $1 AND ($2::text IS NULL OR (created_at, id) > ($2::text::timestamptz, $3::text))
  ORDER BY created_at, id LIMIT $4::text::integer) page"""


class Recurrences:
    """The stored recurrences; implements `due.Kind`. All methods raise DatabaseError."""

    name = "recurrence"

    def __init__(
        self,
        database: Database,
        invocation: ServiceInvocation,
        alarms: Alarms,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Refuse commands whose event would take more than `max_event_bytes`: they would fail each time."""
        self._database = database
        self._invocation = invocation
        self._alarms = alarms
        self._max_event_bytes = max_event_bytes

    async def put(self, tenant: str, row_id: str, recurrence: Recurrence) -> dict[str, Any]:
        """Create or replace a recurrence, and return it.

        Occurrences before now are not made up for, unless the recurrence is the same as before. Raises
        ValueError if the rule takes too long to evaluate, even when paused, as it could not be resumed; also
        AppendTooLarge, and NotNow if the recurrence was deleted at the same time.
        """
        command = recurrence.command
        require_publishable(command.type, orjson.dumps(command.data), self._max_event_bytes)
        now = datetime.now(UTC)
        with cpu_limit(COUNTING_SECONDS):
            coming = recurrence.first_after(now)
        if recurrence.paused:
            coming = None
        data = orjson.dumps(recurrence.model_dump(mode="json")).decode()
        following = coming[1].isoformat() if coming else None
        await self._database.fetch(_PUT, tenant, row_id, data, following, now.isoformat())
        if coming:
            self._alarms.set(self.name, tenant, row_id, coming[1])
        row = await self.get(tenant, row_id)
        if row is None:
            raise NotNow("the recurrence was deleted at the same time")
        return row

    async def get(self, tenant: str, row_id: str) -> dict[str, Any] | None:
        """Return a recurrence and its progress, or None."""
        row: dict[str, Any] | None = (await self._database.fetch(_GET, tenant, row_id))["row"]
        return row

    async def pause(self, tenant: str, row_id: str, paused: bool) -> dict[str, Any] | None:
        """Pause or resume a recurrence, and return it; None if there is none.

        Occurrences that came due while it was paused are not made up for. Raises ValueError if the rule takes
        too long to evaluate, and NotNow if the recurrence was changed at the same time.
        """
        row = await self.get(tenant, row_id)
        if row is None or row["data"]["paused"] == paused:
            return row
        now = datetime.now(UTC)
        coming = None
        if not paused:
            recurrence = Recurrence.stored(row["data"])
            with cpu_limit(FIRING_SECONDS):
                coming = recurrence.first_after(now)
        following = coming[1].isoformat() if coming else None
        wanted = "true" if paused else "false"
        changed = await self._database.fetch(
            _PAUSE, tenant, row_id, row["last"], wanted, following, now.isoformat()
        )
        if not changed:
            raise NotNow("the recurrence was changed at the same time")
        if coming:
            self._alarms.set(self.name, tenant, row_id, coming[1])
        return await self.get(tenant, row_id)

    async def delete(self, tenant: str, row_id: str) -> bool:
        """Delete a recurrence; return whether it existed."""
        return bool(await self._database.fetch(_DELETE, tenant, row_id))

    async def fire(self, tenant: str, row_id: str) -> None:
        """Send the commands that are due: see `due.Kind`.

        Each occurrence has its own idempotency key, so that its command takes effect once.
        """
        row = await self.get(tenant, row_id)
        if row is None or row["next"] is None:
            return
        now = datetime.now(UTC)
        last = datetime.fromisoformat(row["last"])
        try:
            recurrence = Recurrence.stored(row["data"])
            with cpu_limit(FIRING_SECONDS):
                now = recurrence.reach(last, now)
                due = recurrence.missed(last, now)
                coming = recurrence.first_after(now)
        except ValueError as error:
            # By now the start is too long ago for the rule to be evaluated in time: it stops and says why.
            stopped = (row["last"], now.isoformat(), None, "0", str(error))
            await self._database.fetch(_ADVANCE, tenant, row_id, *stopped)
            return
        refused = None
        for occurrence in due:
            refused = await self._send(tenant, row_id, recurrence, occurrence) or refused
        following = coming[1].isoformat() if coming else None
        counted = str(len(due))
        moved = await self._database.fetch(
            _ADVANCE, tenant, row_id, row["last"], now.isoformat(), following, counted, refused
        )
        if moved and coming:
            self._alarms.set(self.name, tenant, row_id, coming[1])

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        """Return a page of recurrences that are due: see `due.Kind`."""
        return await rows_due(self._database, _DUE, after, ahead)

    async def page(self, tenant: str, after: Sequence[str | None], limit: int) -> list[dict[str, Any]]:
        """Return a page of recurrences, oldest first."""
        rows: list[dict[str, Any]] = await self._database.fetch(_LIST, tenant, *after, str(limit))
        return rows

    async def _send(
        self, tenant: str, row_id: str, recurrence: Recurrence, occurrence: datetime
    ) -> str | None:
        """Send the command of an occurrence; return why it was refused, or None. Raises NotNow."""
        key = f"recurrence:{row_id}:{occurrence.isoformat()}"
        data = dict(recurrence.command.data)
        if recurrence.command.type.endswith(".create") and "id" not in data:
            data["id"] = str(uuid5(NAMESPACE_URL, f"annals:{tenant}/{key}"))
        headers = {"x-tenant-id": tenant, "idempotency-key": key}
        if recurrence.user:
            headers["x-user-id"] = recurrence.user
        path = f"commands/{recurrence.command.type}"
        try:
            answer = await self._invocation.invoke(
                "command", "POST", path, json=data, headers=headers, within=_COMMAND_SECONDS
            )
        except NotAnswered as error:
            raise NotNow(str(error)) from error
        if answer.ok:
            return None
        # Without an expected version, a conflict only means that others were faster: it is tried again.
        conflicts = answer.status == _CONFLICT and data.get("expected_version") is not None
        # A sidecar that denies a command will deny it until somebody changes its configuration.
        denied = answer.status == _DENIED or answer.problem == _UNKNOWN
        if answer.refused or denied or conflicts:
            return stored_text(answer.message, 1000)
        raise NotNow(answer.message)
