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
    """Send no e-mails and no webhooks: they wait. Inboxes and live streams go on."""

    max_stream_clients: int = Field(default=2_000, ge=0)
    """Clients of live streams that one replica serves; those who are connected stay."""

    retention_days: int = Field(default=365, ge=0, le=36_500)
    """Days for which deliveries, read notices, past reminders and published events are kept; 0: for ever."""


class NotificationSettings(NotificationLive, ServiceSettings):
    """See `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    database: str = "notifications"
    """The binding component of the service's own tables."""

    maintenance_timeout: float = 600.0
    """Seconds that a change of tables may take."""

    email: str = "email"
    """The output binding that sends e-mails."""

    stream_buffer: int = 10_000
    """Commits that may wait to be sent to a client before it is cut off."""

    remind_before: tuple[timedelta, ...] = (timedelta(hours=24), timedelta(hours=1), timedelta(0))
    """How long before a due date to remind."""

    delivery_retry_seconds: tuple[float, ...] = (5, 30, 120, 600, 3_600, 10_800, 21_600)
    """The waits after failed tries of a delivery; after the last it has failed."""

    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, gt=0)
    """Bytes that an event may take on the broker, whose largest message is larger: more is not held, and
    no command recurs that has more."""

    webhook_allow_private: bool = False
    """Whether webhooks may be in private networks: for a laptop."""
