"""An export of the audit trail is safe to open in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import httpx
import orjson
import pytest
from fastapi import FastAPI

from annals.projections import Visibility
from annals.web.problems import Problem, on_problem
from annals_projector.queries import audit, parameters
from annals_projector.queries.answers import AuditEntry
from annals_projector.queries.audit import _csv, _csv_lines, _jsonl


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    ((read,),) = csv.reader(io.StringIO(_csv_lines([[cell]]).decode(), newline=""))
    assert read == f"'{cell}"


async def test_an_export_ends_with_how_many_entries_it_has() -> None:
    rows = [dict.fromkeys(AuditEntry.model_fields, f"entry-{number}") for number in range(3)]

    async def following() -> AsyncIterator[list[dict[str, str]]]:
        yield rows[2:]

    lines = b"".join([part async for part in _jsonl(rows[:2], following())]).splitlines()
    assert orjson.loads(lines[-1]) == {"end": {"entries": 3}}
    assert [orjson.loads(line) for line in lines[:-1]] == rows

    text = b"".join([part async for part in _csv(rows[:2], following())]).decode()
    header, *entries, end = csv.reader(io.StringIO(text, newline=""))
    assert entries == [list(row.values()) for row in rows]
    assert end[:2] == ["end", "3"]
    assert len(end) == len(header)


async def test_an_export_of_nothing_is_whole_too() -> None:
    async def following() -> AsyncIterator[list[dict[str, str]]]:
        return
        yield

    assert b"".join([part async for part in _jsonl([], following())]) == b'{"end":{"entries":0}}\n'
    assert (await anext(_csv([], following()))).startswith(b"time,user,")


class Reached:
    """A store of two lanes."""

    async def reached(self) -> dict[int, int]:
        return {3: 1, 7: 2}


class Index:
    """An index that the last event of lane 7 reaches late; with `load`, more events come with each page."""

    def __init__(self, *, arrives_after: int, load: bool = False) -> None:
        self.load = load
        self.arrives_after = arrives_after
        self.looks = 0
        self.began = datetime.now(UTC)
        self.times = [self.began - timedelta(minutes=1)]

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "lane_checkpoints" in sql:
            self.looks += 1
            if self.looks == self.arrives_after:
                self.times.insert(0, self.began - timedelta(minutes=2))  # the last of lane 7, and the oldest
            return {"3": 1, "7": 2 if self.looks >= self.arrives_after else 1}
        to, after = (datetime.fromisoformat(one) if one else None for one in (params[9], params[10]))
        page = [one for one in self.times if (after is None or one > after) and (to is None or one < to)]
        if self.load:
            assert len(self.times) < 50, "it does not end while something happens"
            self.times.append(datetime.now(UTC))
        entry = dict.fromkeys(AuditEntry.model_fields)
        return [entry | {"time": one.isoformat(), "event_id": one.isoformat()} for one in page[:1]]


async def exported(index: Index, **given: str) -> httpx.Response:
    unused = cast("Any", None)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    caught_up = partial(parameters.caught_up, Visibility(index, unused), cast("Any", Reached()))
    app.include_router(audit.routes(index, parameters.UpToDate(unused, lambda: 0), caught_up))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://projector") as http:
        return await http.get("/queries/audit/export", params=given)


@pytest.mark.parametrize("given", [{}, {"to": "2999-01-01T00:00:00Z"}], ids=["no end", "a later end"])
async def test_an_export_ends_though_more_and_more_happens(given: dict[str, str]) -> None:
    lines = (await exported(Index(arrives_after=1, load=True), **given)).text.splitlines()
    assert orjson.loads(lines[-1]) == {"end": {"entries": 2}}


async def test_an_export_waits_for_the_lane_that_is_behind() -> None:
    index = Index(arrives_after=3)
    lines = (await exported(index)).text.splitlines()
    assert [orjson.loads(line)["time"] for line in lines[:-1]] == [one.isoformat() for one in index.times]
    assert len(index.times) == 2


async def test_what_cannot_be_whole_yet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "_CAUGHT_UP_SECONDS", 0.05)
    refused = await exported(Index(arrives_after=1_000))
    assert refused.status_code == 504
    assert refused.json()["type"].endswith(":behind")
    assert "lanes 7 " in refused.json()["detail"]
