"""The metadata that brokers need to order and recognise messages, under each broker's own names.

This is the only place that knows those names. All of them are always set: a component reads its own and
ignores the others, or passes them on as headers, which changes nothing about what is delivered.
"""

from __future__ import annotations

import hashlib

_LONGEST = 128  # characters; Service Bus's limit for session and message ids


def publish_metadata(tenant: str, key: str, event_id: str) -> dict[str, str]:
    """Return the metadata with which a broker keeps a tenant's messages of one key in order, if it can.

    The event's id lets a broker recognise a repeat. Brokers without keys (RabbitMQ, Redis Streams, MQTT, SNS
    and SQS) keep whatever order they have. NATS keeps all messages in one order, and recognises a repeat by
    the id of its CloudEvent.
    """
    ordered = f"{tenant}/{key}"
    return {
        # Kafka: the record's key (components-contrib, common/component/kafka/producer.go). Also Event Hubs
        # (pubsub/azure/eventhubs) and Pulsar (pubsub/pulsar).
        "partitionKey": ordered,
        # Google Pub/Sub with enableMessageOrdering (pubsub/gcp/pubsub/pubsub.go, Publish).
        "orderingKey": ordered,
        # Azure Service Bus (common/component/azure/servicebus/message.go). Its own `PartitionKey`, spelt
        # with a capital letter, would have to equal the session id, and is not set.
        "SessionId": _short(ordered),
        # Azure Service Bus, which drops a repeat if the topic detects duplicates. RabbitMQ makes it the
        # message_id (common/component/rabbitmq), which helps people and their tools.
        "MessageId": _short(f"{tenant}/{event_id}"),
    }


def _short(text: str) -> str:
    """Return the text, or its SHA-256 digest if it is longer than `_LONGEST`."""
    return text if len(text) <= _LONGEST else hashlib.sha256(text.encode()).hexdigest()
