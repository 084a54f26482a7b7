"""How large an event may be, and a transaction: no larger than what the broker and the sidecar take. Pure."""

from __future__ import annotations

from annals.store.protocol import AppendTooLarge

MAX_EVENT_BYTES = 240_000
"""What one event may take on the broker by default: with the longest ids round it less than the 256 KiB of
SNS, SQS and Service Bus. NATS and Kafka take 1 MiB by themselves."""
TRANSACTION_BYTES = 3_000_000
"""What is written in one transaction, events and states. It is one gRPC message to the sidecar, which takes
4 MiB by default."""

# What an event takes beside its data, and a commit beside its events: envelope, keys, log entry.
ENVELOPE_BYTES = 2_000
# Go's encoding/json, with which Dapr writes a CloudEvent anew (1.18, pkg/api/grpc/grpc.go), spells these out.
_SPELLED_OUT = ((b"<", 5), (b">", 5), (b"&", 5), (b"\xe2\x80\xa8", 3), (b"\xe2\x80\xa9", 3))


def require_publishable(event_type: str, data: bytes, most: int) -> None:
    """Raises AppendTooLarge when an event with this data, in JSON, takes more bytes on the broker."""
    size = ENVELOPE_BYTES + len(data) + sum(data.count(text) * more for text, more in _SPELLED_OUT)
    if size > most:
        raise AppendTooLarge(f"{event_type} takes {size} bytes, one event may take {most}")
