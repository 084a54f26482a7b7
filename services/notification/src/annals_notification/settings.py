"""The settings of the notification service."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from annals.live import Live
from annals.store import MAX_EVENT_BYTES
from annals.web.settings import ServiceSettings


class NotificationLive(Live):
    """What an operator may change while the service runs."""

    paused: bool = False
    """Send no e-mails and no webhooks; they wait. Inboxes and live streams go on."""

    max_stream_clients: int = Field(default=2_000, ge=0)
    """Live-stream clients that one replica accepts at most; a lower value disconnects nobody."""

    retention_days: int = Field(default=365, ge=0, le=36_500)
    """Days for which deliveries, read notices, past reminders and published events are kept; 0: no limit."""


class NotificationSettings(NotificationLive, ServiceSettings):
    """The settings of this service, from the environment; see also `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    database: str = "notifications"
    """The binding component of the service's own tables."""

    maintenance_timeout: float = 600.0
    """Seconds that a migration of the tables, or a deletion of old rows, may take."""

    email: str = "email"
    """The output binding that sends e-mails."""

    stream_buffer: int = 10_000
    """Commits that may wait to be sent to a client before it is cut off."""

    remind_before: tuple[timedelta, ...] = (timedelta(hours=24), timedelta(hours=1), timedelta(0))
    """How long before a due date to remind."""

    delivery_retry_seconds: tuple[float, ...] = (5, 30, 120, 600, 3_600, 10_800, 21_600)
    """Waits after failed attempts of a delivery; one that fails after the last wait is given up."""

    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, gt=0)
    """Bytes that an event may take on the broker, which must accept larger messages than this. A larger event
    is not held, and a recurring command with more data is refused."""

    webhook_allow_private: bool = False
    """Whether webhooks may be in private networks, as on a developer's machine."""
