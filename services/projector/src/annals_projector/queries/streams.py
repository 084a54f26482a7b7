"""Queries on a stream: its history, and its state at a version or a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from annals.deadletters import DeadLetters
from annals.events import RecordedEvent, StreamId, Utc
from annals.projections import Change, Projection, Put
from annals.projections.applier import changed
from annals.store import EventReader
from annals.web import Problem
from annals.web.answers import json_answer
from annals.web.paging import Limit
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import malformed
from annals_projector.queries.answers import History
from annals_projector.queries.events import PAGE_BYTES, public
from annals_projector.queries.parameters import Disclose, Tenant, UpToDate


def routes(
    store: EventReader,
    projections: Sequence[Projection],
    dead_letters: DeadLetters,
    disclose: Disclose,
    up_to_date: UpToDate,
) -> APIRouter:
    """Return the routes under `/queries/streams`."""
    router = APIRouter(prefix="/queries", dependencies=[Depends(up_to_date), REFUSE_UNKNOWN_PARAMETERS])
    # If an aggregate type has several read models, the row of the first one is the state.
    by_type = {projection.aggregate_type: projection for projection in reversed(projections)}

    @router.get("/streams/{stream}/events", response_model=History)
    async def history(
        tenant: Tenant,
        stream: str,
        from_version: Annotated[int, Query(alias="from", ge=1)] = 1,
        to_version: Annotated[int | None, Query(alias="to", ge=1)] = None,
        limit: Limit = 100,
        backwards: bool = False,
    ) -> Response:
        """The events of a stream, straight from the store."""
        found = store.read_stream(
            _stream(tenant, stream),
            from_version=from_version,
            to_version=to_version,
            limit=limit,
            backwards=backwards,
        )
        items: list[dict[str, Any]] = []
        size = 0
        async for event in found:
            items.append(public(event))
            size += len(event.to_json())
            if size >= PAGE_BYTES:
                break
        if not items and from_version == 1 and to_version is None:
            raise Problem(404, "not-found", f"there is no stream {stream}")
        following = None
        if size >= PAGE_BYTES or len(items) == limit:
            following = items[-1]["version"] + (-1 if backwards else 1)
            if following < from_version or (to_version is not None and following > to_version):
                following = None
        return json_answer({"items": await disclose(tenant, items), "next": following})

    @router.get("/streams/{stream}/state")
    async def state(
        tenant: Tenant,
        stream: str,
        version: Annotated[int | None, Query(ge=1)] = None,
        time: Utc | None = None,
    ) -> dict[str, Any]:
        """The state of an aggregate at a version or at a time, as the row of its read model then.

        If operators edited or discarded events that could not be projected, it is the corrected state.
        """
        projection = by_type.get(stream.partition("-")[0])
        if projection is None:
            raise malformed("stream", f"a stream of {' or '.join(by_type)}")
        last: RecordedEvent | None = None
        folded: Change | None = None
        async for event in store.read_stream(_stream(tenant, stream), to_version=version):
            # Writers' clocks differ: events behind this one had not happened either, whatever their time.
            if time is not None and event.timestamp > time:
                break
            try:
                folded = changed(projection, folded, event, dead_letters)
            except Exception as error:  # of any kind; its text may quote what people wrote
                what = f"version {event.version}, {event.event_type}, cannot be projected"
                detail = f"{what} ({type(error).__name__}): an operator must edit or discard its dead letter"
                raise Problem(409, "not-projected", detail, version=event.version) from error
            last = event
        if last is None or not isinstance(folded, Put):
            raise Problem(404, "not-found", f"{stream} does not exist at this version or time")
        row = {**folded.row, "id": last.aggregate_id, "version": last.version}
        return await disclose(tenant, {name: value for name, value in row.items() if name != "tenant"})

    return router


def _stream(tenant: str, name: str) -> StreamId:
    try:
        return StreamId(tenant, name)
    except ValueError as error:
        raise malformed("stream", str(error)) from error
