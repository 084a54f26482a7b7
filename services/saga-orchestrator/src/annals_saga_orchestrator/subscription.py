"""What the sidecar delivers: domain events, which start and cancel sagas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from annals.dapr import DaprError
from annals.events import DomainEvent, from_cloudevent
from annals.sagas import SagaCatalog
from annals.sagas.claims import ClaimContended
from annals.sagas.orchestrator import Orchestrator
from annals.store import StoreError

_log = structlog.get_logger(__name__)

Handle = Callable[[DomainEvent], Awaitable[None]]


def routes(orchestrator: Orchestrator, catalog: SagaCatalog) -> APIRouter:
    """The route that `components/shared/subscriptions.yaml` names."""
    router = APIRouter()
    triggering = {trigger.event_type for saga in catalog.all() for trigger in saga.triggers}

    async def trigger(event: DomainEvent) -> None:
        await orchestrator.on_domain_event(
            event.tenant_id,
            event.event_type,
            event.event_id,
            event.data,
            event.aggregate_id,
            event.user_id,
            event.correlation_id,
            event.traceparent,
        )

    @router.post("/events/domain-events", include_in_schema=False)
    async def domain_events(request: Request) -> Response:
        return await _deliver(request, triggering, trigger)

    return router


async def _deliver(request: Request, wanted: set[str], handle: Handle) -> Response:
    body = orjson.loads(await request.body())
    entries = body.get("entries")
    if entries is None:
        return _json({"status": await _one(body, wanted, handle)})
    statuses = await asyncio.gather(*(_one(entry.get("event"), wanted, handle) for entry in entries))
    return _json(
        {
            "statuses": [
                {"entryId": entry["entryId"], "status": status}
                for entry, status in zip(entries, statuses, strict=True)
            ]
        }
    )


async def _one(cloudevent: Mapping[str, Any], wanted: set[str], handle: Handle) -> str:
    try:
        if cloudevent.get("type") not in wanted:
            return "SUCCESS"
        event = from_cloudevent(cloudevent)
        if not isinstance(event, DomainEvent):
            raise ValueError("it is not a domain event")
    except (ValueError, AttributeError, TypeError) as error:
        # To deliver it again would change nothing: it goes to the dead letters.
        _log.warning("unreadable message", reason=str(error))
        return "DROP"
    try:
        await handle(event)
    except (ClaimContended, DaprError, StoreError) as error:
        _log.warning("an event is to be delivered again", event_id=event.event_id, error=str(error))
        return "RETRY"
    return "SUCCESS"


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
