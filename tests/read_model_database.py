"""Read models on a real PostgreSQL, and the state store beside them behind a real sidecar."""

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
    """The port of the read models' database on a pool of connections."""

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
    """A database with the tables of the projector's read models, made by two replicas at once."""
    database = PoolDatabase(pool)
    await asyncio.gather(*(migrate(database, SCHEMA, LOCK, MIGRATIONS) for _ in range(2)))
    await asyncio.gather(*(Generations(database, PROJECTIONS).prepare() for _ in range(2)))
    return database
