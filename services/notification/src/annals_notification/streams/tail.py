"""Follows the event store for the clients of live streams: every replica reads all lanes.

The lanes are dense, so nothing is missed and nothing comes twice. A message from the broker, which only one
replica gets, just says that it is time to look. A lane with a value that cannot be decoded waits there until
the value is repaired; the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from annals.events import RecordedEvent
from annals.store import BegunLanes, Damaged, DaprEventReader, StoreError, StoreUnavailable, Undecodable
from annals.telemetry.said import Said
from annals_notification.streams import positions

_log = structlog.get_logger(__name__)

_PAGE = 200  # commits
_POLL_SECONDS = 0.5  # until the next read without a message from the broker
# Minimum pause between two reads: commits that arrive meanwhile are then read in one page, which costs less.
_PACE_SECONDS = 0.05
_RETRY_SECONDS = 1.0
# How long a client waits for the tail to begin. It keeps its place until then, even if it has disconnected:
# that goes unnoticed before the first answer.
_BEGIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit's events; `seen` is the position of a client that has got them."""

    lane: int
    seq: int
    seen: str
    events: tuple[tuple[RecordedEvent, str], ...]
    """Each event with its JSON, which is made once for all clients."""


class Tail:
    """Reads all lanes while somebody listens; after a pause, it begins at the store's current end."""

    def __init__(self, store: DaprEventReader) -> None:
        self._store = store
        self._lanes = BegunLanes(store)
        self._damaged = Damaged()
        self._wake = asyncio.Event()
        self._listened = asyncio.Event()
        self._listeners = 0
        self.seen: dict[int, int] = {}
        self._started = asyncio.Event()

    def look(self) -> None:
        """Read again now, as something was published."""
        self._wake.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep the tail reading during the block. Raises StoreUnavailable if it does not begin in time."""
        self._listeners += 1
        self._listened.set()
        try:
            try:
                async with asyncio.timeout(_BEGIN_SECONDS):
                    await self._started.wait()
            except TimeoutError as error:
                raise StoreUnavailable("the event store cannot be followed now") from error
            yield
        finally:
            self._listeners -= 1

    async def follow(self) -> AsyncIterator[Commit]:
        """Yield every commit while somebody listens, until cancelled."""
        said = Said()
        while True:
            if not self._listeners:
                self._started.clear()
                self._listened.clear()
                await self._listened.wait()
            self._wake.clear()
            more = False
            try:
                if not self._started.is_set():
                    self.seen = await self._store.reached()
                    self._started.set()
                for lane in await self._store.moved(self.seen, await self._lanes.of(self.seen)):
                    # Of a damaged lane, read only the next commit, to see whether it is repaired.
                    last = self.seen.get(lane, 0) + (1 if lane in self._damaged else _PAGE)
                    try:
                        async for commit in read(self._store, self.seen, lane, last):
                            self.seen[lane] = commit.seq
                            yield commit
                    except Undecodable as error:
                        self._damaged.add(lane, error)
                        continue
                    self._damaged.remove(lane)
                    more = more or self.seen.get(lane) == last
                said.is_over()
            except StoreError as error:
                if said.is_news(error):
                    _log.warning("the event store cannot be followed now", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not more:
                await asyncio.sleep(_PACE_SECONDS)
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue


async def read(
    store: DaprEventReader, seen: Mapping[int, int], lane: int, last: int
) -> AsyncIterator[Commit]:
    """Yield a lane's commits after `seen`, up to `last`; at a damaged commit, raise StoreError."""
    reached = dict(seen)
    most = _PAGE
    while reached.get(lane, 0) < last:
        first = reached.get(lane, 0) + 1
        upto = min(first + most - 1, last)
        try:
            commits = await store.read_log(lane, first, upto)
            refs = [ref for commit in commits for ref in commit.refs]
            events = await store.read_events(refs)
        except Undecodable:
            if upto == first:
                raise
            most = 1  # yield the commits before the damaged one
            continue
        if len(events) != len(refs):
            raise StoreError(
                f"lane {lane} names {len(refs)} events from {first} on, {len(events)} were found"
            )
        found = iter(events)
        for commit in commits:
            reached[lane] = commit.position.seq
            own = tuple(next(found) for _ in commit.versions)
            yield Commit(
                lane,
                commit.position.seq,
                positions.render(reached, lane),
                tuple((event, _public(event)) for event in own),
            )
        if reached.get(lane, 0) < upto:
            return


def _public(event: RecordedEvent) -> str:
    """Return an event's envelope with its stream and position, as the query API does."""
    envelope = event.to_json().decode()
    return f'{envelope[:-1]},"stream":"{event.stream.name}","position":"{event.position}"}}'
