"""The audit trail: who did what, when, from where, in which trace, on which stream."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from annals.dapr import Database
from annals.events import Utc
from annals.web.answers import json_answer
from annals.web.paging import Cursor, Limit, as_many_as_fit, decode_cursor, encode_cursor
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals_projector.queries.answers import AuditEntry, AuditPage
from annals_projector.queries.parameters import Tenant, UpToDate

_EXPORT_PAGE = 1_000
_COLUMNS = tuple(AuditEntry.model_fields)

_ENTRIES = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_json(time) AS time, user_id AS "user", event_type AS type, stream, version, event_id,
         lane || '-' || seq AS position, correlation_id, causation_id, trace_id,
         session_id AS session, client, source
  FROM readmodels.event_index entry
  WHERE tenant = $1
    AND ($2::text IS NULL OR event_type = $2)
    AND ($3::text IS NULL OR user_id = $3)
    AND ($4::text IS NULL OR stream = $4)
    AND ($5::text IS NULL OR correlation_id = $5)
    AND ($6::text IS NULL OR trace_id = $6)
    AND ($7::text IS NULL OR session_id = $7)
    AND ($8::text IS NULL OR client = $8)
    AND ($9::text IS NULL OR time >= $9::text::timestamptz)
    AND ($10::text IS NULL OR time < $10::text::timestamptz)
    AND ($11::text IS NULL OR (time, event_id) {after} ($11::text::timestamptz, $12::text))
  ORDER BY entry.time {direction}, event_id {direction} LIMIT $13::text::integer) page"""
_NEWEST_FIRST = _ENTRIES.format(after="<", direction="DESC")
_OLDEST_FIRST = _ENTRIES.format(after=">", direction="ASC")


class ExportFormat(StrEnum):
    """The format of an export."""

    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class _Filters:
    type: Annotated[str | None, Query(description="the type of the event")] = None
    user: str | None = None
    stream: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    session: str | None = None
    client: Annotated[str | None, Query(description="the calling app, or the address the edge saw")] = None
    from_time: Annotated[Utc | None, Query(alias="from")] = None
    to_time: Annotated[Utc | None, Query(alias="to")] = None

    def parameters(self) -> list[str | None]:
        """Return the filters as the parameters of the statement."""
        times = [moment.isoformat() if moment else None for moment in (self.from_time, self.to_time)]
        names = ("type", "user", "stream", "correlation_id", "trace_id", "session", "client")
        return [*(getattr(self, name) for name in names), *times]


def routes(database: Database, up_to_date: UpToDate, caught_up: Callable[[], Awaitable[None]]) -> APIRouter:
    """Return the routes `/queries/audit` and `/queries/audit/export`; an export first awaits `caught_up`."""
    router = APIRouter(prefix="/queries", dependencies=[Depends(up_to_date), REFUSE_UNKNOWN_PARAMETERS])

    @router.get("/audit", response_model=AuditPage)
    async def search(
        tenant: Tenant,
        filters: Annotated[_Filters, Depends()],
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """Entries that match all given filters, newest first."""
        after = decode_cursor(cursor, datetime, str)
        given = (tenant, *filters.parameters(), *after)
        rows, size = await as_many_as_fit(
            lambda size: database.fetch(_NEWEST_FIRST, *given, str(size)), limit
        )
        following = encode_cursor(rows[-1]["time"], rows[-1]["event_id"]) if len(rows) == size else None
        return json_answer({"items": rows, "next": following})

    @router.get("/audit/export", response_class=StreamingResponse)
    async def export(
        tenant: Tenant,
        filters: Annotated[_Filters, Depends()],
        format: ExportFormat = ExportFormat.JSONL,  # noqa: A002 - the parameter's public name
    ) -> StreamingResponse:
        """All matching entries that were stored when the export was requested, oldest first, however many.

        It has no entry with a time after the request. An event that is stored later with an earlier time,
        such as a saga's step that could not be recorded at once, may be missing. The last line marks the end
        and has the number of entries: `{"end": {"entries": 3}}`, or in CSV `end` and the number in the first
        two columns. An export without this line is incomplete: if the service dies, its sidecar ends the
        answer as if that were all.
        """
        # Fixed before the wait: entries that come meanwhile belong to a later export.
        now = datetime.now(UTC)
        until = min(filters.to_time or now, now)
        bounded = replace(filters, to_time=until).parameters()
        await caught_up()

        async def read(after: Sequence[str | None]) -> Rows:
            given = (tenant, *bounded, *after)
            rows, _ = await as_many_as_fit(
                lambda size: database.fetch(_OLDEST_FIRST, *given, str(size)), _EXPORT_PAGE
            )
            return list(rows)

        async def pages() -> AsyncIterator[Rows]:
            after: list[str | None] = [None, None]
            while rows := await read(after):
                yield rows
                after = [rows[-1]["time"], rows[-1]["event_id"]]

        # The first page is read before the answer begins, so that a failure at once is answered as an error.
        following = pages()
        first: Rows = await anext(following, [])
        write = _csv if format is ExportFormat.CSV else _jsonl
        media_type = "text/csv; charset=utf-8" if format is ExportFormat.CSV else "application/x-ndjson"
        return StreamingResponse(write(first, following), media_type=media_type)

    return router


Rows = list[dict[str, Any]]


async def _jsonl(first: Rows, following: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    count = 0
    async for rows in _all(first, following):
        count += len(rows)
        yield b"".join(orjson.dumps(row) + b"\n" for row in rows)
    yield orjson.dumps({"end": {"entries": count}}) + b"\n"


async def _csv(first: Rows, following: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    count = 0
    yield _csv_lines([list(_COLUMNS)])
    async for rows in _all(first, following):
        count += len(rows)
        yield _csv_lines([[row[name] for name in _COLUMNS] for row in rows])
    yield _csv_lines([["end", count, *[None] * (len(_COLUMNS) - 2)]])


async def _all(first: Rows, following: AsyncIterator[Rows]) -> AsyncIterator[Rows]:
    yield first
    async for rows in following:
        yield rows


def _csv_lines(rows: list[list[Any]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines).writerows([_harmless(cell) for cell in row] for row in rows)
    return lines.getvalue().encode()


def _harmless(cell: Any) -> Any:
    """Quote a text that a spreadsheet would run as a formula. Source: OWASP, CSV injection."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
