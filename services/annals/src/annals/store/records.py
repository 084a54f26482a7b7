"""The values of the event store, to bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from operator import index
from typing import Any, TypeVar

import orjson

from annals.events import Position, RecordedEvent, StreamId
from annals.store.protocol import Append, Appended, Commit, Head, Outcome, Undecodable

T = TypeVar("T")


def decoded(key: str, data: bytes, decode: Callable[[bytes], T]) -> T:
    """What a key holds. Raises Undecodable, which names the key."""
    try:
        return decode(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Undecodable(key, error) from error


def record(append: Append, position: Position, previous: str) -> list[RecordedEvent]:
    """The events of an append as they are stored: with version, position, and hashes behind `previous`."""
    events: list[RecordedEvent] = []
    for version, event in enumerate(append.events, start=append.first):
        recorded = RecordedEvent.record(
            event, version=version, lane=position.lane, seq=position.seq, previous=previous
        )
        previous = recorded.hash
        events.append(recorded)
    return events


def head_after(append: Append, hash_: str) -> Head:
    """The head that a stream has after an append, with the hash of its last event."""
    return Head(append.last, append.state, append.state_schema, hash_)


def encode_head(head: Head, part: Head | None = None) -> bytes:
    """See `decode_head`; `part` is for a stream that is not all there yet: see `decode_part`."""
    value: dict[str, Any] = {
        "version": head.version,
        "state": head.state,
        "state_schema": head.state_schema,
        "hash": head.hash,
    }
    return orjson.dumps(value | {"part": part} if part else value)


def decode_head(data: bytes) -> Head:
    """See `encode_head`."""
    return _head(orjson.loads(data))


def decode_part(data: bytes) -> Head:
    """The head that a stream would have if it ended at its first hole; an import leaves some for a while."""
    value = orjson.loads(data)
    return _head(value.get("part", value))


def _head(value: dict[str, Any]) -> Head:
    return Head(index(value["version"]), value["state"], value["state_schema"], value["hash"])


def encode_outcome(append: Append, position: Position) -> bytes:
    """What the command of an append came to."""
    return orjson.dumps(
        {
            "fingerprint": append.fingerprint,
            "tenant": append.stream.tenant,
            "stream": append.stream.name,
            "version": append.last,
            "position": str(position),
        }
    )


def decode_outcome(data: bytes) -> Outcome:
    """See `encode_outcome`."""
    value = orjson.loads(data)
    stream = StreamId(value["tenant"], value["stream"])
    return Outcome(
        value["fingerprint"], Appended(stream, value["version"], Position.parse(value["position"]))
    )


def encode_commit(append: Append, time: datetime, hash_: str) -> bytes:
    """A commit as the log holds it, with the hash of its last event; its position is its key."""
    return orjson.dumps(
        {
            "id": append.events[0].event_id,
            "tenant": append.stream.tenant,
            "stream": append.stream.name,
            "first": append.first,
            "last": append.last,
            "types": [event.event_type for event in append.events],
            "time": time,
            "hash": hash_,
        },
        option=orjson.OPT_UTC_Z,
    )


def decode_commit(data: bytes, position: Position) -> Commit:
    """See `encode_commit`."""
    value: dict[str, Any] = orjson.loads(data)
    return Commit(
        position,
        StreamId.named(value["tenant"], value["stream"]),
        index(value["first"]),
        index(value["last"]),
        tuple(value["types"]),
        datetime.fromisoformat(value["time"]).astimezone(UTC),
        value["id"],
        value["hash"],
    )
