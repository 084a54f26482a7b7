"""The catalogue of read models on a real PostgreSQL, as releases come and go."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from annals.projections import Generations, GenerationStatus, Projection, Put, Table
from annals.projections.generations import Known
from annals_projector.read_models import PROJECTIONS
from read_model_database import PoolDatabase

WORKLOADS = Projection(
    Table(
        "workloads",
        {"capacity": "integer", "share": "numeric(5,2)", "tags": "jsonb", "names": "text[]"},
        indexes=("(tenant, capacity)",),
    ),
    "member",
    {"member.registered": lambda event: Put({"capacity": event.data["capacity"]})},
)
_SHOWN = """
SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum)
FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND attname NOT IN ('prior', 'deleted')"""


@pytest.fixture
async def installed(pool: asyncpg.Pool, read_models: PoolDatabase) -> PoolDatabase:
    """Of an installation that has events."""
    await pool.execute(
        "INSERT INTO readmodels.event_index (tenant, stream, version, lane, seq, event_id, event_type, time)"
        " VALUES ('acme', 'member-zoe', 1, 0, 1, 'e1', 'member.registered', now())"
    )
    return read_models


async def release(database: PoolDatabase, *projections: Projection) -> Generations:
    """A replica of a release that has these beside the others."""
    generations = Generations(database, [*PROJECTIONS, *projections])
    await generations.prepare()
    return generations


def version(number: int) -> Projection:
    """Another version of it."""
    return replace(WORKLOADS, version=number)


def known(generations: Generations, number: int) -> Known:
    found = generations.find("workloads", number)
    assert found is not None
    return found


async def rows(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    return list(await pool.fetch("SELECT id, version, capacity FROM readmodels.workloads"))


async def filled(pool: asyncpg.Pool, number: int) -> None:
    await pool.execute(
        f"INSERT INTO readmodels.workloads_{number} (tenant, id, version, prior, deleted, capacity)"
        " VALUES ('acme', 'zoe', 1, 0, false, 3), ('acme', 'max', 1, 0, true, null)"
    )


async def test_a_read_model_that_is_built_answers_nothing_until_it_is_switched_to(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    generations = await release(installed, WORKLOADS)
    assert known(generations, 1).status is GenerationStatus.BUILDING
    before = await pool.fetchval(_SHOWN, "readmodels.workloads")
    assert before == await pool.fetchval(_SHOWN, "readmodels.workloads_1")
    await filled(pool, 1)
    assert await rows(pool) == []
    await generations.switch(known(generations, 1))
    assert await rows(pool) == [("zoe", 1, 3)]
    assert await pool.fetchval(_SHOWN, "readmodels.workloads") == before


async def test_the_first_build_of_a_read_model_is_cancelled(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    generations = await release(installed, WORKLOADS)
    await generations.set_status(known(generations, 1), GenerationStatus.DROPPED)
    assert generations.find("workloads", 1) is None
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads_1')") is None


async def test_a_build_whose_half_filled_table_an_older_release_showed_is_cancelled(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    generations = await release(installed, WORKLOADS)
    await pool.execute(
        "DROP VIEW readmodels.workloads;"
        " CREATE VIEW readmodels.workloads AS SELECT id FROM readmodels.workloads_1"
    )
    await generations.set_status(known(generations, 1), GenerationStatus.DROPPED)
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads_1')") is None


async def test_a_read_model_that_was_dropped_comes_back(pool: asyncpg.Pool, installed: PoolDatabase) -> None:
    generations = await release(installed, WORKLOADS)
    await generations.switch(known(generations, 1))
    older = await release(installed)
    await older.set_status(known(older, 1), GenerationStatus.DROPPED)
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads')") is None
    generations = await release(installed, WORKLOADS)
    assert known(generations, 2).status is GenerationStatus.BUILDING
    await filled(pool, 2)
    assert await rows(pool) == []
    await generations.switch(known(generations, 2))
    assert await rows(pool) == [("zoe", 1, 3)]


async def test_a_read_model_that_was_dropped_comes_back_where_there_are_no_events(
    pool: asyncpg.Pool, read_models: PoolDatabase
) -> None:
    generations = await release(read_models, WORKLOADS)
    assert known(generations, 1).status is GenerationStatus.LIVE
    older = await release(read_models)
    await older.set_status(known(older, 1), GenerationStatus.DROPPED)
    generations = await release(read_models, WORKLOADS)
    assert known(generations, 2).status is GenerationStatus.LIVE
    await filled(pool, 2)
    assert await rows(pool) == [("zoe", 1, 3)]


async def test_a_build_that_took_long_does_not_take_the_place_of_a_later_version(
    installed: PoolDatabase,
) -> None:
    first = await release(installed, version(1))
    await first.switch(known(first, 1))
    second, third = await release(installed, version(2)), await release(installed, version(3))
    slow = known(second, 2)
    await third.switch(known(third, 3), unasked=True)
    await second.switch(slow, unasked=True)
    assert known(second, 3).status is GenerationStatus.LIVE
    assert (known(second, 2).status, known(second, 2).automatic) == (GenerationStatus.BUILDING, False)
    await second.switch(slow)
    assert known(second, 2).status is GenerationStatus.LIVE, "an operator may switch to it all the same"


async def test_going_back_to_an_older_version_leaves_a_newer_one_to_be_switched_to(
    installed: PoolDatabase,
) -> None:
    first = await release(installed, version(1))
    await first.switch(known(first, 1))
    await first.create(version(1), "a test")
    await first.switch(known(first, 2))
    second = await release(installed, version(2))
    await first.refresh()
    await first.switch(known(first, 1))
    await second.switch(known(second, 3), unasked=True)
    assert known(second, 3).status is GenerationStatus.LIVE
