"""What the service answers, for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from annals.web.answers import Answer, Page
from annals_notification.deliveries.preferences import Channel, Preferences
from annals_notification.recurrence import Recurrence


class ShownWebhook(Answer):
    """Where a user's notices are posted."""

    url: str


class ShownPreferences(Preferences):
    """A user's preferences, without the secret of the webhook."""

    model_config = ConfigDict(extra="ignore")

    webhook: ShownWebhook | None  # type: ignore[assignment]


class InboxNotice(Answer):
    """What a user was told in the inbox."""

    id: str
    kind: str
    """The type of what happened: an event's, `reminder.due` and others."""
    data: dict[str, Any]
    created_at: datetime
    read_at: datetime | None


class Inbox(Page[InboxNotice]):
    """A page of a user's inbox."""

    unread: int
    """How many notices are unread, of all."""


class Changed(Answer):
    """What a change came to."""

    changed: int
    """How many notices were marked by it."""


class Delivery(Answer):
    """A notice that was to be told to a user over a channel."""

    id: str
    event_id: str
    user_id: str
    channel: Channel
    kind: str
    data: dict[str, Any]
    status: Literal["pending", "sending", "sent", "failed"]
    answer: str | None
    """What came of the last attempt."""
    attempts: int
    occurred: datetime
    """When that happened which it tells of."""
    due: datetime
    created_at: datetime
    ended_at: datetime | None
    correlation_id: str | None
    causation_id: str | None


class ReminderNow(Answer):
    """A reminder of a task's due date."""

    id: str
    task_id: str
    user_id: str | None
    kind: str
    """How long before the due date: `24h`, `1h`, or `due`."""
    title: str
    due: datetime
    fires: datetime
    status: Literal["scheduled", "fired", "cancelled"]
    late: bool | None
    """Whether it fired more than a minute late; null before that."""
    fired_at: datetime | None
    version: int
    """The task's version that it was planned by."""
    correlation_id: str | None
    causation_id: str | None


class RecurrenceNow(Recurrence):
    """A command that recurs, and how far it is."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    id: str
    next: datetime | None
    """When it comes next; null when it is paused or has come to its end."""
    last: datetime
    """Until when it was looked what was due."""
    occurrences: int
    last_error: str | None
    """Why the last occurrence was refused."""
    created_at: datetime


class Held(Answer):
    """An event that is published when its time comes."""

    event_id: str
    delay_until: datetime | None
