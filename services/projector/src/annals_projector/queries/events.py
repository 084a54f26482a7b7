"""Queries on events: one by its id, or those that match filters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Response

from annals.dapr import Database
from annals.events import RecordedEvent, StreamId, Utc
from annals.store import EventReader, event_pages
from annals.web import Problem
from annals.web.answers import json_answer
from annals.web.paging import Cursor, Limit, as_many_as_fit, decode_cursor, encode_cursor
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals_projector.queries.answers import EventPage, StoredEvent
from annals_projector.queries.parameters import Disclose, Tenant, UpToDate

PAGE_BYTES = 4 * 1024 * 1024
"""A page ends with the events that reach this size, so it may be somewhat larger."""

_BY_ID = """
SELECT coalesce(json_agg(json_build_array(stream, version)), '[]')::text
FROM readmodels.event_index WHERE tenant = $1 AND event_id = $2"""

_EVENTS = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT stream, version, time::text AS time, event_id, to_json(visible_at) AS visible_at
  FROM readmodels.event_index entry
  WHERE tenant = $1
    AND ($2::text IS NULL OR event_type = $2)
    AND ($3::text IS NULL OR time >= $3::text::timestamptz)
    AND ($4::text IS NULL OR time < $4::text::timestamptz)
    AND ($5::text IS NULL OR correlation_id = $5)
    AND ($6::text IS NULL OR user_id = $6)
    AND ($7::text IS NULL OR stream = $7)
    AND ($8::text IS NULL OR (time, event_id) {after} ($8::text::timestamptz, $9::text))
  ORDER BY entry.time {direction}, event_id {direction} LIMIT $10::text::integer) page"""
_OLDEST_FIRST = _EVENTS.format(after=">", direction="ASC")
_NEWEST_FIRST = _EVENTS.format(after="<", direction="DESC")


def routes(database: Database, store: EventReader, disclose: Disclose, up_to_date: UpToDate) -> APIRouter:
    """Return the routes under `/queries/events`."""
    router = APIRouter(prefix="/queries", dependencies=[Depends(up_to_date), REFUSE_UNKNOWN_PARAMETERS])

    @router.get("/events/{event_id}", response_model=StoredEvent)
    async def event(tenant: Tenant, event_id: str) -> Response:
        """One event by its id."""
        refs = await database.fetch(_BY_ID, tenant, event_id)
        wanted = [(StreamId(tenant, name), version) for name, version in refs]
        async for found, _ in event_pages(store, wanted, certain=True):
            for one in found:
                return json_answer(await disclose(tenant, public(one)))
        raise Problem(404, "not-found", f"there is no event {event_id}")

    @router.get("/events", response_model=EventPage)
    async def events(
        tenant: Tenant,
        event_type: Annotated[str | None, Query(alias="type")] = None,
        from_time: Annotated[Utc | None, Query(alias="from")] = None,
        to_time: Annotated[Utc | None, Query(alias="to")] = None,
        correlation_id: str | None = None,
        user: str | None = None,
        stream: str | None = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        backwards: bool = False,
    ) -> Response:
        """Events by type, time, correlation id, user or stream: oldest first, or newest first if `backwards`.

        `visible_at` is when an event became visible to queries. Its lag is the time from `timestamp` to then.
        """
        after = decode_cursor(cursor, datetime, str)
        times = [moment.isoformat() if moment else None for moment in (from_time, to_time)]
        filters = (event_type, *times, correlation_id, user, stream)
        sql = _NEWEST_FIRST if backwards else _OLDEST_FIRST
        rows, size = await as_many_as_fit(
            lambda size: database.fetch(sql, tenant, *filters, *after, str(size)), limit
        )
        more = len(rows) == size
        wanted = [(StreamId(tenant, row["stream"]), row["version"]) for row in rows]
        found: list[RecordedEvent] = []
        held = 0
        async for some, their_size in event_pages(store, wanted, certain=True):
            found += some
            held += their_size
            if held >= PAGE_BYTES:
                shown = wanted.index((found[-1].stream, found[-1].version)) + 1
                more, rows = more or shown < len(rows), rows[:shown]
                break
        visible = {(row["stream"], row["version"]): row["visible_at"] for row in rows}
        items = [public(one) | {"visible_at": visible[one.stream.name, one.version]} for one in found]
        following = encode_cursor(rows[-1]["time"], rows[-1]["event_id"]) if more else None
        return json_answer({"items": await disclose(tenant, items), "next": following})

    return router


def public(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as queries show it."""
    return dict(orjson.loads(event.to_json())) | {
        "stream": event.stream.name,
        "position": str(event.position),
    }
