"""Which events a client wants. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from annals.events import RecordedEvent
from annals_notification.deliveries.preferences import matches

TOPICS = ("domain-events", "saga-events")


@dataclass(frozen=True, slots=True)
class Filter:
    """Nothing named is no condition. A type may end in `*`, as in `task.*`."""

    tenant: str
    topics: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def matches(self, event: RecordedEvent) -> bool:
        """Whether the client is to be told of an event."""
        return (
            event.tenant_id == self.tenant
            and (not self.topics or topic_of(event) in self.topics)
            and (not self.types or any(matches(kind, event.event_type) for kind in self.types))
            and (not self.streams or event.stream.name in self.streams)
            # An aggregate of one's own may call anything its assignee.
            and (not self.users or event.user_id in self.users or event.data.get("assignee") in self.users)
        )


def topic_of(event: RecordedEvent) -> str:
    """The topic that an event was published on."""
    return "saga-events" if event.aggregate_type == "saga" else "domain-events"
