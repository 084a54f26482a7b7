"""The catalogue of read models on a real PostgreSQL, as releases come and go."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import orjson
import pytest

from annals.events import RecordedEvent
from annals.projections import (
    Generations,
    GenerationStatus,
    Outdated,
    Patch,
    Projection,
    Put,
    Table,
    difference,
)
from annals.projections.applier import change_row
from annals.projections.generations import CatalogueEntry
from annals.projections.statement import apply_statement
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
NEWER = replace(WORKLOADS, table=Table("workloads", {"capacity": "integer", "busy": "integer"}), version=2)
_SHOWN = """
SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum)
FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND attname NOT IN ('prior', 'deleted')"""


@pytest.fixture
async def installed(pool: asyncpg.Pool, read_models: PoolDatabase) -> PoolDatabase:
    """The database of an installation that has events."""
    await pool.execute(
        "INSERT INTO readmodels.event_index (tenant, stream, version, lane, seq, event_id, event_type, time)"
        " VALUES ('acme', 'member-zoe', 1, 0, 1, 'e1', 'member.registered', now())"
    )
    return read_models


async def release(database: PoolDatabase, *projections: Projection) -> Generations:
    """Start a replica of a release that has these projections besides the usual ones."""
    generations = Generations(database, [*PROJECTIONS, *projections])
    await generations.prepare()
    return generations


def version(number: int) -> Projection:
    """Return `WORKLOADS` in another version."""
    return replace(WORKLOADS, version=number)


def known(generations: Generations, number: int) -> CatalogueEntry:
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
    await third.switch(known(third, 3), automatic=True)
    await second.switch(slow, automatic=True)
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
    await second.switch(known(second, 3), automatic=True)
    assert known(second, 3).status is GenerationStatus.LIVE


async def upgraded(database: PoolDatabase) -> tuple[Generations, Generations]:
    """Return replicas of a release and of the next, whose other version has been switched to."""
    older = await release(database, version(1))
    await older.switch(known(older, 1))
    newer = await release(database, NEWER)
    await newer.switch(known(newer, 2), automatic=True)
    await older.refresh()
    return older, newer


async def nobody_fills(pool: asyncpg.Pool, number: int, minutes: int) -> None:
    """Pretend that nobody has filled a generation for some minutes."""
    await pool.execute(
        "UPDATE readmodels.generations SET expires = now() - make_interval(mins => $2)"
        " WHERE read_model = 'workloads' AND number = $1",
        number,
        minutes,
    )


async def test_a_replica_switches_back_to_a_version_that_it_does_not_know(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    older, newer = await upgraded(installed)
    with pytest.raises(Outdated, match="switch to generation 1"):
        _ = older.live
    shown = await pool.fetchval(_SHOWN, "readmodels.workloads")
    assert shown == await pool.fetchval(_SHOWN, "readmodels.workloads_2")
    await newer.switch(known(newer, 1))
    await older.refresh()
    assert "workloads_1" in {one.name for one in older.live}
    shown = await pool.fetchval(_SHOWN, "readmodels.workloads")
    assert shown == await pool.fetchval(_SHOWN, "readmodels.workloads_1")


async def test_replicas_of_both_releases_that_start_during_an_upgrade_change_nothing(
    installed: PoolDatabase,
) -> None:
    await upgraded(installed)
    for projection in (version(1), NEWER, version(1)):
        again = await release(installed, projection)
        assert [one.status for one in again.all if one.read_model == "workloads"] == ["retired", "live"]


async def test_who_went_back_stays_there_while_replicas_of_the_newer_release_start_anew(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    _, newer = await upgraded(installed)
    await nobody_fills(pool, 2, minutes=60)  # nobody fills a live generation
    await newer.switch(known(newer, 1))
    again = await release(installed, NEWER)
    assert known(again, 2).status is GenerationStatus.RETIRED
    with pytest.raises(Outdated, match="switch to generation 2"):
        _ = again.live


async def test_who_upgrades_again_after_going_back_is_switched_to(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    older, _ = await upgraded(installed)
    await older.switch(known(older, 1))
    await nobody_fills(pool, 2, minutes=11)
    again = await release(installed, NEWER)
    assert (known(again, 2).status, known(again, 2).caught_up) == (GenerationStatus.BUILDING, False)
    with pytest.raises(Outdated, match="generation 2 is switched to"):
        _ = again.live
    await again.switch(known(again, 2), automatic=True)
    assert "workloads_2" in {one.name for one in again.live}


@pytest.mark.parametrize("halted", [False, True])
async def test_who_upgrades_again_is_switched_to_what_answered_before_whatever_else_was_being_built(
    pool: asyncpg.Pool, installed: PoolDatabase, halted: bool
) -> None:
    older, newer = await upgraded(installed)
    number = await newer.create(NEWER, "a test")
    if halted:
        await newer.set_status(known(newer, number), GenerationStatus.PAUSED)
    await older.switch(known(older, 1))
    await nobody_fills(pool, 2, minutes=11)
    for _ in range(2):
        again = await release(installed, NEWER)
        assert (known(again, 2).status, known(again, 2).automatic) == (GenerationStatus.BUILDING, True)
        assert not known(again, number).automatic


async def test_of_all_that_answered_before_the_last_one_alone_is_switched_to(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    older, newer = await upgraded(installed)
    await newer.create(NEWER, "a test")
    await newer.switch(known(newer, 3))
    await older.refresh()
    await older.switch(known(older, 1))
    for number in (2, 3):
        await nobody_fills(pool, number, minutes=11)
    for status in (GenerationStatus.BUILDING, GenerationStatus.PAUSED):
        again = await release(installed, NEWER)
        await again.set_status(known(again, 3), status)
        again = await release(installed, NEWER)
        assert [known(again, number).status for number in (2, 3)] == [GenerationStatus.RETIRED, status]


async def test_a_rebuild_is_of_the_version_that_it_was_asked_of(installed: PoolDatabase) -> None:
    older, newer = await upgraded(installed)
    first = await newer.create(NEWER, "a test")
    second = await older.create(version(1), "a test")
    assert (known(newer, first).version, known(older, second).version) == (2, 1)
    assert await newer.create(NEWER, "again") == first
    assert await older.create(version(1), "again") == second


async def test_who_goes_back_to_a_version_that_was_dropped_has_it_built_and_switches(
    installed: PoolDatabase,
) -> None:
    _, newer = await upgraded(installed)
    await newer.set_status(known(newer, 1), GenerationStatus.DROPPED)
    older = await release(installed, version(1))
    assert (known(older, 3).status, known(older, 3).automatic) == (GenerationStatus.BUILDING, False)
    await older.switch(known(older, 3), automatic=True)
    assert known(older, 2).status is GenerationStatus.LIVE


async def test_what_is_dropped_takes_the_view_along_only_where_it_stands_on_it(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    having = await release(installed, WORKLOADS)
    await having.switch(known(having, 1))
    for _ in range(2):
        await having.switch(known(having, await having.create(WORKLOADS, "a test")))
    await having.retire(known(having, 3))
    await having.set_status(known(having, 1), GenerationStatus.DROPPED)
    await filled(pool, 3)
    assert await rows(pool) == [("zoe", 1, 3)], "it answers those who know it"
    await having.set_status(known(having, 3), GenerationStatus.DROPPED)
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads')") is None
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads_3')") is None
    await having.switch(known(having, 2))
    assert await rows(pool) == []


async def test_a_read_model_is_done_without_before_a_release_that_does_not_have_it(
    pool: asyncpg.Pool, installed: PoolDatabase
) -> None:
    having = await release(installed, WORKLOADS)
    await having.switch(known(having, 1))
    await filled(pool, 1)
    without = await release(installed)
    with pytest.raises(Outdated, match="retire its generation 1"):
        _ = without.live
    await having.retire(known(having, 1))
    await without.refresh()
    assert len(without.live) == len(PROJECTIONS)
    assert await rows(pool) == [("zoe", 1, 3)], "it answers those who know it"
    again = await release(installed, WORKLOADS)
    assert known(again, 1).status is GenerationStatus.RETIRED
    await having.set_status(known(having, 1), GenerationStatus.DROPPED)
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads')") is None
    assert await pool.fetchval("SELECT to_regclass('readmodels.workloads_1')") is None


async def test_a_column_more_without_a_higher_version_keeps_the_projector_from_applying_anything(
    pool: asyncpg.Pool, read_models: PoolDatabase
) -> None:
    older = await release(read_models, WORKLOADS)
    table = replace(WORKLOADS.table, columns={**WORKLOADS.table.columns, "busy": "integer", "order": "text"})

    more = await release(read_models, replace(WORKLOADS, table=table))

    assert known(more, 1).lacks == ("busy", "order")
    with pytest.raises(Outdated, match="give the projection a higher version"):
        _ = more.live
    assert "workloads_1" in {one.name for one in older.live}, "replicas of the release before go on"

    higher = await release(read_models, replace(WORKLOADS, table=table, version=2))
    assert known(higher, 2).lacks == ()
    await higher.switch(known(higher, 2))
    assert "workloads_2" in {one.name for one in higher.live}


async def test_a_column_may_have_any_name_that_a_table_takes(
    pool: asyncpg.Pool, read_models: PoolDatabase
) -> None:
    names = ("one", "old", "new", "known", "given", "there", "change", "row", "at", "op", "place")
    table = Table("workloads", {"tags": "jsonb"} | dict.fromkeys(names, "text"), maps=("tags",))
    generations = await release(read_models, replace(WORKLOADS, table=table))
    (filled,) = (one for one in generations.live if one.name == "workloads_1")
    event = RecordedEvent(
        event_type="member.registered",
        source="test",
        tenant_id="acme",
        aggregate_type="member",
        aggregate_id="zoe",
        version=1,
        lane=0,
        seq=1,
    )
    put = change_row(event, Put(dict.fromkeys(names, "before") | {"tags": {"a": 1}}), 1, 0)
    patch = change_row(event, Patch({"one": "after", "tags": {"b": 2}}), 2, 1)

    for row in (put, patch):
        await read_models.fetch(apply_statement([filled], indexed=False), orjson.dumps([row]).decode())

    found = await pool.fetchrow("SELECT * FROM readmodels.workloads")
    assert (found["version"], found["one"], found["old"]) == (2, "after", "before")
    assert orjson.loads(found["tags"]) == {"a": 1, "b": 2}
    await generations.create(replace(WORKLOADS, table=table), "to compare")
    differs = await difference(read_models, "acme", (table, 1), (table, 2))
    assert [sample["id"] for sample in differs["samples"]] == ["zoe"]
