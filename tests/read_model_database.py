"""Read models on a real PostgreSQL, without a sidecar."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg

from annals.dapr import StatementRefused
from annals.projections import Generations, migrate
from annals_projector.migrations import LOCK, MIGRATIONS, SCHEMA
from annals_projector.read_models import PROJECTIONS


class PoolDatabase:
    """The read models' database port, implemented on a connection pool."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fetch(self, sql: str, *params: str | None) -> Any:
        try:
            return json.loads(await self._pool.fetchval(sql, *params))
        except asyncpg.DataError as error:
            raise StatementRefused(str(error)) from error

    async def execute(self, sql: str) -> None:
        await self._pool.execute(sql)


async def prepared(pool: asyncpg.Pool) -> PoolDatabase:
    """Create the tables of the projector's read models, as two replicas that start at once would."""
    database = PoolDatabase(pool)
    await asyncio.gather(*(migrate(database, SCHEMA, LOCK, MIGRATIONS) for _ in range(2)))
    await asyncio.gather(*(Generations(database, PROJECTIONS).prepare() for _ in range(2)))
    return database
