"""Size limits of events and transactions, given by what the broker and the sidecar accept. Pure."""

from __future__ import annotations

from annals.store.protocol import AppendTooLarge

MAX_EVENT_BYTES = 240_000
"""Default limit of one event on the broker. With the longest possible ids in its envelope it stays below the
256 KiB of SNS, SQS and Service Bus. NATS and Kafka accept 1 MiB by default."""
TRANSACTION_BYTES = 3_000_000
"""Limit of the events and states in one transaction. A transaction is one gRPC message to the sidecar, which
accepts 4 MiB by default."""

# Allowance per event for everything except its data: the envelope, the keys, the commit's log entry.
ENVELOPE_BYTES = 2_000
# Dapr encodes a CloudEvent again with Go's encoding/json (1.18, pkg/api/grpc/grpc.go), which escapes these
# characters. The numbers are the bytes that an escape adds.
_SPELLED_OUT = ((b"<", 5), (b">", 5), (b"&", 5), (b"\xe2\x80\xa8", 3), (b"\xe2\x80\xa9", 3))


def require_publishable(event_type: str, data: bytes, most: int) -> None:
    """Raise AppendTooLarge if an event with this JSON `data` takes more than `most` bytes on the broker."""
    size = ENVELOPE_BYTES + len(data) + sum(data.count(text) * more for text, more in _SPELLED_OUT)
    if size > most:
        raise AppendTooLarge(f"{event_type} takes {size} bytes, one event may take {most}")
