"""What is kept of a message that a consumer gave up. Pure."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from annals.events import RecordedEvent, StreamId

REASON_LENGTH = 500
_STACK = 4_000


class Kind(StrEnum):
    """What was given up: an event of a stream, with those behind it, or something unreadable."""

    EVENT = "event"
    RAW = "raw"


class Status(StrEnum):
    """Where a dead letter stands."""

    PARKED = "parked"
    RELEASED = "released"
    """It is being handled again; what is behind it goes on after it."""

    DONE = "done"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked sequence: `version` is the first event of `stream` that waits, later ones wait behind it.

    For what cannot be read, `stream` is empty and `version` 0. `group` is the same for what failed alike.
    """

    id: str
    kind: Kind
    consumer: str
    tenant: str
    stream: str
    version: int
    event_type: str
    reason: str
    group: str
    attempts: int
    trace_id: str | None
    parked_at: str
    generation: int = 0
    """The generation of a read model that failed; 0 for other consumers."""
    status: Status = Status.PARKED
    released_at: float = 0.0

    @property
    def sequence(self) -> StreamId:
        """The stream that is parked."""
        return StreamId(self.tenant, self.stream)


@dataclass(frozen=True, slots=True)
class Detail:
    """What only one who looks at a single dead letter wants: the stack, the raw text, what was done."""

    stack: str = ""
    raw: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def sequence_id(consumer: str, stream: StreamId, generation: int = 0) -> str:
    """The id of a consumer's parked sequence: there is at most one for a stream."""
    whole = f"{consumer}/{generation}/{stream.tenant}/{stream.name}"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def of_event(
    consumer: str, event: RecordedEvent, error: BaseException, *, attempts: int, generation: int = 0
) -> tuple[DeadLetter, Detail]:
    """The dead letter of an event that a consumer failed on."""
    letter = DeadLetter(
        id=sequence_id(consumer, event.stream, generation),
        generation=generation,
        kind=Kind.EVENT,
        consumer=consumer,
        tenant=event.tenant_id,
        stream=event.stream.name,
        version=event.version,
        event_type=event.event_type,
        reason=f"{type(error).__name__}: {error}"[:REASON_LENGTH],
        group=_group(error, event.event_type),
        attempts=attempts,
        trace_id=event.trace_id,
        parked_at=_now(),
    )
    stack = "".join(traceback.format_exception(error))
    return letter, Detail(stack=stack[-_STACK:])


def of_raw(consumer: str, tenant: str, raw: str, reason: str) -> tuple[DeadLetter, Detail]:
    """The dead letter of a message that cannot be read; the same text gives the same id."""
    digest = hashlib.sha256(f"{consumer}/{raw}".encode()).hexdigest()[:16]
    letter = DeadLetter(
        id=digest,
        kind=Kind.RAW,
        consumer=consumer,
        tenant=tenant,
        stream="",
        version=0,
        event_type="",
        reason=reason[:REASON_LENGTH],
        group=f"unreadable: {reason[:80]}",
        attempts=1,
        trace_id=None,
        parked_at=_now(),
    )
    return letter, Detail(raw=raw)


def action(what: str, who: str | None, reason: str | None, **more: Any) -> dict[str, Any]:
    """An entry of a dead letter's history: what an operator did."""
    return {"action": what, "user": who, "reason": reason, "at": _now(), **more}


def corrected(event: RecordedEvent, correction: Mapping[str, Any]) -> RecordedEvent | None:
    """The event as an operator corrected it for a consumer; None when it is to be passed over."""
    if correction["data"] is None:
        return None
    return event.model_copy(update={"data": correction["data"]})


def _group(error: BaseException, event_type: str) -> str:
    where = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        last = frames[-1]
        where = f" in {PurePath(last.filename).stem}.{last.name}"
    return f"{type(error).__name__}{where} on {event_type}"


def _now() -> str:
    return datetime.now(UTC).isoformat()
