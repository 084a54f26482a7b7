"""Stores users' preferences and inboxes, and reads the delivery log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from annals.dapr import Database
from annals_notification.counted import counted
from annals_notification.deliveries.preferences import Preferences
from annals_notification.stored_text import stored_text

_FAILURES_UNTIL_OFF = 5  # deliveries that fail in a row before a webhook is switched off
_AT_ONCE = 1_000
"""Rows that one statement changes at most: all rows of a user may take longer than the sidecar waits."""

_GET = """
SELECT json_build_object('data', (
  SELECT data FROM notifications.preferences WHERE tenant = $1 AND user_id = $2))::text"""

_PUT = counted("""
INSERT INTO notifications.preferences (tenant, user_id, data) VALUES ($1, $2, $3::text::jsonb)
ON CONFLICT (tenant, user_id) DO UPDATE SET data = excluded.data, webhook_failures = 0""")

_WORKS = counted("""
UPDATE notifications.preferences SET webhook_failures = 0
WHERE tenant = $1 AND user_id = $2 AND data #>> '{webhook,url}' = $3 AND webhook_failures > 0""")

_FAILS = f"""
WITH counted AS (
  UPDATE notifications.preferences SET webhook_failures = webhook_failures + 1,
    data = CASE WHEN webhook_failures + 1 >= {_FAILURES_UNTIL_OFF}
      THEN jsonb_set(data, '{{webhook}}', 'null') ELSE data END
  WHERE tenant = $1 AND user_id = $2 AND data #>> '{{webhook,url}}' = $4 RETURNING webhook_failures),
told AS (
  INSERT INTO notifications.inbox (tenant, user_id, id, kind, data)
  SELECT $1, $2, gen_random_uuid()::text, 'notification.webhook_disabled',
    jsonb_build_object('answer', $3::text)
  FROM counted WHERE webhook_failures = {_FAILURES_UNTIL_OFF} RETURNING 1)
SELECT count(*)::text FROM told"""  # noqa: S608 - a constant of this module

_FORGET_PREFERENCES = counted("DELETE FROM notifications.preferences WHERE tenant = $1 AND user_id = $2")


def _forget_some(table: str) -> str:
    return counted(f"""
DELETE FROM notifications.{table} WHERE (tenant, user_id, id) IN (
  SELECT tenant, user_id, id FROM notifications.{table} WHERE tenant = $1 AND user_id = $2
  ORDER BY created_at, id LIMIT {_AT_ONCE} FOR UPDATE)""")  # noqa: S608 - names of this module


_FORGET_SOME = tuple(_forget_some(table) for table in ("inbox", "deliveries"))

_INBOX = """
SELECT json_build_object(
  'unread', (SELECT count(*) FROM notifications.inbox
             WHERE tenant = $1 AND user_id = $2 AND read_at IS NULL),
  'rows', (SELECT coalesce(json_agg(page), '[]') FROM (
    SELECT to_jsonb(i) - 'tenant' - 'user_id' AS row, created_at::text AS sort_key, id
    FROM notifications.inbox i
    WHERE tenant = $1 AND user_id = $2 AND ($3::text IS NULL OR read_at IS NULL)
      AND ($4::text IS NULL OR (created_at, id) < ($4::text::timestamptz, $5::text))
    ORDER BY created_at DESC, id DESC LIMIT $6::text::integer) page))::text"""

_MARK = counted("""
UPDATE notifications.inbox SET read_at = CASE WHEN $4::text = 'true' THEN now() END
WHERE tenant = $1 AND user_id = $2 AND id = $3 AND (read_at IS NULL) = ($4::text = 'true')""")

_READ_SOME = counted(f"""
UPDATE notifications.inbox SET read_at = now() WHERE (tenant, user_id, id) IN (
  SELECT tenant, user_id, id FROM notifications.inbox
  WHERE tenant = $1 AND user_id = $2 AND read_at IS NULL
  ORDER BY created_at, id LIMIT {_AT_ONCE} FOR UPDATE)""")  # noqa: S608 - a constant of this module

_DELIVERIES = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(d) - 'tenant' - 'traceparent' AS row, created_at::text AS sort_key, id
  FROM notifications.deliveries d
  WHERE tenant = $1 AND ($2::text IS NULL OR user_id = $2) AND ($3::text IS NULL OR status = $3)
    AND ($4::text IS NULL OR event_id = $4) AND ($5::text IS NULL OR channel = $5)
    AND ($6::text IS NULL OR correlation_id = $6)
    AND ($7::text IS NULL OR (created_at, id) < ($7::text::timestamptz, $8::text))
  ORDER BY created_at DESC, id DESC LIMIT $9::text::integer) page"""


class Users:
    """The stored preferences, inbox and deliveries of users. All methods raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self, tenant: str, user: str) -> None:
        """Delete all data of a user: preferences with addresses, inbox, and deliveries."""
        # Preferences first: without their addresses no further e-mail or webhook is sent.
        await self.forget_preferences(tenant, user)
        for some in _FORGET_SOME:
            while await self._database.fetch(some, tenant, user):
                pass

    async def forget_preferences(self, tenant: str, user: str) -> bool:
        """Delete a user's preferences, with addresses; return whether there were any."""
        return bool(await self._database.fetch(_FORGET_PREFERENCES, tenant, user))

    async def preferences(self, tenant: str, user: str) -> Preferences:
        """Return a user's preferences, or the defaults."""
        found = await self._database.fetch(_GET, tenant, user)
        return Preferences.stored(found["data"] or {})

    async def prefer(self, tenant: str, user: str, preferences: Preferences) -> None:
        """Replace a user's preferences."""
        data = orjson.dumps(preferences.model_dump(mode="json")).decode()
        await self._database.fetch(_PUT, tenant, user, data)

    async def webhook_works(self, tenant: str, user: str, url: str) -> None:
        """Reset the count of a webhook's failures, unless the user has another webhook by now."""
        await self._database.fetch(_WORKS, tenant, user, url)

    async def webhook_fails(self, tenant: str, user: str, url: str, answer: str) -> None:
        """Count a failed delivery against a webhook, unless the user has another or none by now.

        After `_FAILURES_UNTIL_OFF` failures in a row the webhook is off, and the user is told in the inbox.
        """
        await self._database.fetch(_FAILS, tenant, user, stored_text(answer, 500), url)

    async def inbox(
        self, tenant: str, user: str, *, unread: bool, after: Sequence[str | None], limit: int
    ) -> dict[str, Any]:
        """Return the number of unread notices and a page of notices, newest first."""
        only = "unread" if unread else None
        found: dict[str, Any] = await self._database.fetch(_INBOX, tenant, user, only, *after, str(limit))
        return found

    async def mark(self, tenant: str, user: str, notice: str, *, read: bool) -> int:
        """Mark a notice as read or unread; return how many changed."""
        return int(await self._database.fetch(_MARK, tenant, user, notice, "true" if read else "false"))

    async def read_all(self, tenant: str, user: str) -> int:
        """Mark all notices as read; return how many changed."""
        changed = some = int(await self._database.fetch(_READ_SOME, tenant, user))
        # Fewer than `_AT_ONCE` were the last: new notices that keep arriving cannot keep this going.
        while some == _AT_ONCE:
            some = int(await self._database.fetch(_READ_SOME, tenant, user))
            changed += some
        return changed

    async def deliveries(
        self, tenant: str, filters: tuple[str | None, ...], after: Sequence[str | None], limit: int
    ) -> list[dict[str, Any]]:
        """Return a page of the delivery log, newest first.

        `filters` are the user, status, event id, channel and correlation id; None is no condition.
        """
        rows: list[dict[str, Any]] = await self._database.fetch(
            _DELIVERIES, tenant, *filters, *after, str(limit)
        )
        return rows
