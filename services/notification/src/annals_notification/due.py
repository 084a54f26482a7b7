"""What is due at a time: a job calls back, and a look at the tables finds what no job called for.

A table says what is due; the job is an alarm clock. Whatever it rings for is read again, so that an
alarm that rings twice, late, or for something that was moved meanwhile does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid5

import structlog

from annals.dapr import DaprError, Jobs
from annals.projections import DatabaseError
from annals.store import StoreError

_log = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
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


class Alarms:
    """Sets the jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def set(self, kind: str, tenant: str, row_id: str, due: datetime) -> None:
        """Be called at a time; should the scheduler be away, the look at the tables stands in."""
        name = f"{kind}-{uuid5(NAMESPACE_URL, f'{tenant}/{row_id}')}"
        try:
            await self._jobs.schedule(name, due, {"kind": kind, "tenant": tenant, "id": row_id})
        except DaprError as error:
            _log.warning("no alarm could be set", kind=kind, id=row_id, error=str(error))


class Due:
    """Fires what is due, by whichever way it was noticed."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = {kind.name: kind for kind in kinds}

    async def ring(self, data: Mapping[str, Any]) -> bool:
        """Answer a job; False to be called again."""
        kind = self._kinds.get(str(data.get("kind")))
        if kind is None:
            _log.error("a job of an unknown kind", data=dict(data))
            return True
        return await self._fire(kind, str(data["tenant"]), str(data["id"]))

    async def run(self) -> None:
        """Look at the tables for ever."""
        while True:
            for kind in self._kinds.values():
                try:
                    for tenant, row_id in await kind.overdue():
                        await self._fire(kind, tenant, row_id)
                except DatabaseError as error:
                    _log.warning("cannot look for what is due", kind=kind.name, error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _fire(self, kind: Kind, tenant: str, row_id: str) -> bool:
        try:
            await kind.fire(tenant, row_id)
        except (NotNow, DatabaseError, StoreError, DaprError) as error:
            _log.warning("what is due cannot be done now", kind=kind.name, id=row_id, error=str(error))
            return False
        return True
