"""Events that are to be published later, on whatever broker there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from annals.dapr import DaprError, DaprSidecar, Database, DatabaseError, Message, publish_metadata
from annals.events import CONTENT_TYPE, IntegrationEvent, to_cloudevent_json
from annals.store import MAX_EVENT_BYTES, require_publishable
from annals_notification.counted import counted
from annals_notification.due import CLOCKS_APART, Alarms, NotNow, Row, rows_due, statement_of_due

_log = structlog.get_logger(__name__)

TOPIC = "integration-events"

# What a repeated request says anew.
_OF_A_REQUEST = "'{timestamp, user_id, session_id, correlation_id, traceparent, tracestate}'::text[]"

_HOLD = f"""
WITH held AS (
  INSERT INTO notifications.held_events AS known (tenant, id, topic, event, due)
  SELECT $1, $2, $3, $4::text::jsonb, $5::text::timestamptz
  -- What was to be held before may be one that was published and forgotten.
  WHERE greatest($5::text::timestamptz, $6::text::timestamptz) >= (SELECT since FROM notifications.service)
  -- It stays as it is. DO NOTHING would not show what another transaction has just written.
  ON CONFLICT (tenant, id) DO UPDATE SET id = known.id RETURNING event)
SELECT coalesce((
  SELECT event - {_OF_A_REQUEST} = $4::text::jsonb - {_OF_A_REQUEST} FROM held), true)::text"""  # noqa: S608

_ONE = f"""
SELECT json_build_object('event', (
  SELECT event FROM notifications.held_events
  WHERE tenant = $1 AND id = $2 AND published_at IS NULL
    AND due <= now() + {CLOCKS_APART}))::text"""  # noqa: S608 - a constant of the code

_PUBLISHED = counted("""
UPDATE notifications.held_events SET published_at = now()
WHERE tenant = $1 AND id = $2 AND published_at IS NULL""")

# Told to drop an event before it was told to hold it, it holds none: messages come in any order.
_DROP = counted("""
INSERT INTO notifications.held_events AS held (tenant, id, topic, event, due, published_at)
VALUES ($1, $2, $3, '{}', now(), now())
ON CONFLICT (tenant, id) DO UPDATE SET published_at = coalesce(held.published_at, now())""")

_DUE = statement_of_due("held_events", "due", "published_at IS NULL")


class HeldEvents:
    """See `due.Kind`."""

    name = "held_event"

    def __init__(
        self,
        database: Database,
        sidecar: DaprSidecar,
        alarms: Alarms,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """What would take more than `max_event_bytes` on the broker is refused: it could not be published."""
        self._database = database
        self._sidecar = sidecar
        self._alarms = alarms
        self._max_event_bytes = max_event_bytes

    async def hold(self, event: IntegrationEvent, asked: datetime) -> bool:
        """Hold an event until its `delay_until`; one that need not wait is published a moment later.

        `asked` is when somebody wanted that. False when another was held under its id: that one stays.
        Raises DatabaseError when it is not known to be held, and AppendTooLarge.
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
                # It is held: whoever was told otherwise would send it again, and it would be published twice.
                _log.warning("a held event waits to be looked for", id=event.event_id, error=str(error))
        else:
            self._alarms.set(self.name, event.tenant_id, event.event_id, due)
        return True

    async def drop(self, tenant: str, row_id: str) -> None:
        """Let a held event not be published, unless it was; also one that is yet to come."""
        await self._database.fetch(_DROP, tenant, row_id, TOPIC)

    async def fire(self, tenant: str, row_id: str) -> None:
        """See `due.Kind`. Published first and marked second: consumers know it by its id."""
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
        """See `due.Kind`."""
        return await rows_due(self._database, _DUE, after, ahead)
