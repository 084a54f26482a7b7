"""The event store on Dapr's state API: it works on any transactional state store with first-write."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import index
from typing import NoReturn, TypeVar

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar
from annals.events import Position, RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.bulk_reader import KEYS_A_READ, BulkReader
from annals.store.event_pages import event_pages
from annals.store.group_commit import GroupCommit
from annals.store.lane import Lane
from annals.store.lease import ALL_LANES, DOMAIN_LANES, Leases
from annals.store.probe import probe
from annals.store.protocol import (
    Append,
    Appended,
    Commit,
    ConflictError,
    DuplicateCommand,
    Head,
    Outcome,
    StoreUnavailable,
    Undecodable,
)
from annals.store.publisher import Publisher
from annals.store.sizes import ENVELOPE_BYTES, require_publishable
from annals.telemetry import traces
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_PROBE_SECONDS = 0.5
_KNOWN_VERSIONS = 50_000  # streams whose version is remembered
# The version of a stream that does not exist, and the hash before its first event.
_NEW = (0, "")


class DaprEventReader:
    """Reads the event store through the sidecar, whichever instance wrote it; see `EventReader`."""

    def __init__(self, sidecar: DaprSidecar, store: str = "eventstore") -> None:
        self._sidecar = sidecar
        self._store = store
        self._reader = BulkReader(sidecar, store)
        self._leases = Leases(sidecar, store, owner="", lanes=ALL_LANES)

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        """Return the stream's head and the outcome of a command id; see `EventReader.load`."""
        head_key, before = keys.head(stream), None
        wanted = [head_key]
        if command_id is not None:
            wanted.append(keys.command(stream.tenant, command_id))
            before = keys.legacy_command_key(stream.tenant, command_id)
        values = await self._get(wanted, certain=certain)
        if before is not None:
            # Always read for certain: no append inserts this key, so none is refused if it was overlooked.
            values |= await self._one_by_one([before])
        head = values.pop(head_key, None)
        outcome = next(iter(values.items()), None)
        return (
            records.decoded(head_key, head, records.decode_head) if head is not None else None,
            records.decoded(*outcome, records.decode_outcome) if outcome is not None else None,
        )

    async def read_stream(
        self,
        stream: StreamId,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield a stream's events; see `EventReader.read_stream`."""
        head, _ = await self.load(stream, certain=True)
        first = max(from_version, 1)
        last = min(head.version if head else 0, to_version if to_version is not None else 1 << 62)
        versions = range(last, first - 1, -1) if backwards else range(first, last + 1)
        # Every version up to the head's exists: one that is not found is an error.
        async for events, _ in event_pages(self, [(stream, version) for version in versions[:limit]]):
            for event in events:
                yield event

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        """Return events by stream and version; see `EventReader.read_events`."""

        async def decoded(wanted: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
            # Decode each page as it arrives, while the sidecar reads the others.
            raw = await self.read_raw_events(wanted)
            return [
                records.decoded(keys.event(*ref), one, RecordedEvent.stored)
                for ref, one in zip(wanted, raw, strict=True)
                if one is not None
            ]

        return [event for page in await asyncio.gather(*map(decoded, _pages(refs))) for event in page]

    async def read_raw_events(
        self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        """Return the stored bytes of events; see `EventReader.read_raw_events`."""
        wanted = [keys.event(stream, version) for stream, version in refs]
        pages = await asyncio.gather(*(self._get(page, certain=certain) for page in _pages(wanted)))
        values = {key: value for page in pages for key, value in page.items()}
        return [values.get(key) for key in wanted]

    async def read_log(self, lane: int, first: int, last: int, *, certain: bool = True) -> list[Commit]:
        """Return a lane's commits from `first` to `last`; see `EventReader.read_log`.

        Raises Undecodable for a damaged commit. Unless `certain`, the answer may end before a commit that
        exists, and it ends before a damaged commit, unless that is the first one.
        """
        commits: list[Commit] = []
        spans = _pages(range(max(first, 1), last + 1))
        found = await asyncio.gather(*(self._get([keys.log(lane, seq) for seq in span]) for span in spans))
        for span, values in zip(spans, found, strict=True):
            for seq in span:
                key = keys.log(lane, seq)
                value = values.get(key)
                if value is None and certain:
                    value = (await self._one_by_one([key])).get(key)
                if value is None:
                    return commits
                decode = partial(records.decode_commit, position=Position(lane, seq))
                try:
                    commits.append(records.decoded(key, value, decode))
                except Undecodable:
                    if certain or not commits:
                        raise
                    return commits
        return commits

    async def tails(self, *, certain: bool = True) -> dict[int, int]:
        """Return the lanes that were ever written, with their tails; see `EventReader.tails`."""
        with _readable():
            return await self._leases.tails(certain=certain)

    async def moved(self, after: Mapping[int, int], lanes: Iterable[int] = ALL_LANES) -> list[int]:
        """Return the lanes that have gone beyond these sequences. The one read may miss a lane at times."""
        following = {keys.log(lane, after.get(lane, 0) + 1): lane for lane in lanes}
        return sorted(following[key] for key in await self._get(list(following)))

    async def reached(self, *, certain: bool = True) -> dict[int, int]:
        """Return the last sequence of each lane that was ever written; `certain` is as for `tails`."""
        with _readable():
            tails = await self._leases.tails(certain=certain)
            return {lane: await self._leases.end(lane, tail) for lane, tail in tails.items()}

    async def being_imported(self, lanes: Iterable[int] = ALL_LANES) -> bool:
        """Return whether one of `lanes` is being filled from a backup, or was left half filled."""
        return bool(await self.half_imported(lanes))

    async def half_imported(self, lanes: Iterable[int] = ALL_LANES) -> dict[int, int]:
        """Return which of `lanes` are being filled from a backup, or were left half filled; see `Restore`.

        Each comes with the sequence at which its backup ends. A lane with a checkpoint beyond that was filled
        completely, whatever it has lost since: it is not signed before, and a backup has no such checkpoint.
        """
        wanted = {keys.imported(lane): lane for lane in lanes}
        marks = await self._get(list(wanted), certain=True)
        ends = {wanted[key]: records.decoded(key, mark, int) for key, mark in marks.items()}
        last = {lane: keys.log(lane, end) for lane, end in ends.items()}
        there = await self._get(list(last.values()), certain=True)
        absent = {keys.checkpoint(lane): lane for lane, key in last.items() if key not in there}
        signed = await self._get(list(absent), certain=True)
        return {
            lane: ends[lane] for key, lane in absent.items() if _signed(key, signed.get(key)) <= ends[lane]
        }

    async def _get(self, wanted: Sequence[str], *, certain: bool = False) -> dict[str, bytes]:
        """Return the values of keys. If `certain`, the keys that the bulk left out are read one by one."""
        with _readable():
            values = await self._reader.get(wanted)
        if certain:
            values |= await self._one_by_one([key for key in wanted if key not in values])
        return values

    async def _one_by_one(self, wanted: Sequence[str]) -> dict[str, bytes]:
        with _readable():
            found = await asyncio.gather(*(self._sidecar.get(self._store, key) for key in wanted))
        return {key: value.data for key, value in zip(wanted, found, strict=True) if value is not None}


class DaprEventStore(DaprEventReader):
    """An `EventStore` on the state API. `run` owns the lane and must be running for appends to return."""

    def __init__(
        self,
        sidecar: DaprSidecar,
        *,
        owner: str,
        store: str = "eventstore",
        topic: str = "domain-events",
        lanes: range = DOMAIN_LANES,
        command_ttl_seconds: int = 7 * 24 * 3600,
        max_backlog: Callable[[], int] = lambda: 100_000,
        max_event_bytes: int | None = None,
    ) -> None:
        """Create the store; `owner` names this instance, see `Leases`.

        Appends are refused while more than `max_backlog` commits wait to be published, and if an event would
        take more than `max_event_bytes` on the broker.
        """
        super().__init__(sidecar, store)
        self._max_event_bytes = max_event_bytes
        self._known: OrderedDict[StreamId, tuple[int, str]] = OrderedDict()

        def new_publisher(lane: int, published: int, tail: int) -> Publisher:
            return Publisher(sidecar, store, self, topic, lane, published, tail)

        self._lane = Lane(
            Leases(sidecar, store, owner, lanes),
            GroupCommit(sidecar, store, command_ttl_seconds),
            new_publisher,
            max_backlog=max_backlog,
        )

    @property
    def lane(self) -> int | None:
        """The lane that this process writes now, or None."""
        return self._lane.held

    async def run(self) -> None:
        """Probe the store, then hold a lane, write it and publish it, until `drain`.

        Raises UnfitStore for a state store that cannot hold an event store.
        """
        said = Said()
        while not self._lane.draining:
            try:
                await probe(self._sidecar, self._store)
                break
            except DaprError as error:
                if said.is_news(error):
                    _log.warning("the state store cannot be probed yet", error=str(error))
                await asyncio.sleep(_PROBE_SECONDS)
        await self._lane.run()

    async def drain(self) -> None:
        """Refuse new appends; `run` finishes those that wait and returns."""
        await self._lane.drain()

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        """Return the stream's head and the outcome of a command id; see `EventReader.load`."""
        head, outcome = await super().load(stream, command_id, certain=certain)
        if head is not None:
            self._learn(stream, head.version, head.hash)
        return head, outcome

    async def append(self, append: Append) -> Appended:
        """Append events to a stream; see `EventStore.append`."""
        data = [orjson.dumps(event.data) for event in append.events]
        if self._max_event_bytes is not None:
            for event, encoded in zip(append.events, data, strict=True):
                require_publishable(event.event_type, encoded, self._max_event_bytes)
        # The insert-only event keys refuse a version that is taken, but not one that leaves a gap. So the
        # expected version must be known to exist. Once it does, it always will: versions never go back.
        version, previous = self._known.get(append.stream, _NEW)
        if version < append.expected_version:
            await self.load(append.stream, certain=True)
            version, previous = self._known.get(append.stream, _NEW)
        if version != append.expected_version:
            await self._refuse(append, version)
        with traces.append_span(append.stream, len(append.events)):
            appended = await self._lane.append(append, previous, _size(append, data))
        self._learn(append.stream, appended.version, appended.hash)
        return appended

    async def _refuse(self, append: Append, actual: int) -> NoReturn:
        if append.command_id is not None:
            _, outcome = await self.load(append.stream, append.command_id, certain=True)
            if outcome is not None:
                raise DuplicateCommand(outcome)
        raise ConflictError(append.stream, append.expected_version, actual)

    def _learn(self, stream: StreamId, version: int, hash_: str) -> None:
        self._known[stream] = max((version, hash_), self._known.pop(stream, _NEW))
        if len(self._known) > _KNOWN_VERSIONS:
            self._known.popitem(last=False)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except DaprError as error:
        raise StoreUnavailable(f"the state store cannot be read: {error}") from error


def _pages(of: Sequence[T]) -> list[Sequence[T]]:
    return [of[start : start + KEYS_A_READ] for start in range(0, len(of), KEYS_A_READ)]


def _signed(key: str, checkpoint: bytes | None) -> int:
    """Return the sequence up to which a lane is signed, according to its last checkpoint."""
    if checkpoint is None:
        return 0
    return records.decoded(key, checkpoint, lambda data: index(orjson.loads(data)["seq"]))


def _size(append: Append, data: Sequence[bytes]) -> int:
    """Return about how many bytes an append takes in a transaction, rather too many than too few."""
    return len(orjson.dumps(append.state)) + sum(len(one) + ENVELOPE_BYTES for one in data)
