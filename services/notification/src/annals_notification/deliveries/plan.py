"""Decides who is told of an event, over which channels, and when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from annals.events import DomainEvent, Event, IntegrationEvent
from annals_notification.deliveries.preferences import Channel, Preferences

_CONCERNED = ("user", "assignee", "previous")
"""The fields of an event's data that name the users whom it concerns."""

_SOMEBODY = "member"
"""The type of the aggregates that stand for a user, with the user's id: their events concern that user."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell users: `kind` is an event type or `reminder.due`, `concerns` whom it is about."""

    tenant: str
    event_id: str
    kind: str
    concerns: frozenset[str]
    data: Mapping[str, Any]
    occurred: datetime
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    addressed: bool = False
    """Whether only the users in `concerns` are told. Events in the store are open to the whole tenant."""

    @classmethod
    def of(cls, event: Event) -> Notice:
        """Return the notice of an event."""
        data: dict[str, Any] = event.data if isinstance(event, DomainEvent | IntegrationEvent) else {}
        subject = {"stream": event.stream.name} if isinstance(event, DomainEvent) else {}
        named = {data[name] for name in _CONCERNED if isinstance(data.get(name), str)}
        if isinstance(event, DomainEvent) and event.aggregate_type == _SOMEBODY:
            named.add(event.aggregate_id)
        concerns = frozenset(named)
        return cls(
            event.tenant_id,
            event.event_id,
            event.event_type,
            concerns,
            {**data, **subject},
            max(event.timestamp, event.delay_until or event.timestamp),
            event.correlation_id,
            event.causation_id,
            event.traceparent,
            addressed=bool(concerns) and event.event_type.startswith("notification."),
        )


def notices_of(event: Event) -> list[Notice]:
    """Return the notices of an event. A task that is created for somebody is also an assignment to them."""
    notice = Notice.of(event)
    if notice.kind != "task.created" or not notice.concerns:
        return [notice]
    # Without the task's texts, like any other assignment.
    data = {name: notice.data.get(name) for name in ("assignee", "previous", "stream")}
    told = replace(notice, kind="task.assigned", data=data)
    # A user is told of an event once on a channel, by the first of these notices that the user subscribes to.
    # The users whom it concerns get the assignment first, all others the creation, which says more.
    return [replace(told, addressed=True), notice, told]


@dataclass(frozen=True, slots=True)
class Planned:
    """One delivery to be made."""

    user: str
    channel: Channel
    due: datetime


def plan(notice: Notice, preferences: Mapping[str, Preferences], now: datetime) -> list[Planned]:
    """Return who is told, over which channels, and when. `preferences` are those of all who may be told."""
    users = sorted(notice.concerns if notice.addressed else notice.concerns | set(preferences))
    planned: list[Planned] = []
    for user in users:
        wants = preferences.get(user) or Preferences()
        channels = wants.channels_for(notice.kind, mine=user in notice.concerns)
        planned += [Planned(user, channel, wants.due(channel, now)) for channel in channels]
    return planned
