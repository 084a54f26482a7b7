"""Fires what is due at a time: a job calls back, and a sweep of the tables finds what no job called for.

A table says what is due; a job is only an alarm clock. When an alarm rings, its row is read again, so that
an alarm that rings twice, late, or for a row that was moved meanwhile does no harm.

An alarm is set at most an hour ahead: each job that the scheduler keeps has a cost, and most of what is
planned for a distant day is moved or cancelled before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, Protocol
from uuid import NAMESPACE_URL, uuid5

import structlog

from annals.dapr import DaprError, Database, DatabaseError, Jobs
from annals.store import StoreError

_log = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0  # between two sweeps of a table
AHEAD = timedelta(hours=1)  # how far ahead alarms are set
EARLY_TOLERANCE_SQL = "interval '1 second'"
"""How early a job may ring by the database's clock. If it rings even earlier, its row fires late."""
_OVERDUE = timedelta(seconds=5)
"""How long a row is left to its job before the sweep fires it."""
_AT_ONCE = 8
"""How many overdue rows of a kind are fired at the same time."""
_PAGE = 500  # rows
_WANTED_AT_MOST = 10_000
"""Alarms that may wait to be set."""


class NotNow(Exception):
    """Something cannot be done now and must be tried again later."""


class Row(NamedTuple):
    """A row that is due, and when; rows are sorted by these fields."""

    due: datetime
    tenant: str
    row_id: str


_FIRST = Row(datetime.min.replace(tzinfo=UTC), "", "")


class Kind(Protocol):
    """A kind of rows that become due: reminders, recurrences or held events."""

    name: str

    async def fire(self, tenant: str, row_id: str) -> None:
        """Do what is due for one row; repeated, it takes effect once.

        Raises NotNow, DatabaseError and StoreError.
        """
        ...

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        """Return the page after `after` of the rows that are due within `ahead`, by the database's clock.

        A negative `ahead` is for rows that have been due for that long. Raises DatabaseError.
        """
        ...


def statement_of_due(table: str, time: str, waits: str) -> str:
    """Return the statement for `rows_due`: `time` is the column to sort by, `waits` a condition.

    Times are read in UTC: the database's own zone may shift the first and the last hours of the calendar into
    years that Python does not have.
    """
    return f"""
SELECT coalesce(json_agg(json_build_array({time} AT TIME ZONE 'UTC', tenant, id)), '[]')::text FROM (
  SELECT {time}, tenant, id FROM notifications.{table}
  WHERE {waits} AND ({time}, tenant, id) > ($1::text::timestamptz, $2, $3)
    AND {time} <= now() + $4::text::interval
  ORDER BY {time}, tenant, id LIMIT {_PAGE}) page"""  # noqa: S608 - names of the code's own tables


async def rows_due(database: Database, statement: str, after: Row, ahead: timedelta) -> list[Row]:
    """Return a page of rows by a statement of `statement_of_due`: see `Kind.due`. Raises DatabaseError."""
    since, upto = after.due.isoformat(), f"{ahead.total_seconds()} seconds"
    rows = await database.fetch(statement, since, after.tenant, after.row_id, upto)
    return [
        Row(datetime.fromisoformat(due).replace(tzinfo=UTC), tenant, row_id) for due, tenant, row_id in rows
    ]


class Alarms:
    """Schedules jobs as alarms, in the background. `run` must be running.

    While the scheduler is down, each job takes until its call times out. So callers only put an alarm into a
    queue, and do not wait for it.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._wanted: asyncio.Queue[tuple[str, Row]] = asyncio.Queue(_WANTED_AT_MOST)

    def set(self, kind: str, tenant: str, row_id: str, due: datetime) -> None:
        """Queue an alarm for a row. If the alarm is lost, the sweep fires the row instead.

        A row that is due later than `AHEAD` gets its alarm from `Due.run`, when its time is near.
        """
        if due > datetime.now(UTC) + AHEAD:
            return
        try:
            self._wanted.put_nowait((kind, Row(due, tenant, row_id)))
        except asyncio.QueueFull:
            _log.warning("no alarm is set: too many are wanted", kind=kind, tenant=tenant, id=row_id)

    async def run(self) -> NoReturn:
        """Set the queued alarms until cancelled."""
        while True:
            kind, row = await self._wanted.get()
            try:
                await self.set_near(kind, row)
            except DaprError as error:
                what = {"kind": kind, "tenant": row.tenant, "id": row.row_id}
                _log.warning("no alarm could be set", **what, error=str(error))

    async def set_near(self, kind: str, row: Row) -> None:
        """Set the alarm of a row whose time is near. Raises DaprError."""
        name = f"{kind}-{uuid5(NAMESPACE_URL, f'{row.tenant}/{row.row_id}')}"
        await self._jobs.schedule(name, row.due, {"kind": kind, "tenant": row.tenant, "id": row.row_id})


class Due:
    """Fires what is due, whether a job or the sweep has noticed it."""

    def __init__(self, alarms: Alarms, *kinds: Kind) -> None:
        self._alarms = alarms
        self._kinds = {kind.name: kind for kind in kinds}

    async def ring(self, data: Mapping[str, Any]) -> bool:
        """Handle the call of a job; return False to be called again."""
        kind = self._kinds.get(str(data.get("kind")))
        if kind is None:
            _log.error("a job of an unknown kind", data=dict(data))
            return True
        return await self._fire(kind, str(data["tenant"]), str(data["id"]))

    async def run(self) -> None:
        """Sweep the tables until cancelled: fire what is overdue, and set alarms for what is near.

        Each kind has a task of its own for either, so that none of them waits for another.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._alarms.run())
            for kind in self._kinds.values():
                tasks.create_task(self._fire_overdue(kind))
                tasks.create_task(self._set_alarms(kind))

    async def _fire_overdue(self, kind: Kind) -> NoReturn:
        while True:
            try:
                async for rows in _pages(kind, _FIRST, -_OVERDUE):
                    await self._fire_all(kind, rows)
            except DatabaseError as error:
                _log.warning("cannot look for what is due", kind=kind.name, error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _set_alarms(self, kind: Kind) -> NoReturn:
        alarmed = _FIRST
        while True:
            # A row whose time has passed is fired by the sweep, and needs no alarm.
            alarmed = max(alarmed, Row(datetime.now(UTC), "", ""))
            try:
                async for rows in _pages(kind, alarmed, AHEAD):
                    for row in rows:
                        await self._alarms.set_near(kind.name, row)
                        alarmed = row
            except DatabaseError as error:
                _log.warning("cannot look for rows that need an alarm", kind=kind.name, error=str(error))
            except DaprError as error:
                _log.warning("no alarms can be set now", kind=kind.name, error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _fire_all(self, kind: Kind, rows: list[Row]) -> None:
        waiting = iter(rows)

        async def in_turn() -> None:
            for row in waiting:
                await self._fire(kind, row.tenant, row.row_id)

        await asyncio.gather(*(in_turn() for _ in range(_AT_ONCE)))

    async def _fire(self, kind: Kind, tenant: str, row_id: str) -> bool:
        what = {"kind": kind.name, "tenant": tenant, "id": row_id}
        try:
            await kind.fire(tenant, row_id)
        except (NotNow, DatabaseError, StoreError, DaprError) as error:
            _log.warning("a due row cannot be handled now", **what, error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - one bad row must not hold up others
            _log.error("a due row cannot be handled", **what, exc_info=error)
            return False
        return True


async def _pages(kind: Kind, after: Row, ahead: timedelta) -> AsyncIterator[list[Row]]:
    while rows := await kind.due(after, ahead):
        yield rows
        after = rows[-1]
