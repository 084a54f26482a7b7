"""Handles what the sidecar delivers: integration events, hints of new events in the store, and jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog
from fastapi import APIRouter, Request, Response

from annals.dapr import DatabaseError, StatementRefused
from annals.deadletters import DeadLetters, Unreadable
from annals.events import IntegrationEvent, RecordedEvent, from_cloudevent
from annals.store import AppendTooLarge
from annals.web.deliveries import acknowledge_hints, message, published, status
from annals.web.request_body import json_object
from annals_notification.deliveries.plan import Notice, notices_of
from annals_notification.deliveries.users import Users
from annals_notification.due import Due
from annals_notification.held_events import HeldEvents
from annals_notification.notices import Notices
from annals_notification.reminders import Reminders

_log = structlog.get_logger(__name__)


class Inbound:
    """Handles events: those of the store, and the integration events of the broker."""

    def __init__(
        self,
        notices: Notices,
        reminders: Reminders,
        held: HeldEvents,
        users: Users,
        dead_letters: DeadLetters,
    ) -> None:
        self._unreadable = Unreadable(dead_letters, self._handle_at_last)
        self.read_again = self._unreadable.run
        self._notices = notices
        self._reminders = reminders
        self._held = held
        self._users = users

    async def recorded(self, event: RecordedEvent) -> None:
        """Handle an event of the store. Raises DatabaseError and StoreError."""
        await self._forget_erased(event)
        await self._reminders.on_event(event)
        for notice in notices_of(event):
            await self._notices.tell(notice)

    async def imported(self, event: RecordedEvent) -> None:
        """Handle an event imported from a backup: nobody is told. Raises DatabaseError and StoreError."""
        # The tables may be older than the erasure: they may have been put back from a backup of their own.
        await self._forget_erased(event)
        await self._reminders.on_imported(event)

    async def _forget_erased(self, event: RecordedEvent) -> None:
        if event.event_type == "subject.erased":
            await self._users.forget(event.tenant_id, event.aggregate_id)

    async def delivered(self, cloudevent: Any, *, last: bool = False) -> str:
        """Handle an integration event, which only the broker has; return the status for the sidecar.

        With `last`, the broker has given the event up. If the database refuses it again, it is kept as a dead
        letter, for there is no other copy.
        """
        handle = self._handle_at_last if last else self._handle
        try:
            await handle(cloudevent)
        except ValueError as error:
            # Another delivery would end the same way.
            return await self._unreadable.keep(cloudevent, str(error))
        except DatabaseError as error:
            _log.warning("an event cannot be handled now and is delivered again", error=str(error))
            return "RETRY"
        return "SUCCESS"

    async def _handle_at_last(self, cloudevent: Any) -> None:
        """Like `_handle`, but an event that the database refuses counts as one that cannot be read."""
        try:
            await self._handle(cloudevent)
        except StatementRefused as error:
            raise ValueError(str(error)) from error

    async def _handle(self, cloudevent: Any) -> None:
        """Handle an integration event. Raises ValueError if it cannot be read, and DatabaseError."""
        event = from_cloudevent(cloudevent, IntegrationEvent)
        try:
            match event.event_type:
                case "reminder.requested":
                    if not await self._held.hold(_as_reminder(event), event.timestamp):
                        # Not an error: the cancellation of a reminder may arrive before the request.
                        _log.warning(
                            "a reminder is not held: its id was used before, or it was cancelled",
                            tenant=event.tenant_id,
                            event_id=event.event_id,
                            reminder=event.data["reminder_id"],
                        )
                case "reminder.cancelled":
                    await self._held.drop(event.tenant_id, _reminder_id(event))
                case _:
                    await self._notices.tell(Notice.of(event))
        except KeyError as error:
            raise ValueError(f"its data lacks {error}") from error
        except AppendTooLarge as error:
            raise ValueError(str(error)) from error
        except (TypeError, OverflowError) as error:
            raise ValueError(f"its data is not as expected: {error}") from error


def _reminder_id(event: IntegrationEvent) -> str:
    return str(uuid5(NAMESPACE_URL, f"annals:reminder:{event.tenant_id}/{event.data['reminder_id']}"))


def _as_reminder(event: IntegrationEvent) -> IntegrationEvent:
    """Return the notification for a requested reminder, to be held until the time of the reminder."""
    return event.with_context(
        event_id=_reminder_id(event),
        event_type="notification.requested",
        routing_key="",
        causation_id=event.event_id,
        delay_until=datetime.fromisoformat(event.data["at"]),
    )


def routes(inbound: Inbound, looks: Sequence[Callable[[], None]], due: Due) -> APIRouter:
    """Return the router for the routes in `components/shared/subscriptions.yaml`, and `/job/{name}`.

    `looks` are called when the event store may have something new.
    """
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    @router.post("/events/saga-events", include_in_schema=False)
    async def hint(request: Request) -> Response:
        for look in looks:
            look()
        return acknowledge_hints(await request.body())

    @router.post("/events/integration-events", include_in_schema=False)
    async def deliver(request: Request) -> Response:
        return status(await inbound.delivered(message(await request.body())))

    @router.post("/events/dead-letters", include_in_schema=False)
    async def given_up(request: Request) -> Response:
        return status(await inbound.delivered(published(await request.body()), last=True))

    @router.post("/job/{name}", include_in_schema=False)
    async def job(request: Request) -> Response:
        done = await due.ring(json_object(await request.body()))
        return Response(status_code=200 if done else 503)

    return router
