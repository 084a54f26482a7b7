"""From something that happened to who is told of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from annals.events import DomainEvent, Event, IntegrationEvent
from annals_notification.deliveries.preferences import Channel, Preferences

_CONCERNED = ("user", "assignee", "previous")
"""The fields of an event's data that name whom it concerns."""

_SOMEBODY = "member"
"""The type of the aggregates that are somebody: their events concern who they are."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to be told: `kind` is an event's type, `concerns` whom it is about."""

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
    """Whether it is for those alone whom it concerns: what all of the tenant may see is in the store."""

    @classmethod
    def of(cls, event: Event) -> Notice:
        """The notice of an event."""
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
    """The notices of an event: a task that is created for somebody is assigned to them by that."""
    notice = Notice.of(event)
    if notice.kind != "task.created" or not notice.concerns:
        return [notice]
    # Without the task's texts, as every assignment.
    data = {name: notice.data.get(name) for name in ("assignee", "previous", "stream")}
    told = replace(notice, kind="task.assigned", data=data)
    # One event is told once to a user on a channel, by the first of these that they asked for: to those whom
    # it concerns what they are to do, to all others the creation, which says more.
    return [replace(told, addressed=True), notice, told]


@dataclass(frozen=True, slots=True)
class Planned:
    """One delivery that is to be made."""

    user: str
    channel: Channel
    due: datetime


def plan(notice: Notice, preferences: Mapping[str, Preferences], now: datetime) -> list[Planned]:
    """Who is told over which channels, and when. `preferences` are those of all who may be."""
    users = sorted(notice.concerns if notice.addressed else notice.concerns | set(preferences))
    planned: list[Planned] = []
    for user in users:
        wants = preferences.get(user) or Preferences()
        channels = wants.channels_for(notice.kind, mine=user in notice.concerns)
        planned += [Planned(user, channel, wants.due(channel, now)) for channel in channels]
    return planned
