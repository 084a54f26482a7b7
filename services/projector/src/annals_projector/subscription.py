"""Receives what the sidecar delivers: CloudEvents, in bulk or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from annals.dapr import DaprError, DatabaseError
from annals.deadletters import DeadLetters, DeadLettersUnknown, TooManyParked, Unreadable
from annals.events import RecordedEvent, from_cloudevent
from annals.projections import Applier, Outdated, ProjectionStalled
from annals.store import EventReader, StoreError, Undecodable, event_pages
from annals.telemetry import metrics
from annals.web.deliveries import delivery, published, status
from annals.web.deliveries import statuses as answered

_log = structlog.get_logger(__name__)

_NOT_NOW = (
    DatabaseError,
    ProjectionStalled,
    StoreError,
    DaprError,
    DeadLettersUnknown,
    TooManyParked,
    Outdated,
)


class Inbound:
    """Applies the events in messages, and keeps unreadable messages as dead letters."""

    def __init__(self, applier: Applier, store: EventReader, dead_letters: DeadLetters) -> None:
        self._applier = applier
        self._store = store
        self._unreadable = Unreadable(dead_letters, self.handle)
        self.read_again = self._unreadable.run

    async def deliver(self, entries: Mapping[str, Any]) -> dict[str, str]:
        """Apply the readable events, and return the status of each entry for the sidecar."""
        statuses: dict[str, str] = {}
        events: dict[str, RecordedEvent] = {}
        for entry_id, cloudevent in entries.items():
            try:
                events[entry_id] = from_cloudevent(cloudevent, RecordedEvent)
            except ValueError as error:
                metrics.PROJECTION_UNREADABLE.inc()
                statuses[entry_id] = await self._unreadable.keep(cloudevent, str(error))
        try:
            lacking = await self._applier.apply(events.values())
        except _NOT_NOW as error:
            _log.warning("events not applied, to be delivered again", events=len(events), error=str(error))
            return statuses | dict.fromkeys(events, "RETRY")
        return statuses | {
            entry_id: "RETRY" if event.stream in lacking else "SUCCESS" for entry_id, event in events.items()
        }

    async def given_up(self, message: Any) -> str:
        """Handle a message that the broker gave up, and return its status for the sidecar.

        No topic comes after the one for dead letters. So if the store lacks the event or an earlier one of
        the stream now, the message is kept as a dead letter, like one that is unreadable.
        """
        try:
            await self.handle(message)
        except ValueError as error:
            metrics.PROJECTION_UNREADABLE.inc()
            return await self._unreadable.keep(message, str(error))
        except _NOT_NOW as error:
            _log.warning("an event not applied, to be delivered again", error=str(error))
            return "RETRY"
        return "SUCCESS"

    async def handle(self, cloudevent: Any) -> None:
        """Apply the event of one message as the store has it, since operators may edit the message.

        Raises ValueError if the message is unreadable, or if the store lacks the event or an earlier one.
        """
        named = from_cloudevent(cloudevent, RecordedEvent)
        pages = event_pages(self._store, [(named.stream, named.version)], certain=True)
        try:
            stored = [event async for page, _ in pages for event in page]
        except Undecodable as error:
            raise ValueError(str(error)) from error
        if not stored:
            raise ValueError("the event is not in the store")
        if await self._applier.apply(stored):
            raise ValueError("an earlier event of the stream is not in the store")


def routes(inbound: Inbound) -> APIRouter:
    """Return the routes that `components/shared/subscriptions.yaml` names; all topics of events are alike.

    A message that the broker gives up comes back by the topic of dead letters, and is handled as if new.
    """
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    @router.post("/events/saga-events", include_in_schema=False)
    async def deliver(request: Request) -> Response:
        body = delivery(await request.body())
        entries = body.get("entries") if isinstance(body, dict) else None
        if entries is None:
            return status((await inbound.deliver({"": body}))[""])
        return answered(await inbound.deliver({entry["entryId"]: entry.get("event") for entry in entries}))

    @router.post("/events/dead-letters", include_in_schema=False)
    async def given_up(request: Request) -> Response:
        return status(await inbound.given_up(published(await request.body())))

    return router
