"""What the sidecar delivers: events in bulks, or one by one, as CloudEvents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from annals.events import RecordedEvent, from_cloudevent
from annals.projections import Applier, DatabaseError, ProjectionStalled
from annals.store import StoreError
from annals.telemetry import metrics
from annals.web.deliveries import status
from annals.web.deliveries import statuses as answered

_log = structlog.get_logger(__name__)


def routes(applier: Applier) -> APIRouter:
    """The routes that `components/shared/subscriptions.yaml` names: each topic brings events alike."""
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    @router.post("/events/saga-events", include_in_schema=False)
    async def deliver(request: Request) -> Response:
        body = orjson.loads(await request.body())
        entries = body.get("entries")
        if entries is None:
            statuses = await _apply(applier, {"": body})
            return status(statuses[""])
        statuses = await _apply(applier, {entry["entryId"]: entry.get("event") for entry in entries})
        return answered(statuses)

    return router


async def _apply(applier: Applier, entries: Mapping[str, Any]) -> dict[str, str]:
    """Apply what can be read, and say for each entry what is to become of it."""
    statuses: dict[str, str] = {}
    events: dict[str, RecordedEvent] = {}
    for entry_id, cloudevent in entries.items():
        try:
            event = from_cloudevent(cloudevent)
            if not isinstance(event, RecordedEvent):
                raise ValueError("it is not a domain event with its version and position")
        except (ValueError, AttributeError, TypeError) as error:
            # To deliver it again would change nothing: it goes to the dead letters.
            metrics.PROJECTION_UNREADABLE.inc()
            _log.warning("unreadable message", entry=entry_id, reason=str(error))
            statuses[entry_id] = "DROP"
        else:
            events[entry_id] = event
    try:
        failed = await applier.apply(events.values())
    except (DatabaseError, ProjectionStalled, StoreError) as error:
        _log.warning("events not applied, to be delivered again", events=len(events), error=str(error))
        return statuses | dict.fromkeys(events, "RETRY")
    return statuses | {
        entry_id: "RETRY" if event.stream in failed else "SUCCESS" for entry_id, event in events.items()
    }
