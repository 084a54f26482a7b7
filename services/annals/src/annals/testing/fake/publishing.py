"""Publishing: PublishEvent, BulkPublishEvent, and the CloudEvent that the sidecar makes of a message."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import grpc
from dapr.proto import api_v1

from annals.testing.fake.broker import BrokerDown, FakeBroker, Record
from annals.testing.fake.errors import EMPTY, Context, Refused

_OVERRIDES = ("id", "source", "type", "subject", "traceid", "tracestate")


class PublishApi:
    """The publishing methods of the sidecar's gRPC API, under their names there."""

    def __init__(self, app_id: str, broker: FakeBroker, chance: random.Random) -> None:
        self._app_id = app_id
        self._broker = broker
        self._random = chance

    async def PublishEvent(self, request: api_v1.PublishEventRequest, context: Context) -> object:
        self._check(request.pubsub_name, request.topic)
        metadata = dict(request.metadata)
        body = self._body(
            request, request.data, request.data_content_type, metadata, metadata, _traceparent(context)
        )
        try:
            self._broker.publish(request.topic, Record(body, metadata))
        except BrokerDown as error:
            raise _not_published(request, error) from error
        return EMPTY

    async def BulkPublishEvent(
        self, request: api_v1.BulkPublishRequest, context: Context
    ) -> api_v1.BulkPublishResponse:
        self._check(request.pubsub_name, request.topic)
        ids = [entry.entry_id for entry in request.entries]
        if "" in ids or len(set(ids)) < len(ids):
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"error marshaling events to bytes for topic {request.topic} pubsub {request.pubsub_name}. "
                "error: entryId is duplicated or not present for entry",
                "DAPR_PUBSUB_EVENTS_SER",
            )
        traceparent, common = _traceparent(context), dict(request.metadata)
        refused: BrokerDown | None = None
        for entry in request.entries:
            # The metadata of the bulk shapes an entry's CloudEvent only if the entry has metadata of its own.
            metadata = {**common, **entry.metadata} if entry.metadata else {}
            body = self._body(request, entry.event, entry.content_type, metadata, common, traceparent)
            try:
                self._broker.publish(request.topic, Record(body, {**common, **metadata}))
            except BrokerDown as error:
                refused = error
        if refused is not None:
            # The call fails even if the broker took some entries (dapr 1.18, pkg/api/grpc/grpc.go,
            # bulkPublishEvent).
            raise _not_published(request, refused)
        return api_v1.BulkPublishResponse()

    async def BulkPublishEventAlpha1(
        self, request: api_v1.BulkPublishRequest, context: Context
    ) -> api_v1.BulkPublishResponse:
        return await self.BulkPublishEvent(request, context)

    def _check(self, pubsub: str, topic: str) -> None:
        if not pubsub:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "pubsub name is empty", "DAPR_PUBSUB_NAME_EMPTY")
        if self._broker.pubsubs is not None and pubsub not in self._broker.pubsubs:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, f"pubsub {pubsub} is not found", "DAPR_PUBSUB_NOT_FOUND"
            )
        if not topic:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"topic is empty in pubsub {pubsub}",
                "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
            )

    def _body(
        self,
        request: api_v1.PublishEventRequest | api_v1.BulkPublishRequest,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        common: Mapping[str, str],
        traceparent: str | None,
    ) -> bytes:
        if common.get("rawPayload", "").lower() == "true":
            return data
        try:
            event = self._envelope(request, data, content_type or "text/plain", metadata, traceparent or "")
        except ValueError as error:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, "cannot create cloudevent", "DAPR_PUBSUB_CLOUD_EVENTS_SER"
            ) from error
        if "ttlInSeconds" in metadata:
            expires = self._broker.clock.now() + timedelta(seconds=int(metadata["ttlInSeconds"]))
            event["expiration"] = expires.strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps(event, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()

    def _envelope(
        self,
        request: api_v1.PublishEventRequest | api_v1.BulkPublishRequest,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        trace: str,
    ) -> dict[str, Any]:
        now = self._broker.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if content_type.lower().startswith("application/cloudevents+json"):
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError("a CloudEvent is an object")
            event.setdefault("time", now)
            if "traceid" not in event:
                event["traceid"] = event["traceparent"] = trace
            event.setdefault("tracestate", "")
            return {**event, "topic": request.topic, "pubsubname": request.pubsub_name}
        given = {name.lower(): value for name, value in metadata.items()}
        said = {name: given[f"cloudevent.{name}"] for name in _OVERRIDES if f"cloudevent.{name}" in given}
        trace = given.get("cloudevent.traceparent") or said.get("traceid") or trace
        event = {
            "id": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "specversion": "1.0",
            "datacontenttype": content_type,
            "source": self._app_id,
            "type": "com.dapr.event.sent",
            "topic": request.topic,
            "pubsubname": request.pubsub_name,
            "time": now,
            "tracestate": "",
            **said,
            "traceid": trace,
            "traceparent": trace,
        }
        return event | _data(data, content_type)


def _not_published(
    request: api_v1.PublishEventRequest | api_v1.BulkPublishRequest, error: BrokerDown
) -> Refused:
    return Refused(
        grpc.StatusCode.INTERNAL,
        f"error when publishing to topic {request.topic} in pubsub {request.pubsub_name}: {error}",
        "DAPR_PUBSUB_PUBLISH_MESSAGE",
    )


def _data(data: bytes, content_type: str) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return {"data": json.loads(data)}
        except ValueError:
            return {"data": data.decode(errors="replace")}
    if kind == "application/octet-stream":
        return {"data_base64": base64.b64encode(data).decode()}
    return {"data": data.decode(errors="replace")}


def _traceparent(context: Context) -> str | None:
    given = dict(context.invocation_metadata() or ())
    value = given.get("traceparent")
    return value if isinstance(value, str) else None
