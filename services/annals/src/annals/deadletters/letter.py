"""A dead letter: what is kept of a message that a consumer gave up. Pure."""

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

REASON_LENGTH = 500  # characters
_STACK = 4_000  # characters, from the end of a stack trace


class Kind(StrEnum):
    """What was given up: an event, with the later events of its stream, or an unreadable message."""

    EVENT = "event"
    RAW = "raw"


class Status(StrEnum):
    """Whether a dead letter waits for an operator (parked), is to be handled again (released), or is done."""

    PARKED = "parked"
    RELEASED = "released"
    """It is to be handled again, and then the events that wait behind it."""

    DONE = "done"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked sequence: the event of `stream` at `version` waits, and later ones wait behind it.

    An unreadable message has an empty `stream` and `version` 0. Letters that failed alike share a `group`.
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
    """The generation of the read model whose projection failed; 0 for other consumers."""
    status: Status = Status.PARKED
    released_at: float = 0.0

    @property
    def sequence(self) -> StreamId:
        """The stream whose events wait."""
        return StreamId(self.tenant, self.stream)


@dataclass(frozen=True, slots=True)
class Detail:
    """What only a look at a single dead letter needs: stack trace, raw text, and the operators' actions."""

    stack: str = ""
    raw: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def sequence_id(consumer: str, stream: StreamId, generation: int = 0) -> str:
    """Return the id of a consumer's parked sequence; there is at most one per stream and generation."""
    whole = f"{consumer}/{generation}/{stream.tenant}/{stream.name}"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def of_event(
    consumer: str, event: RecordedEvent, error: BaseException, *, attempts: int, generation: int = 0
) -> tuple[DeadLetter, Detail]:
    """Return the dead letter of an event that a consumer failed on."""
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
    """Return the dead letter of a message that cannot be read; the same text gets the same id."""
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
    """Return an entry for a dead letter's history: what an operator did."""
    return {"action": what, "user": who, "reason": reason, "at": _now(), **more}


def corrected(event: RecordedEvent, correction: Mapping[str, Any]) -> RecordedEvent | None:
    """Return the event as an operator corrected it for a consumer; None if it was discarded."""
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
