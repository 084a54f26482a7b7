"""The protocol of an event store: its methods, the values it takes and returns, and its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from annals.events import DomainEvent, Position, RecordedEvent, StreamId

State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """A stream's latest version and the state folded from it, as JSON.

    `state_schema` is the number of the shape of `state`. If the aggregate's own number differs, or `state`
    lacks one of its fields, its events are folded again.
    """

    version: int
    state: State | None
    state_schema: int
    hash: str
    """Hash of the stream's last event; see `annals.events.chain`."""


Fold = Callable[[StreamId, Head | None, Sequence[RecordedEvent]], tuple[State | None, int] | None]
"""Folds events into a stream's state, and returns the new state with its schema number.

The events follow the given head; without a head, they start with the stream's first. Returns None if the
head's state is of another release: the caller then folds from the first event.
"""


@dataclass(frozen=True, slots=True)
class Append:
    """Events to append behind a stream's `expected_version` (0: the stream is new), all or none.

    `command_id` is set if the caller chose it and may send the command again. The store then keeps the
    outcome with a `fingerprint` of the request, so that a repeat gets the first outcome.

    After `deadline`, in the event loop's time, nobody waits for an answer. `reserve` lowers the size limit of
    this append by so many bytes, so that a larger append, which may have to follow, still fits.
    """

    stream: StreamId
    events: tuple[DomainEvent, ...]
    expected_version: int
    state: State | None = None
    state_schema: int = 1
    command_id: str | None = None
    fingerprint: str = ""
    deadline: float | None = None
    reserve: int = 0

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("an append needs at least one event")
        if self.expected_version < 0:
            raise ValueError("the expected version of a stream is 0 or more")

    @property
    def first(self) -> int:
        """The version of the first event."""
        return self.expected_version + 1

    @property
    def last(self) -> int:
        """The version of the last event."""
        return self.expected_version + len(self.events)


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an append: the stream's new version, and the position of the commit in the log."""

    stream: StreamId
    version: int
    position: Position
    hash: str = field(default="", compare=False)
    """Hash of the last event; may be empty in the recorded outcome of an earlier command."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The recorded first outcome of a command id."""

    fingerprint: str
    appended: Appended


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of a lane's log: the events of one append. Its id is that of its first event."""

    position: Position
    stream: StreamId
    first: int
    last: int
    types: tuple[str, ...]
    time: datetime
    commit_id: str
    hash: str
    """Hash of the last event."""

    @property
    def versions(self) -> range:
        """The versions of its events in the stream."""
        return range(self.first, self.last + 1)

    @property
    def refs(self) -> list[tuple[StreamId, int]]:
        """The stream and version of each event, as `EventReader.read_events` takes them."""
        return [(self.stream, version) for version in self.versions]


class StoreError(Exception):
    """An append or a read did not succeed."""


class ConflictError(StoreError):
    """The stream is not at the expected version; nothing was appended."""

    def __init__(self, stream: StreamId, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class DuplicateCommand(StoreError):
    """The command id was used before, with this `outcome`; nothing was appended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"the command was carried out at {outcome.appended.position}")
        self.outcome = outcome


class StoreUnavailable(StoreError):
    """The store cannot be reached now; nothing was appended."""


class Undecodable(StoreError):
    """A stored value cannot be decoded: it is damaged, or another release wrote it in another format."""

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__(f"{key} cannot be decoded: {error!r}")
        self.key = key


class StreamUnreadable(StoreUnavailable):
    """This release cannot read what is stored of a stream; nothing was appended.

    The newer release that wrote it can read it.
    """

    def __init__(self, stream: StreamId, version: int) -> None:
        super().__init__(f"this release cannot read {stream} up to version {version}")
        self.stream = stream
        self.version = version


class OutcomeUnknown(StoreError):
    """The reply was lost: whether the events were appended is not known yet.

    A caller may send the command again with the same command id: it takes effect only once.
    """


class Backpressure(StoreError):
    """Too much is waiting to be written or published; `retry_after` is in seconds."""

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class AppendTooLarge(StoreError):
    """The events exceed the limit of one transaction, or one of them exceeds the limit of the broker."""


class EventReader(Protocol):
    """The read side of an event store."""

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        """Return the stream's head and the outcome of a command id, in one round trip.

        Unless `certain`, a None does not prove that the value is absent. It is safe to append on such an
        answer, since a wrong append is refused; it is not safe to refuse a request on it. `certain` costs
        another round trip for an absent value.
        """
        ...

    def read_stream(
        self,
        stream: StreamId,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the stream's events between two versions, both included, oldest first unless `backwards`.

        No event is left out: raises StoreUnavailable if one cannot be read.
        """
        ...

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        """Return events by stream and version, in the order asked; those that are not found are left out."""
        ...

    async def read_raw_events(
        self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        """Return the stored bytes of events, in the order asked; None for an event that was not found.

        Unless `certain`, such an event may exist all the same.
        """
        ...

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        """Return a lane's commits from `first` to `last`, ending before the first that does not exist."""
        ...

    async def tails(self, *, certain: bool = True) -> dict[int, int]:
        """Return every lane that was ever written, each with a sequence that it has reached, in one read.

        The sequence may lag behind the lane's end by some seconds. Unless `certain`, a lane may be missing,
        or its sequence may be older still.
        """
        ...


class EventStore(EventReader, Protocol):
    """An event store: an `EventReader` that can also append."""

    async def append(self, append: Append) -> Appended:
        """Append events to a stream; once it returns they are durable.

        Raises ConflictError, DuplicateCommand, AppendTooLarge, StoreUnavailable, OutcomeUnknown
        and Backpressure.
        """
        ...
