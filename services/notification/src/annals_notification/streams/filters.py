"""Selects the events that a client of a live stream wants. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from annals.events import RecordedEvent
from annals_notification.deliveries.preferences import matches

TOPICS = ("domain-events", "saga-events")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a client wants. An empty field is no condition; a type may end in `*`, as in `task.*`."""

    tenant: str
    topics: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def matches(self, event: RecordedEvent) -> bool:
        """Return whether the client wants an event."""
        return (
            event.tenant_id == self.tenant
            and (not self.topics or topic_of(event) in self.topics)
            and (not self.types or any(matches(kind, event.event_type) for kind in self.types))
            and (not self.streams or event.stream.name in self.streams)
            # In another domain `assignee` may be any JSON value: `in` on a tuple does not hash it.
            and (not self.users or event.user_id in self.users or event.data.get("assignee") in self.users)
        )


def topic_of(event: RecordedEvent) -> str:
    """Return the topic on which an event was published."""
    return "saga-events" if event.aggregate_type == "saga" else "domain-events"
