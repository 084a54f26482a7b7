"""The answers of the service, as models for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from annals.web.answers import Answer, Page
from annals_notification.deliveries.preferences import Channel, Preferences
from annals_notification.recurrence import Recurrence


class ShownWebhook(Answer):
    """The webhook to which a user's notices are posted."""

    url: str


class ShownPreferences(Preferences):
    """A user's preferences, without the secret of the webhook."""

    model_config = ConfigDict(extra="ignore")

    webhook: ShownWebhook | None  # type: ignore[assignment]


class InboxNotice(Answer):
    """A notice in a user's inbox."""

    id: str
    kind: str
    """What happened: the type of an event, or another type such as `reminder.due`."""
    data: dict[str, Any]
    created_at: datetime
    read_at: datetime | None


class Inbox(Page[InboxNotice]):
    """A page of a user's inbox."""

    unread: int
    """How many notices in the whole inbox are unread."""


class Changed(Answer):
    """The result of marking notices as read or unread."""

    changed: int
    """How many notices were changed."""


class Delivery(Answer):
    """The delivery of a notice to a user over a channel."""

    id: str
    event_id: str
    user_id: str
    channel: Channel
    kind: str
    data: dict[str, Any]
    status: Literal["pending", "sending", "sent", "failed"]
    answer: str | None
    """The receiver's answer to the last attempt, or why it failed."""
    attempts: int
    occurred: datetime
    """When the reported event happened."""
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
    """How long before the due date: `due`, hours such as `24h`, or seconds such as `1800s`."""
    title: str
    due: datetime
    fires: datetime
    status: Literal["scheduled", "fired", "cancelled"]
    late: bool | None
    """Whether it fired more than a minute late; null until it fires."""
    fired_at: datetime | None
    version: int
    """The version of the task from which it was planned."""
    correlation_id: str | None
    causation_id: str | None


class RecurrenceNow(Recurrence):
    """A recurring command and its progress."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    id: str
    next: datetime | None
    """The time of the next occurrence; null if it is paused or has ended."""
    last: datetime
    """The time up to which due occurrences were handled."""
    occurrences: int
    last_error: str | None
    """Why the last command was refused, or why the rule cannot be evaluated any more; otherwise null."""
    created_at: datetime


class Held(Answer):
    """An accepted event. It is published at `delay_until`, or at once without one."""

    event_id: str
    delay_until: datetime | None
