"""Follows the event store: every replica reads all of it, whichever of them a message came to.

The lanes are dense, so nothing is missed and nothing comes twice; a message from the broker only says
that it is time to look. A lane with a value that cannot be decoded waits there until it is mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from annals.events import RecordedEvent
from annals.store import BegunLanes, Damaged, DaprEventReader, StoreError, StoreUnavailable, Undecodable
from annals_notification.streams import positions

_log = structlog.get_logger(__name__)

_PAGE = 200
_POLL_SECONDS = 0.5
# Not sooner after a look: what is committed meanwhile is read together, which costs the store a fraction.
_PACE_SECONDS = 0.05
_RETRY_SECONDS = 1.0
# Nobody hears of a client that is gone before it was answered: it would keep its place while it waits.
_BEGIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit's events with what a client has seen once it has seen them."""

    lane: int
    seq: int
    seen: str
    events: tuple[tuple[RecordedEvent, str], ...]
    """Each with its JSON, made once for all clients."""


class Tail:
    """See the module. It reads while somebody listens, and begins anew where the store is then."""

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
        """Something was published: do not wait for the next look."""
        self._wake.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Inside, all that is committed is followed. Raises StoreUnavailable where that does not begin."""
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
        """Every commit while somebody listens, for ever."""
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
                    # One that waits does so right there.
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
            except StoreError as error:
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
    """A lane's commits behind what was seen, up to a sequence, or a damaged one. Raises StoreError then."""
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
            most = 1  # what is before the damaged one is whole
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
    """The envelope with its stream and position, as the queries give it."""
    envelope = event.to_json().decode()
    return f'{envelope[:-1]},"stream":"{event.stream.name}","position":"{event.position}"}}'
