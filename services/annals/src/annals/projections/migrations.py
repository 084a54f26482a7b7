"""Tables, brought up to what the code expects in numbered steps."""

from __future__ import annotations

from collections.abc import Sequence

from annals.dapr import Database


async def migrate(database: Database, schema: str, lock: int, migrations: Sequence[str]) -> None:
    """Run the steps that have not run in a schema. Raises DatabaseError.

    A step that has run anywhere is never changed. Replicas that start together take turns, by the
    number of an advisory lock: one call runs in one transaction, which it is bound to.
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
