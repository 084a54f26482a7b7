"""An export of the audit trail is opened in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import orjson
import pytest

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
