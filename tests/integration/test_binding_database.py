"""The read models' database through a binding of a real sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from annals.dapr import BindingDatabase, DaprSidecar, DatabaseError, StatementTooLarge
from conftest import copy_components, write_secrets

SLOW = "SELECT pg_sleep(1.5); CREATE TABLE changed (one integer)"


@pytest.fixture
async def hasty(database: str, tmp_path: Path, bare_sidecar: Any) -> Any:
    """A sidecar client that waits half a second for an answer."""
    write_secrets(tmp_path, postgres=database)
    needed = ("shared/secretstore.yaml", "shared/readmodels.yaml")
    _, at = await bare_sidecar(copy_components(tmp_path / "components", *needed), app_id="projector")
    sidecar = DaprSidecar(at.grpc, timeout=0.5)
    yield sidecar
    await sidecar.close()


async def test_a_change_of_tables_may_take_longer_than_other_calls(
    hasty: DaprSidecar, pool: asyncpg.Pool
) -> None:
    # The sidecar knows the deadline too, and may be the first to report that it has passed, or to let go.
    with pytest.raises(DatabaseError, match=r"DEADLINE_EXCEEDED|deadline exceeded|CANCELLED"):
        await BindingDatabase(hasty, "readmodels").execute(SLOW)
    # A statement that nobody waits for any more is rolled back; a retry with this deadline would fail again.
    assert await pool.fetchval("SELECT to_regclass('changed')") is None
    await BindingDatabase(hasty, "readmodels", seconds=30).execute(SLOW)
    assert await pool.fetchval("SELECT to_regclass('changed')") == "changed"


async def test_a_statement_or_an_answer_that_is_larger_than_a_sidecar_takes_is_told_as_such(
    hasty: DaprSidecar,
) -> None:
    database = BindingDatabase(hasty, "readmodels", seconds=30)
    assert await database.fetch("SELECT to_json(repeat('x', $1::text::integer))::text", "9") == "x" * 9
    with pytest.raises(StatementTooLarge):
        await database.fetch("SELECT to_json(repeat('x', $1::text::integer))::text", "5000000")
    with pytest.raises(StatementTooLarge):
        await database.fetch("SELECT to_json(length($1))::text", "x" * 5_000_000)
