"""What is due at a time: a job calls back, and a look at the tables finds what no job called for.

A table says what is due; the job is an alarm clock. Whatever it rings for is read again, so that an
alarm that rings twice, late, or for something that was moved meanwhile does no harm.

An alarm is set an hour ahead and no sooner: the scheduler pays for each job it keeps, and most of what
is planned for a far day is moved or cancelled before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid5

import structlog

from annals.dapr import DaprError, Jobs
from annals.projections import DatabaseError
from annals.store import StoreError

_log = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
AHEAD = timedelta(hours=1)
OVERDUE_SECONDS = 5
"""For how long a job may keep one waiting before the look at the tables takes over."""


class NotNow(Exception):
    """It cannot be done now, and is to be tried again."""


class Kind(Protocol):
    """A kind of thing that is due: reminders, recurrences, held events."""

    name: str

    async def fire(self, tenant: str, row_id: str) -> None:
        """Do what is due of one row, once in effect. Raises NotNow, DatabaseError and StoreError."""
        ...

    async def overdue(self) -> list[tuple[str, str]]:
        """Tenant and id of what should have been done some time ago. Raises DatabaseError."""
        ...

    async def coming(self, after: datetime, upto: datetime) -> list[tuple[str, str, datetime]]:
        """Tenant, id and time of what is due after one time, up to another. Raises DatabaseError."""
        ...


class Alarms:
    """Sets the jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def set(self, kind: str, tenant: str, row_id: str, due: datetime) -> None:
        """Be called at a time; should the scheduler be away, the look at the tables stands in.

        What is far off has its alarm set by `Due.run`, when the time is near.
        """
        if due > datetime.now(UTC) + AHEAD:
            return
        name = f"{kind}-{uuid5(NAMESPACE_URL, f'{tenant}/{row_id}')}"
        try:
            await self._jobs.schedule(name, due, {"kind": kind, "tenant": tenant, "id": row_id})
        except DaprError as error:
            _log.warning("no alarm could be set", kind=kind, id=row_id, error=str(error))


class Due:
    """Fires what is due, by whichever way it was noticed."""

    def __init__(self, alarms: Alarms, *kinds: Kind) -> None:
        self._alarms = alarms
        self._kinds = {kind.name: kind for kind in kinds}

    async def ring(self, data: Mapping[str, Any]) -> bool:
        """Answer a job; False to be called again."""
        kind = self._kinds.get(str(data.get("kind")))
        if kind is None:
            _log.error("a job of an unknown kind", data=dict(data))
            return True
        return await self._fire(kind, str(data["tenant"]), str(data["id"]))

    async def run(self) -> None:
        """Look at the tables for ever: what is due, and what has come near enough for an alarm."""
        alarmed = dict.fromkeys(self._kinds, datetime.now(UTC))
        while True:
            for kind in self._kinds.values():
                try:
                    for tenant, row_id in await kind.overdue():
                        await self._fire(kind, tenant, row_id)
                    upto = datetime.now(UTC) + AHEAD
                    for tenant, row_id, due in await kind.coming(alarmed[kind.name], upto):
                        await self._alarms.set(kind.name, tenant, row_id, due)
                    alarmed[kind.name] = upto
                except DatabaseError as error:
                    _log.warning("cannot look for what is due", kind=kind.name, error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _fire(self, kind: Kind, tenant: str, row_id: str) -> bool:
        try:
            await kind.fire(tenant, row_id)
        except (NotNow, DatabaseError, StoreError, DaprError) as error:
            _log.warning("what is due cannot be done now", kind=kind.name, id=row_id, error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - one row that cannot be handled holds up no other
            _log.error("what is due cannot be done", kind=kind.name, id=row_id, exc_info=error)
            return False
        return True
