"""Follows the event store from a saved place: every event, at least once, whatever the broker loses.

The lanes are dense, so no event is left out. The follower's place is kept in the state store, in the same key
that says which instance follows now. A message from the broker only says that it is time to read the lanes.
An event that cannot be handled is parked, and later events of its stream wait behind it; other streams go on.
A lane with a value that cannot be decoded waits there until the value is repaired; other lanes go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Any

import grpc
import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, DatabaseError, StateConflict, StatementRefused, Write
from annals.deadletters import DeadLetter, DeadLetters, DeadLettersUnknown, TooManyParked, of_event
from annals.events import RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.begun_lanes import BegunLanes
from annals.store.damaged import Damaged
from annals.store.dapr_store import DaprEventReader
from annals.store.event_pages import event_pages
from annals.store.lease import DOMAIN_LANES, Sightings
from annals.store.protocol import AppendTooLarge, Commit, StoreError, StreamUnreadable, Undecodable
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_MOST_COMMITS = 200  # in one page of a lane
_LEAST_COMMITS = 16  # asked for in a page, however few have arrived lately
_LEASE_SECONDS = 10.0
_SAVE_SECONDS = 1.0  # between two saves of the place
_POLL_SECONDS = 0.25  # between two reads of the lanes while no message arrives
# Minimum pause between two reads: commits that arrive meanwhile are then read together, at far less cost.
_PACE_SECONDS = 0.05
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
_ATTEMPTS = 5  # before an event is parked, not counting those that fail with a transient error

Handle = Callable[[RecordedEvent], Awaitable[None]]


def is_transient(error: Exception) -> bool:
    """Return whether an error will pass, because it comes from the surroundings and not from the event."""
    if isinstance(error, DatabaseError):
        return not isinstance(error, StatementRefused)
    if isinstance(error, DaprError):
        return error.code not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return isinstance(error, StoreError | DeadLettersUnknown) and not isinstance(
        error, AppendTooLarge | StreamUnreadable | Undecodable
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """The value of a follower's key: which instance follows, until when, and how far it has seen each lane.

    `old` says, for lanes with imported commits, up to where they had been written when following began.
    """

    owner: str
    expires: float
    seen: dict[int, int]
    old: dict[int, int]

    @classmethod
    def decode(cls, data: bytes) -> _Place:
        value = orjson.loads(data)
        seen, old = _by_lane(value["seen"]), _by_lane(value.get("old", {}))
        return cls(str(value["owner"]), float(value["expires"]), seen, old)

    def encode(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS)


def _by_lane(sequences: dict[str, Any]) -> dict[int, int]:
    return {int(lane): index(seq) for lane, seq in sequences.items()}


class _Lost(Exception):
    """Another instance follows now, or may follow."""


async def _until_one_fails(*work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently; raise the error of one that fails, after the others were cancelled."""
    # A TaskGroup that ends with an error may leave the task that awaits it marked as cancelled (Python before
    # 3.13), and an error that `gather` raises may hide that this task was cancelled.
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class Follower:
    """Follows the domain's lanes and hands each event to `handle`.

    One instance per `name` follows at a time; `owner` names this instance. `handle` is given the events of a
    stream one after the other, and those of different streams concurrently. It must be idempotent. If it
    raises, it is called again later: without limit while the error `is_transient`, else until the event is
    parked under the follower's name.
    """

    def __init__(
        self,
        sidecar: DaprSidecar,
        store: str,
        name: str,
        owner: str,
        handle: Handle,
        dead_letters: DeadLetters,
        types: frozenset[str] | None = None,
        imported: Handle | None = None,
    ) -> None:
        """Create a follower of the event types `types`, or of all; commits without these types are not read.

        Events imported from a backup are not given to `handle`, but to `imported`, if there is one. A
        follower without a saved place hands over the imported events too.
        """
        self._sidecar = sidecar
        self._state_store = store
        self._reader = DaprEventReader(sidecar, store)
        self._key = keys.follower(name)
        self._owner = owner
        self._lanes = BegunLanes(self._reader, DOMAIN_LANES)
        self._damaged = Damaged()
        self._said = Said()
        self._handle = handle
        self._name = name
        self._dead_letters = dead_letters
        self._types = types
        self._imported = imported
        self._imported_up_to: dict[int, int] = {}
        self._wake = asyncio.Event()
        self._seen: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._page = _LEAST_COMMITS
        self._sightings = Sightings()
        self._etag: str | None = None
        self._saved_at = 0.0
        self._saving = asyncio.Lock()
        self.placed = False
        """Whether the place from which events are handled is saved, by this instance or another."""

    def look(self) -> None:
        """Read the lanes without waiting for the next poll, since something was published."""
        self._wake.set()

    async def run(self) -> None:
        """Follow the lanes until cancelled. A follower without a saved place starts at the current end."""
        while True:
            try:
                if await self._acquire():
                    await _until_one_fails(self._renew(), self._follow())
                else:
                    self._said.is_over()
            except _Lost:
                _log.info("another instance follows, or may", follower=self._key)
            except (DaprError, StoreError, DeadLettersUnknown) as error:
                if self._said.is_news(error):
                    _log.warning(
                        "the event store cannot be followed now", follower=self._key, error=str(error)
                    )
            except TooManyParked as error:
                if self._said.is_news(error):
                    _log.error(
                        "the event store is not followed until dead letters are settled",
                        follower=self._key,
                        error=str(error),
                    )
            await asyncio.sleep(_RETRY_SECONDS[2])

    async def _acquire(self) -> bool:
        value = await self._sidecar.get(self._state_store, self._key)
        if value is None:
            self._etag = None
            self._imported_up_to = {}  # any marks are of a store that was emptied since
            reached = await self._reader.reached()
            # Read the marks after the ends: an import first writes its marks and watermarks, and its lanes
            # then count as written to the end. Marks read earlier could miss it: its events would be skipped.
            imported = await self._imported_of(reached) if self._imported is not None else ()
            self._old = {lane: reached[lane] for lane in imported}
            self._seen = reached | dict.fromkeys(imported, 0)
        else:
            known = records.decoded(self._key, value.data, _Place.decode)
            self.placed = True
            ends = self._sightings.ends(self._key, value.etag, known.expires, _LEASE_SECONDS)
            if known.owner != self._owner and ends > time.time():
                return False
            self._etag = value.etag
            self._seen, self._old = known.seen, known.old
        await self._save(0.0)
        self.placed = True
        return True

    async def _save(self, patience: float) -> None:
        """Renew the lease and save the place in one write. Raises _Lost.

        Does nothing within `patience` seconds after the last save.
        """
        async with self._saving:
            if time.monotonic() - self._saved_at > patience:
                await self._write()

    async def _write(self) -> None:
        for _ in range(2):
            begun = time.monotonic()
            expires = time.time() + _LEASE_SECONDS
            data = _Place(self._owner, expires, self._seen, self._old).encode()
            write = Write(self._key, data, insert_only=self._etag is None, etag=self._etag)
            # If the write was refused, the value read back shows whose write came first: if the reply to an
            # earlier attempt was lost, it was this instance's own.
            with suppress(StateConflict):
                await self._sidecar.save(self._state_store, write)
            value = await self._sidecar.get(self._state_store, self._key)
            if value is None or records.decoded(self._key, value.data, _Place.decode).owner != self._owner:
                raise _Lost
            self._etag = value.etag
            if value.data == data:
                self._saved_at = begun
                return
        raise _Lost

    async def _renew(self) -> None:
        """Renew the lease, however long a page takes. Raises _Lost, at the latest when the lease runs out."""
        while self._left() > 0:
            await asyncio.sleep(min(_LEASE_SECONDS / 3, self._left()))
            try:
                async with asyncio.timeout(self._left()):
                    await self._save(_SAVE_SECONDS)
            except (DaprError, TimeoutError) as error:
                # The lease is valid until it runs out, so the events in hand need not be begun again.
                _log.warning("cannot renew the lease", follower=self._key, error=repr(error))
        raise _Lost

    def _left(self) -> float:
        """Return for how many more seconds the lease keeps other instances from following."""
        return self._saved_at + _LEASE_SECONDS - time.monotonic()

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            before = dict(self._seen)
            for letter in self._dead_letters.released():
                if letter.consumer == self._name:
                    await self._replay(letter)
            asked = self._page
            ahead = await self._ahead()
            for lane, commits in ahead:
                try:
                    await self._take(lane, commits)
                except Undecodable as error:
                    self._damaged.add(lane, error)
                else:
                    self._damaged.remove(lane)
            most = max((len(commits) for _, commits in ahead), default=0)
            # Asking for a commit that does not exist costs the store as much as one that does.
            self._page = min(max(2 * most, _LEAST_COMMITS), _MOST_COMMITS)
            if self._seen != before:
                await self._save(_SAVE_SECONDS)
            self._said.is_over()
            if most < asked:
                await asyncio.sleep(_PACE_SECONDS)
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _ahead(self) -> list[tuple[int, list[Commit]]]:
        """Return a page of commits of each lane that has gone on, all read together."""
        lanes = await self._lanes.of(self._seen)
        found = await asyncio.gather(*map(self._page_of, lanes))
        return [(lane, commits) for lane, commits in zip(lanes, found, strict=True) if commits]

    async def _page_of(self, lane: int) -> list[Commit]:
        # A damaged lane waits at exactly this commit.
        most = 1 if lane in self._damaged else self._page
        try:
            if self._seen.get(lane, 0) == 0 or lane not in self._imported_up_to:
                await self._note_import(lane)
            first = self._seen.get(lane, 0) + 1
            return await self._reader.read_log(lane, first, first + most - 1, certain=False)
        except Undecodable as error:
            self._damaged.add(lane, error)
            return []

    async def _take(self, lane: int, commits: Sequence[Commit]) -> None:
        """Handle a page of a lane. Raises Undecodable after handling the commits before the damaged one."""
        try:
            await self._take_all(lane, commits)
        except Undecodable:
            if len(commits) == 1:
                raise
            for commit in commits:
                await self._take_all(lane, [commit])

    async def _take_all(self, lane: int, commits: Sequence[Commit]) -> None:
        self._dead_letters.require_fresh(self._name)
        refs = [
            ref
            for commit in commits
            if self._types is None or not self._types.isdisjoint(commit.types)
            for ref in commit.refs
        ]
        async for events, _ in event_pages(self._reader, refs):
            streams: dict[StreamId, list[RecordedEvent]] = defaultdict(list)
            for event in events:
                streams[event.stream].append(event)
            await _until_one_fails(*(self._handle_stream(own) for own in streams.values()))
        self._seen[lane] = commits[-1].position.seq

    async def _imported_of(self, lanes: Iterable[int]) -> list[int]:
        """Return which of `lanes` begin with events imported from a backup."""
        wanted = {keys.imported(lane): lane for lane in lanes}
        return [wanted[key] for key in await self._sidecar.get_certain(self._state_store, list(wanted))]

    async def _note_import(self, lane: int) -> None:
        """Read up to where a lane was imported; without an `imported` handler, skip that part.

        Only an empty lane is imported into, so the mark does not change once the first commit was handled.
        """
        key = keys.imported(lane)
        mark = await self._sidecar.get(self._state_store, key)
        self._imported_up_to[lane] = records.decoded(key, mark.data, int) if mark else 0
        if self._imported is None:
            self._seen[lane] = max(self._seen.get(lane, 0), self._imported_up_to[lane])

    def _handle_for(self, event: RecordedEvent) -> Handle | None:
        """Return the handler of an event, or None if it is to be skipped."""
        if self._types is not None and event.event_type not in self._types:
            return None
        if event.seq <= self._imported_up_to.get(event.lane, 0):
            return self._imported
        return None if event.seq <= self._old.get(event.lane, 0) else self._handle

    async def _handle_stream(self, events: Sequence[RecordedEvent]) -> None:
        for event in events:
            letter = self._dead_letters.find(self._name, event.stream)
            # An earlier event, from another lane, is handled here: the replay will not read it.
            if letter is not None and event.version >= letter.version:
                return  # these events wait; a replay reads them from the store
            error = await self._try(event)
            if error is not None:
                await self._dead_letters.park(*of_event(self._name, event, error, attempts=_ATTEMPTS))

    async def _try(self, event: RecordedEvent) -> Exception | None:
        """Handle an event, with retries; return the error if the event is to be parked."""
        handle = self._handle_for(event)
        if handle is None:
            return None
        corrected = self._dead_letters.corrected(self._name, event)
        if corrected is None:
            return None
        attempt = failures = 0
        while True:
            try:
                await handle(corrected)
            except Exception as error:  # noqa: BLE001 - whatever it is, the event is not let go
                attempt += 1
                failures += not is_transient(error)
                if failures >= _ATTEMPTS:
                    return error
                _log.warning(
                    "an event is handled again",
                    follower=self._key,
                    tenant=event.tenant_id,
                    stream=event.stream.name,
                    event_id=event.event_id,
                    # The text of another error may quote what people wrote, and the log outlives an erasure.
                    error=str(error) if is_transient(error) else type(error).__name__,
                )
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1])
            else:
                return None

    async def _replay(self, letter: DeadLetter) -> None:
        """Handle a released sequence up to where the lanes were read; later events arrive as usual.

        The sequence stays released while an event in another lane has not been read yet, although a later
        event was read already and had to wait. It also stays released while one of its events, or its head,
        is damaged.
        """
        last = letter.version - 1
        try:
            async for event in self._reader.read_stream(letter.sequence, from_version=letter.version):
                if event.seq > self._seen.get(event.lane, 0):
                    continue
                if event.version > last + 1:
                    return
                last = event.version
        except Undecodable as damage:
            self._damaged.add(letter.sequence, damage)
            return
        self._damaged.remove(letter.sequence)
        events = self._reader.read_stream(letter.sequence, from_version=letter.version, to_version=last)
        async for event in events:
            error = await self._try(event)
            if error is not None:
                await self._dead_letters.park(*of_event(self._name, event, error, attempts=_ATTEMPTS))
                return
        await self._dead_letters.done(letter)
