"""Holds integration events in a table until they are due, so that any broker can delay them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from annals.dapr import DaprError, DaprSidecar, Database, DatabaseError, Message, publish_metadata
from annals.events import CONTENT_TYPE, IntegrationEvent, to_cloudevent_json
from annals.store import MAX_EVENT_BYTES, require_publishable
from annals_notification.counted import counted
from annals_notification.due import EARLY_TOLERANCE_SQL, Alarms, NotNow, Row, rows_due, statement_of_due

_log = structlog.get_logger(__name__)

TOPIC = "integration-events"

# These may differ when a request is sent again; the comparison of two events leaves them out.
_OF_A_REQUEST = "'{timestamp, user_id, session_id, correlation_id, traceparent, tracestate}'::text[]"

_HOLD = f"""
WITH held AS (
  INSERT INTO notifications.held_events AS known (tenant, id, topic, event, due)
  SELECT $1, $2, $3, $4::text::jsonb, $5::text::timestamptz
  -- An event from before `since` may have been published, and its row deleted.
  WHERE greatest($5::text::timestamptz, $6::text::timestamptz) >= (SELECT since FROM notifications.service)
  -- Keep the row that is there. DO NOTHING would not return one that another transaction has just written.
  ON CONFLICT (tenant, id) DO UPDATE SET id = known.id RETURNING event)
SELECT coalesce((
  SELECT event - {_OF_A_REQUEST} = $4::text::jsonb - {_OF_A_REQUEST} FROM held), true)::text"""  # noqa: S608

_ONE = f"""
SELECT json_build_object('event', (
  SELECT event FROM notifications.held_events
  WHERE tenant = $1 AND id = $2 AND published_at IS NULL
    AND due <= now() + {EARLY_TOLERANCE_SQL}))::text"""  # noqa: S608 - a constant of the code

_PUBLISHED = counted("""
UPDATE notifications.held_events SET published_at = now()
WHERE tenant = $1 AND id = $2 AND published_at IS NULL""")

# Messages arrive in any order. If a drop comes first, its row keeps a later hold from taking effect.
_DROP = counted("""
INSERT INTO notifications.held_events AS held (tenant, id, topic, event, due, published_at)
VALUES ($1, $2, $3, '{}', now(), now())
ON CONFLICT (tenant, id) DO UPDATE SET published_at = coalesce(held.published_at, now())""")

_DUE = statement_of_due("held_events", "due", "published_at IS NULL")


class HeldEvents:
    """Holds events and publishes each when it is due; implements `due.Kind`."""

    name = "held_event"

    def __init__(
        self,
        database: Database,
        sidecar: DaprSidecar,
        alarms: Alarms,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Refuse events that take more than `max_event_bytes` on the broker: they could not be published."""
        self._database = database
        self._sidecar = sidecar
        self._alarms = alarms
        self._max_event_bytes = max_event_bytes

    async def hold(self, event: IntegrationEvent, asked: datetime) -> bool:
        """Hold an event until its `delay_until`; an event that is due already is published at once.

        `asked` is the time of the request. Returns False if a different event was held, or dropped, under
        the same id; that one stays. Raises AppendTooLarge, and DatabaseError if it is unknown whether the
        event is held.
        """
        require_publishable(event.event_type, to_cloudevent_json(event), self._max_event_bytes)
        due = event.delay_until or datetime.now(UTC)
        text = event.to_json().decode()
        times = (due.isoformat(), asked.isoformat())
        if not await self._database.fetch(_HOLD, event.tenant_id, event.event_id, TOPIC, text, *times):
            return False
        if due <= datetime.now(UTC):
            try:
                await self.fire(event.tenant_id, event.event_id)
            except (NotNow, DatabaseError) as error:
                # The event is held all the same. On an error the caller might send it again under another id,
                # and it would be published twice.
                what = {"tenant": event.tenant_id, "id": event.event_id}
                _log.warning("a held event is not published yet", **what, error=str(error))
        else:
            self._alarms.set(self.name, event.tenant_id, event.event_id, due)
        return True

    async def drop(self, tenant: str, row_id: str) -> None:
        """Keep an event from being published, unless it already was; also one that is held only later."""
        await self._database.fetch(_DROP, tenant, row_id, TOPIC)

    async def fire(self, tenant: str, row_id: str) -> None:
        """Publish an event, then mark it as published: see `due.Kind`.

        After a crash in between it is published again; consumers recognise it by its id.
        """
        held = (await self._database.fetch(_ONE, tenant, row_id))["event"]
        if held is None:
            return
        event = IntegrationEvent.model_validate(held)
        metadata = publish_metadata(tenant, event.routing_key, event.event_id)
        message = Message(event.event_id, to_cloudevent_json(event), CONTENT_TYPE, metadata)
        try:
            refused = await self._sidecar.publish(TOPIC, [message])
        except DaprError as error:
            raise NotNow(str(error)) from error
        if refused:
            raise NotNow("the broker refused the event")
        await self._database.fetch(_PUBLISHED, tenant, row_id)

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        """Return a page of events that are due: see `due.Kind`."""
        return await rows_due(self._database, _DUE, after, ahead)
