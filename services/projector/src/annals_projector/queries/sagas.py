"""Queries on sagas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from annals.dapr import Database
from annals.events import RecordedEvent, StreamId, Utc
from annals.store import EventReader
from annals.web import Problem
from annals.web.answers import json_answer
from annals.web.paging import Cursor, Limit, decode_cursor, page, page_that_fits
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import malformed
from annals_projector.queries.answers import SagaPage, SagaWithTimeline
from annals_projector.queries.parameters import Tenant, UpToDate

_ONE = """
SELECT json_build_object('row', (
  SELECT to_jsonb(found) - 'tenant' FROM readmodels.sagas found WHERE tenant = $1 AND id = $2))::text"""

_SAGAS = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(s) - 'tenant' AS row, created_at::text AS sort_key, id FROM readmodels.sagas s
  WHERE tenant = $1
    AND ($2::text IS NULL OR status = $2)
    AND ($3::text IS NULL OR type = $3)
    AND ($4::text IS NULL OR business_key = $4)
    AND ($5::text IS NULL OR parent = $5)
    AND ($6::text IS NULL OR created_at >= $6::text::timestamptz)
    AND ($7::text IS NULL OR created_at < $7::text::timestamptz)
    AND ($8::text IS NULL OR (created_at, id) < ($8::text::timestamptz, $9::text))
  ORDER BY created_at DESC, id DESC LIMIT $10::text::integer) page"""

_UNMOVED_PAGE = 500
_UNMOVED = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT json_build_object('tenant', tenant, 'id', id) AS row, tenant AS sort_key, id FROM readmodels.sagas s
  WHERE ended_at IS NULL AND NOT suspended
    AND greatest(updated_at, waits_until) < now() - make_interval(secs => $1::text::double precision)
    AND NOT EXISTS (SELECT FROM readmodels.sagas child WHERE child.tenant = s.tenant AND child.parent = s.id
      AND (child.ended_at IS NULL
        OR child.updated_at >= now() - make_interval(secs => $1::text::double precision)))
    AND ($2::text IS NULL OR (tenant, id) > ($2::text, $3::text))
  ORDER BY tenant, id LIMIT $4::text::integer) page"""

_NOT_IN_TIMELINE = frozenset({"input", "user", "correlation_id", "started_at"})


def routes(database: Database, store: EventReader, up_to_date: UpToDate) -> APIRouter:
    """Return the routes under `/queries/sagas`."""
    router = APIRouter(prefix="/queries", dependencies=[Depends(up_to_date), REFUSE_UNKNOWN_PARAMETERS])

    @router.get("/sagas/{saga_id}", response_model=SagaWithTimeline)
    async def saga(tenant: Tenant, saga_id: str) -> Response:
        """One saga, with its events in order."""
        try:
            stream = StreamId.of(tenant, "saga", saga_id)
        except ValueError as error:
            raise malformed("saga_id", str(error)) from error
        found = await database.fetch(_ONE, tenant, saga_id)
        if found["row"] is None:
            raise Problem(404, "not-found", f"there is no saga {saga_id}")
        timeline = [_moment(event) async for event in store.read_stream(stream)]
        return json_answer(_public(found["row"]) | {"timeline": timeline})

    @router.get("/sagas", response_model=SagaPage)
    async def sagas(
        tenant: Tenant,
        status: str | None = None,
        type: str | None = None,  # noqa: A002 - the parameter's public name
        business_key: str | None = None,
        parent: str | None = None,
        from_time: Annotated[Utc | None, Query(alias="from")] = None,
        to_time: Annotated[Utc | None, Query(alias="to")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Sagas by status, type, business key, parent and start, newest first."""
        after = decode_cursor(cursor, str, datetime, str)
        times = [moment.isoformat() if moment else None for moment in (from_time, to_time)]
        filters = (status, type, business_key, parent, *times)
        found = await page_that_fits(
            lambda size: database.fetch(_SAGAS, tenant, *filters, *after[1:], str(size)), limit, "-created_at"
        )
        return json_answer(found | {"items": [_public(row) for row in found["items"]]})

    return router


def unmoved(database: Database) -> APIRouter:
    """Return the route `/sagas/unmoved`, by which the orchestrator finds stuck sagas of all tenants."""
    router = APIRouter(include_in_schema=False, dependencies=[REFUSE_UNKNOWN_PARAMETERS])

    @router.get("/sagas/unmoved")
    async def sagas_unmoved(
        seconds: Annotated[float, Query(gt=0, le=1e6)], cursor: Cursor = None
    ) -> dict[str, Any]:
        """Stuck sagas: they have had no event for `seconds`, and wait for no answer and for no child saga."""
        after = decode_cursor(cursor, str, str, str)
        rows = await database.fetch(_UNMOVED, str(seconds), *after[1:], str(_UNMOVED_PAGE))
        return page(rows, _UNMOVED_PAGE, "tenant")

    return router


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its steps in order, each with its name, and with all events that they wait for."""
    steps = [{"name": name, **row["steps"].get(name, {})} for name in row.pop("step_names")]
    waiting = [step for step in steps if (row["status"], step.get("status")) == ("running", "waiting")]
    # Version 2 of the read model may have the events of a waiting step in the row alone. It answers until a
    # newer version is built.
    events = [event for step in waiting for event in step.get("waits_for") or row["waits_for"] or ()]
    return row | {"steps": steps, "waits_for": events or None}


def _moment(event: RecordedEvent) -> dict[str, Any]:
    hidden = _NOT_IN_TIMELINE if event.event_type == "saga.started" else frozenset[str]()
    data = {name: value for name, value in event.data.items() if name not in hidden and value is not None}
    return {
        "type": event.event_type,
        "time": event.timestamp,
        "version": event.version,
        "user": event.user_id,
        "trace_id": event.trace_id,
    } | data
