"""Events as CloudEvents 1.0 and back. Source: the CloudEvents specification 1.0.2, JSON format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from annals.events.envelope import DomainEvent, Event, RecordedEvent

CONTENT_TYPE = "application/cloudevents+json"
E = TypeVar("E", bound=Event)

_SPAN = len("00-") + 32  # where a traceparent's span begins


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
        # Dapr puts a trace context of its own over both unless this one is there (1.18,
        # components-contrib, pubsub/envelope.go, FromCloudEvent).
        "traceid": traceparent,
        "tracestate": event.tracestate,
    }
    return attributes | {name: value for name, value in optional.items() if value}


def to_cloudevent_json(event: Event, *, traceparent: str | None = None) -> bytes:
    """A CloudEvent in JSON whose data is the whole envelope.

    `traceparent` says which span published it; the event's own is the default.
    """
    attributes = _attributes(event, traceparent)
    return orjson.dumps(attributes | {"data": orjson.Fragment(event.to_json())}, option=orjson.OPT_UTC_Z)


def from_cloudevent(cloudevent: Any, kind: type[E]) -> E:
    """The event in a CloudEvent, of the kind that its topic has.

    The trace context is the CloudEvent's: it names the span that published the event. What is recorded
    keeps its own trace. So are the id and the time where the envelope has none: they are the same each
    time it is delivered. Raises ValueError (pydantic's ValidationError is one) when it is none.
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
    # Where nothing is traced, Dapr gives each message of a bulk a trace that nothing else is of (1.18).
    invented = issubclass(kind, RecordedEvent) and own[:_SPAN] != str(traceparent)[:_SPAN]
    if isinstance(traceparent, str) and traceparent and not invented:
        data = data | {"traceparent": traceparent}
    return kind.model_validate(data)
