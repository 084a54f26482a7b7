"""Converts events to CloudEvents 1.0 and back. Source: the CloudEvents specification 1.0.2, JSON format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from annals.events.envelope import DomainEvent, Event, RecordedEvent

CONTENT_TYPE = "application/cloudevents+json"
E = TypeVar("E", bound=Event)

_UP_TO_TRACE_ID = len("00-") + 32  # characters of a traceparent's version and trace id


def _attributes(event: Event, traceparent: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.event_id,
        "type": event.event_type,
        "source": event.source,
        "time": event.timestamp,
        "datacontenttype": "application/json",
        "tenantid": event.tenant_id,
        "correlationid": event.correlation_id,
    }
    if isinstance(event, DomainEvent):
        attributes["subject"] = event.stream.name
        attributes["partitionkey"] = str(event.stream)
        if event.command_type:
            attributes["commandtype"] = event.command_type
    if isinstance(event, RecordedEvent):
        attributes["streamversion"] = str(event.version)
    traceparent = traceparent or event.traceparent
    optional = {
        "causationid": event.causation_id,
        "traceparent": traceparent,
        # Without `traceid`, Dapr overwrites the trace context with its own (1.18, components-contrib,
        # pubsub/envelope.go, FromCloudEvent).
        "traceid": traceparent,
        "tracestate": event.tracestate,
    }
    return attributes | {name: value for name, value in optional.items() if value}


def to_cloudevent_json(event: Event, *, traceparent: str | None = None) -> bytes:
    """Return an event as a CloudEvent in JSON, whose data is the whole envelope.

    `traceparent` names the span that publishes it; the default is the event's own.
    """
    attributes = _attributes(event, traceparent)
    return orjson.dumps(attributes | {"data": orjson.Fragment(event.to_json())}, option=orjson.OPT_UTC_Z)


def from_cloudevent(cloudevent: Any, kind: type[E]) -> E:
    """Return the event in a CloudEvent, as the `kind` of event that its topic has.

    The event takes the CloudEvent's `traceparent`, which names the span that published it; a recorded event
    takes it only if it is of the event's own trace. An envelope without an id or a time takes these from the
    CloudEvent too, because they are the same on each delivery. Raises ValueError (pydantic's ValidationError
    is one) if it is not such a CloudEvent.
    """
    if not isinstance(cloudevent, Mapping):
        raise ValueError("it is no CloudEvent: expected a JSON object")
    data = cloudevent.get("data")
    if not isinstance(data, dict):
        raise ValueError("data: expected an event's envelope as a JSON object")
    if (given := cloudevent.get("id")) and not data.get("event_id"):
        data = data | {"event_id": given}
    if (given := cloudevent.get("time")) and not data.get("timestamp"):
        data = data | {"timestamp": given}
    traceparent, own = cloudevent.get("traceparent"), str(data.get("traceparent"))
    # Without tracing, Dapr invents a trace for each message of a bulk, which nothing else belongs to (1.18).
    invented = issubclass(kind, RecordedEvent) and own[:_UP_TO_TRACE_ID] != str(traceparent)[:_UP_TO_TRACE_ID]
    if isinstance(traceparent, str) and traceparent and not invented:
        data = data | {"traceparent": traceparent}
    return kind.model_validate(data)
