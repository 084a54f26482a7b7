"""What an event store is: the protocol, what passes through it, and how it may fail."""

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

    `state_schema` numbers the shape of `state`: when the aggregate's own number moved on, its
    events are folded again.
    """

    version: int
    state: State | None
    state_schema: int
    hash: str
    """Of the stream's last event; see `annals.events.chain`."""


Fold = Callable[[StreamId, Head | None, Sequence[RecordedEvent]], tuple[State | None, int] | None]
"""A stream's state after more events, and its schema; no head before means the first event is next.

None where the head's state is none that it can go on from.
"""


@dataclass(frozen=True, slots=True)
class Append:
    """Events to put behind a stream's `expected_version` (0: the stream is new), all or none.

    `command_id` is set when the caller chose it and may send the command again: its outcome is
    then kept, beside a `fingerprint` of what was asked, so that a repeat gets the first outcome.

    Nobody waits for an answer after `deadline`, by the clock of the event loop. So many bytes as `reserve`
    says are kept of what one append may take: for one that may have to follow, and is larger.
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
        """The version that the first event gets."""
        return self.expected_version + 1

    @property
    def last(self) -> int:
        """The version that the last event gets."""
        return self.expected_version + len(self.events)


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append came to: the stream's new version, and where in the log it stands."""

    stream: StreamId
    version: int
    position: Position
    hash: str = field(default="", compare=False)
    """Of the last event; empty where the outcome of an earlier command is told again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The recorded first outcome of a command id."""

    fingerprint: str
    appended: Appended


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of a lane's log: the events of one append. Its id is its first event's."""

    position: Position
    stream: StreamId
    first: int
    last: int
    types: tuple[str, ...]
    time: datetime
    commit_id: str
    hash: str
    """Of its last event."""

    @property
    def versions(self) -> range:
        """Those of its events in the stream."""
        return range(self.first, self.last + 1)

    @property
    def refs(self) -> list[tuple[StreamId, int]]:
        """Where its events are; what `EventReader.read_events` takes."""
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
    """The command id was used before; `outcome` is what it came to. Nothing was appended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"the command was carried out at {outcome.appended.position}")
        self.outcome = outcome


class StoreUnavailable(StoreError):
    """The store cannot be reached now; nothing was appended."""


class Undecodable(StoreError):
    """A value that the store has says nothing: it was damaged, or a release wrote it that this one is not."""

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__(f"{key} cannot be decoded: {error!r}")
        self.key = key


class StreamUnreadable(StoreUnavailable):
    """What is stored of a stream is none that this release can read; nothing was appended.

    A newer release that wrote it can.
    """

    def __init__(self, stream: StreamId, version: int) -> None:
        super().__init__(f"this release cannot read {stream} up to version {version}")
        self.stream = stream
        self.version = version


class OutcomeUnknown(StoreError):
    """The reply was lost: whether the events were appended is not known yet.

    Sent again with the same command id, the command takes effect once.
    """


class Backpressure(StoreError):
    """Too much is waiting to be written or published; `retry_after` is in seconds."""

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class AppendTooLarge(StoreError):
    """The events are larger than one transaction of the store may be, or one is than the broker takes."""


class EventReader(Protocol):
    """The read side of an event store."""

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        """The stream's head and the outcome of a command id, in one round trip.

        What is absent may exist all the same, unless `certain`, which costs another round trip for
        it. To append on an absence is safe, the append would be refused; to refuse on it is not.
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
        """The stream's events between two versions, both included, oldest first or last.

        None is left out: raises StoreUnavailable when they cannot all be read.
        """
        ...

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        """Events by stream and version, in the order asked; those that do not exist are left out."""
        ...

    async def read_raw_events(
        self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        """Events as the store holds them, byte by byte, in the order asked; None for what is absent.

        What is absent may exist all the same, unless `certain`.
        """
        ...

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        """A lane's commits from `first` to `last`, ending before the first that does not exist."""
        ...

    async def tails(self, *, certain: bool = True) -> dict[int, int]:
        """Return every lane that was ever written, each with a sequence that it reached some seconds ago.

        One read. Unless it is `certain`, a lane may be missing, or its sequence may be older.
        """
        ...


class EventStore(EventReader, Protocol):
    """An event store: what `EventReader` reads, and the append."""

    async def append(self, append: Append) -> Appended:
        """Append events to a stream; once it returns they are durable.

        Raises ConflictError, DuplicateCommand, AppendTooLarge, StoreUnavailable, OutcomeUnknown
        and Backpressure.
        """
        ...
