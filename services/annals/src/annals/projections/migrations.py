"""Brings a service's tables up to what its code expects, in numbered steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from annals.dapr import DaprError, Database, DatabaseError
from annals.deadletters import DeadLettersUnknown
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)
_AGAIN_SECONDS = 0.5


async def migrate(database: Database, schema: str, lock: int, migrations: Sequence[str]) -> None:
    """Run the steps that have not run in a schema yet. Raises DatabaseError.

    Never change a step that has run anywhere. Each step runs in a transaction that holds the advisory lock
    number `lock`, so replicas that start together take turns.
    """
    take_turns = f"SELECT pg_advisory_xact_lock({lock})"
    await database.execute(
        f"""{take_turns};
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.migrations (
  number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"""
    )
    for number, sql in enumerate(migrations, start=1):
        await database.execute(
            f"""{take_turns};
DO $migration$ BEGIN
  IF NOT EXISTS (SELECT FROM {schema}.migrations WHERE number = {number}) THEN
    {sql}
    INSERT INTO {schema}.migrations (number) VALUES ({number});
  END IF;
END $migration$"""  # noqa: S608 - names, numbers and texts of the callers' own
        )


async def until_reached(prepare: Callable[[], Awaitable[None]], warning: str) -> None:
    """Call `prepare`, such as a migration, until it reaches what it needs; log `warning` when it does not."""
    said = Said()
    while True:
        try:
            return await prepare()
        except (DatabaseError, DaprError, DeadLettersUnknown) as error:
            if said.is_news(error):
                _log.warning(warning, error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)
