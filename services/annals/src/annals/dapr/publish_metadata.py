"""What brokers must be told of a message beside its text: the one place that knows their names for it.

All names are given always. A component reads its own and leaves the others alone, or passes them on
as headers; none of them changes what is delivered.
"""

from __future__ import annotations

import hashlib

_LONGEST = 128  # characters, of a session's and of a message's id on Service Bus


def publish_metadata(tenant: str, key: str, event_id: str) -> dict[str, str]:
    """A tenant's messages of one key stay in order where a broker can; an event is known again by its id.

    Brokers without a key (RabbitMQ, Redis Streams, MQTT, SNS and SQS) keep what order they have; NATS
    has one order for all, and knows a message again by its CloudEvent's id.
    """
    ordered = f"{tenant}/{key}"
    return {
        # Kafka: the record's key (components-contrib, common/component/kafka/producer.go). Also Event Hubs
        # (pubsub/azure/eventhubs) and Pulsar (pubsub/pulsar).
        "partitionKey": ordered,
        # Google Pub/Sub with enableMessageOrdering (pubsub/gcp/pubsub/pubsub.go, Publish).
        "orderingKey": ordered,
        # Azure Service Bus (common/component/azure/servicebus/message.go). Its own PartitionKey, which
        # would have to be equal, is spelt with a capital letter and is left to it.
        "SessionId": _short(ordered),
        # Azure Service Bus, which drops a repetition where a topic detects duplicates; RabbitMQ's message_id
        # (common/component/rabbitmq), for people and their tools.
        "MessageId": _short(f"{tenant}/{event_id}"),
    }


def _short(text: str) -> str:
    """A text, or what stands for it alone when it is too long."""
    return text if len(text) <= _LONGEST else hashlib.sha256(text.encode()).hexdigest()
