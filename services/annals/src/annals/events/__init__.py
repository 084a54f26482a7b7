"""The event model: envelopes, data classes, their registry, and CloudEvents. Pure."""

from annals.events.chain import chained
from annals.events.cloudevents import CONTENT_TYPE, from_cloudevent, to_cloudevent_json
from annals.events.envelope import (
    CommandEvent,
    Data,
    DomainEvent,
    Event,
    IntegrationEvent,
    Priority,
    QueryEvent,
    RecordedEvent,
    Utc,
    require_aggregate_type,
    require_event_type,
    require_portable,
)
from annals.events.identity import HeaderId, Position, StreamId, is_header_id, is_tenant, new_id
from annals.events.payload import EventData, UnknownEventData
from annals.events.registry import EventRegistry
from annals.events.upcasters import Upcaster

__all__ = [
    "CONTENT_TYPE",
    "CommandEvent",
    "Data",
    "DomainEvent",
    "Event",
    "EventData",
    "EventRegistry",
    "HeaderId",
    "IntegrationEvent",
    "Position",
    "Priority",
    "QueryEvent",
    "RecordedEvent",
    "StreamId",
    "UnknownEventData",
    "Upcaster",
    "Utc",
    "chained",
    "from_cloudevent",
    "is_header_id",
    "is_tenant",
    "new_id",
    "require_aggregate_type",
    "require_event_type",
    "require_portable",
    "to_cloudevent_json",
]
