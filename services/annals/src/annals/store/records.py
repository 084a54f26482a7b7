"""Encodes and decodes the values of the event store."""

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
    """Return the decoded value of a key. Raises Undecodable, which names the key."""
    try:
        return decode(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Undecodable(key, error) from error


def record(append: Append, position: Position, previous: str) -> list[RecordedEvent]:
    """Return an append's events as stored: with version, position, and hashes chained to `previous`."""
    events: list[RecordedEvent] = []
    for version, event in enumerate(append.events, start=append.first):
        recorded = RecordedEvent.record(
            event, version=version, lane=position.lane, seq=position.seq, previous=previous
        )
        previous = recorded.hash
        events.append(recorded)
    return events


def head_after(append: Append, hash_: str) -> Head:
    """Return the head that a stream has after an append; `hash_` is that of the last event."""
    return Head(append.last, append.state, append.state_schema, hash_)


def encode_head(head: Head, part: Head | None = None) -> bytes:
    """Encode a head; `part` is for a stream that is only partly imported: see `decode_part`."""
    value: dict[str, Any] = {
        "version": head.version,
        "state": head.state,
        "state_schema": head.state_schema,
        "hash": head.hash,
    }
    return orjson.dumps(value | {"part": part} if part else value)


def decode_head(data: bytes) -> Head:
    """Decode a head; see `encode_head`."""
    return _head(orjson.loads(data))


def decode_part(data: bytes) -> Head:
    """Decode the head that a stream would have if it ended at its first hole.

    An import fills lane after lane, so a stream written through several lanes has holes for a while.
    """
    value = orjson.loads(data)
    return _head(value.get("part", value))


def _head(value: dict[str, Any]) -> Head:
    return Head(index(value["version"]), value["state"], value["state_schema"], value["hash"])


def encode_outcome(append: Append, position: Position) -> bytes:
    """Encode the outcome of the command that made an append."""
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
    """Decode the outcome of a command; see `encode_outcome`."""
    value = orjson.loads(data)
    stream = StreamId(value["tenant"], value["stream"])
    return Outcome(
        value["fingerprint"], Appended(stream, value["version"], Position.parse(value["position"]))
    )


def encode_commit(append: Append, time: datetime, hash_: str) -> bytes:
    """Encode a commit for the log, with the hash of its last event. Its position is in its key."""
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
    """Decode the commit at a position; see `encode_commit`."""
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
