"""What the sidecar delivers: events of all topics, and the calls of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from annals.events import DomainEvent, Event, IntegrationEvent, from_cloudevent
from annals.projections import DatabaseError
from annals.store import StoreError
from annals_notification import reminders
from annals_notification.deliveries.plan import Notice
from annals_notification.due import Due, NotNow
from annals_notification.held_events import HeldEvents
from annals_notification.notices import Notices
from annals_notification.reminders import Reminders
from annals_notification.streams.hub import Hub

_log = structlog.get_logger(__name__)


class Inbound:
    """What becomes of an event."""

    def __init__(self, hub: Hub, notices: Notices, reminders: Reminders, held: HeldEvents) -> None:
        self._hub = hub
        self._notices = notices
        self._reminders = reminders
        self._held = held

    async def take(self, cloudevent: Mapping[str, Any]) -> str:
        """Handle one event; the status that the sidecar is answered with."""
        try:
            event = from_cloudevent(cloudevent)
        except (ValueError, AttributeError, TypeError) as error:
            # To deliver it again would change nothing: it goes to the dead letters.
            _log.warning("unreadable message", reason=str(error))
            return "DROP"
        try:
            await self._handle(event)
        except (DatabaseError, StoreError, NotNow) as error:
            _log.warning("an event is to be delivered again", event_id=event.event_id, error=str(error))
            return "RETRY"
        return "SUCCESS"

    async def _handle(self, event: Event) -> None:
        match event:
            case DomainEvent():
                self._hub.look()
                if event.aggregate_type == "saga":
                    return
                if event.event_type in reminders.EVENTS:
                    await self._reminders.follow(event.stream)
                await self._notices.tell(Notice.of(event))
            case IntegrationEvent(event_type="reminder.requested"):
                await self._held.hold(_as_reminder(event))
            case IntegrationEvent(event_type="reminder.cancelled"):
                await self._held.drop(event.tenant_id, _reminder_id(event))
            case IntegrationEvent():
                await self._notices.tell(Notice.of(event))


def _reminder_id(event: IntegrationEvent) -> str:
    return str(uuid5(NAMESPACE_URL, f"annals:reminder:{event.tenant_id}/{event.data['reminder_id']}"))


def _as_reminder(event: IntegrationEvent) -> IntegrationEvent:
    """A reminder that somebody asked for is a notification that is held until then."""
    return event.with_context(
        event_id=_reminder_id(event),
        event_type="notification.requested",
        routing_key="",
        causation_id=event.event_id,
        delay_until=datetime.fromisoformat(event.data["at"]),
    )


def routes(inbound: Inbound, due: Due) -> APIRouter:
    """The routes that `components/shared/subscriptions.yaml` names, and `/job/{name}`."""
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    @router.post("/events/saga-events", include_in_schema=False)
    @router.post("/events/integration-events", include_in_schema=False)
    async def deliver(request: Request) -> Response:
        body = orjson.loads(await request.body())
        entries = body.get("entries")
        if entries is None:
            return _json({"status": await inbound.take(body)})
        statuses = await asyncio.gather(*(inbound.take(entry.get("event")) for entry in entries))
        answered = [
            {"entryId": entry["entryId"], "status": status}
            for entry, status in zip(entries, statuses, strict=True)
        ]
        return _json({"statuses": answered})

    @router.post("/job/{name}", include_in_schema=False)
    async def job(request: Request) -> Response:
        done = await due.ring(orjson.loads(await request.body()))
        return Response(status_code=200 if done else 503)

    return router


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
