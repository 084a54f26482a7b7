"""Deletes ended deliveries, read notices, past reminders and published events after some time.

What is deleted must not be done again when its event is delivered again. So deletion has two stages. First
the time `since` moves forward: nothing from before it is acted on. An hour later, when no work under way can
have missed this, `forgotten` follows, and what is older is deleted. If an operator raises the setting again
within that hour, what it covers is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import structlog

from annals.dapr import Database, DatabaseError
from annals_notification.counted import counted

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 600.0
_AT_ONCE = 1_000
"""Rows that one statement deletes at most, so that it holds up nobody for long."""

# When several replicas look at the same time, only one of them moves the times forward.
_MOVE_ON = counted("""
UPDATE notifications.service
SET forgotten = least(since, now() - $1::text::interval),
  since = greatest(since, now() - $1::text::interval), moved_at = now()
WHERE moved_at IS NULL OR moved_at <= now() - interval '1 hour'""")

_OVER = {
    "deliveries": ("ended_at", "ended_at < forgotten AND occurred < forgotten", "id"),
    "inbox": ("read_at", "read_at < forgotten AND created_at < forgotten", "tenant, user_id, id"),
    "reminders": ("fires", "status <> 'scheduled' AND fires < forgotten", "tenant, id"),
    "held_events": ("published_at", "published_at < forgotten AND due < forgotten", "tenant, id"),
}


def _delete(table: str) -> str:
    by, over, key = _OVER[table]
    return counted(f"""
DELETE FROM notifications.{table} WHERE ({key}) IN (
  SELECT {key} FROM notifications.{table}, (SELECT forgotten FROM notifications.service) upto
  WHERE {over} ORDER BY {by} LIMIT {_AT_ONCE} FOR UPDATE OF {table} SKIP LOCKED)""")  # noqa: S608 - names of this module


_DELETE = {table: _delete(table) for table in _OVER}


class Retention:
    """Deletes old rows. `days` says for how long what is over is kept; 0: without limit."""

    def __init__(self, database: Database, days: Callable[[], int]) -> None:
        self._database = database
        self._days = days

    async def run(self) -> NoReturn:
        """Delete what is too old, at intervals, until cancelled."""
        while True:
            try:
                await self.look()
            except DatabaseError as error:
                _log.warning("old rows cannot be deleted now", error=str(error))
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> dict[str, int]:
        """Move the times forward and delete what is too old; return how many rows of each table.

        Raises DatabaseError.
        """
        days = self._days()
        if not days:
            return {}
        await self._database.fetch(_MOVE_ON, f"{days} days")
        forgotten: dict[str, int] = {}
        for table, statement in _DELETE.items():
            deleted = 0
            while gone := await self._database.fetch(statement):
                deleted += gone
            if deleted:
                forgotten[table] = deleted
        if forgotten:
            _log.info("old rows were deleted", **forgotten)
        return forgotten
