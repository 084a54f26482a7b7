"""The catalogue of read models: what is logged about it, and which of its tables this code can fill."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from annals.dapr import DatabaseError
from annals.projections import Generations, Outdated, Projection, Table, migrations
from annals.projections import generations as module
from annals.web.background import background

WORKLOADS = Projection(Table("workloads", {"capacity": "integer"}), "member", {})
RETIRED = {"number": 1, "version": 1, "status": "retired", "automatic": False, "caught_up": True}


class Catalogue:
    """A database with generations of one read model."""

    def __init__(self, *generations: dict[str, Any]) -> None:
        others: dict[str, Any] = {"read_model": "workloads", "reason": "", "throttle": None}
        others |= {"started_at": "", "settling": False, "progress": {}, "columns": ["id", "capacity"]}
        self.rows = [others | one for one in generations]
        self.read = 0

    async def fetch(self, _sql: str, *_: str | None) -> Any:
        self.read += 1
        return self.rows

    async def execute(self, _: str) -> None:
        pass


async def said(*generations: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a replica logs while it reads the catalogue three times."""
    catalogue = Catalogue(*generations)
    with capture_logs() as logs:
        async with background(Generations(catalogue, [WORKLOADS]).run(), "generations"), asyncio.timeout(10):
            while catalogue.read < 3:
                await asyncio.sleep(0)
    return [(log["read_model"], log["to_have_it_again"]) for log in logs]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0)
    monkeypatch.setattr(module, "_SAY_SECONDS", 0)


async def test_a_release_whose_read_model_was_retired_says_so_again_and_again() -> None:
    warned = await said(RETIRED, RETIRED | {"number": 3}, RETIRED | {"number": 4, "status": "building"})
    assert set(warned) == {("workloads", "annals projections switch workloads 3")}
    assert len(warned) >= 2


@pytest.mark.parametrize(
    "other",
    [{"status": "live"}, {"status": "building", "automatic": True}],
)
async def test_one_that_answers_or_is_to_is_not_spoken_of(other: dict[str, Any]) -> None:
    assert await said(RETIRED, RETIRED | {"number": 2} | other) == []


async def test_it_names_none_that_this_release_cannot_fill() -> None:
    warned = await said(RETIRED, RETIRED | {"number": 2, "version": 99})
    assert set(warned) == {("workloads", "annals projections switch workloads 1")}


async def test_one_that_is_not_of_this_release_is_not_spoken_of() -> None:
    assert await said(RETIRED | {"read_model": "others"}) == []


async def test_that_the_catalogue_cannot_be_read_is_said_once() -> None:
    class Away(Catalogue):
        async def fetch(self, *_: str | None) -> Any:
            self.read += 1
            raise DatabaseError("away")

    catalogue = Away()
    with capture_logs() as logs:
        async with background(Generations(catalogue, [WORKLOADS]).run(), "generations"), asyncio.timeout(10):
            while catalogue.read < 3:
                await asyncio.sleep(0)
    assert [log["error"] for log in logs if "error" in log] == ["away"]


async def test_that_tables_cannot_be_prepared_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_AGAIN_SECONDS", 0)
    failures = iter([DatabaseError("away"), DatabaseError("away"), DatabaseError("full")])

    async def prepare() -> None:
        if (failure := next(failures, None)) is not None:
            raise failure

    with capture_logs() as logs:
        await migrations.until_reached(prepare, "the tables cannot be prepared yet")
    assert [log["error"] for log in logs] == ["away", "full"]


def test_two_projections_of_one_table_and_version_are_refused() -> None:
    with pytest.raises(ValueError, match="workloads"):
        Generations(Catalogue(), [WORKLOADS, replace(WORKLOADS, aggregate_type="task")])
    Generations(Catalogue(), [WORKLOADS, replace(WORKLOADS, version=2)])


def test_a_table_named_as_a_generation_of_another_is_refused() -> None:
    second = replace(WORKLOADS, table=Table("workloads_2", {"capacity": "integer"}))
    with pytest.raises(ValueError, match="workloads_2 is the name of a generation of workloads"):
        Generations(Catalogue(), [WORKLOADS, second])
    Generations(Catalogue(), [second])


MORE = replace(WORKLOADS, table=Table("workloads", {"capacity": "integer", "busy": "integer"}))


async def test_a_column_more_without_a_higher_version_is_refused_before_anything_is_applied() -> None:
    generations = Generations(Catalogue(RETIRED | {"status": "live"}), [MORE])

    await generations.prepare()

    assert generations.generation(generations.all[0]) is None, "nobody fills it"
    with pytest.raises(Outdated, match=r"not the columns busy: give the projection a higher version"):
        _ = generations.live


@pytest.mark.parametrize("status", ["live", "building"])
async def test_that_a_table_lacks_a_column_is_logged_once_and_stops_nothing_while_it_is_built(
    status: str,
) -> None:
    catalogue = Catalogue(RETIRED | {"status": status})
    generations = Generations(catalogue, [MORE])
    with capture_logs() as logs:
        async with background(generations.run(), "generations"), asyncio.timeout(10):
            while catalogue.read < 3:
                await asyncio.sleep(0)
    (error,) = (log for log in logs if log["log_level"] == "error")
    assert "not the columns busy" in error["reason"]
    if status == "building":
        assert generations.generation(generations.all[0]) is None
        assert generations.live == ()


async def test_a_table_with_a_column_more_or_of_a_release_before_is_filled() -> None:
    """Replicas of an older release run beside this one, and its tables are kept for a while."""
    live = RETIRED | {"number": 2, "version": 2, "status": "live", "columns": ["id", "capacity", "busy"]}
    before = RETIRED | {"columns": ["id"]}
    generations = Generations(Catalogue(before, live), [WORKLOADS, replace(WORKLOADS, version=2)])

    await generations.prepare()

    assert [one.name for one in generations.live] == ["workloads_2"]
