"""Passes commits on to the clients of live streams, each with a buffer.

A client that is too slow is cut off and told why, so that it holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from annals.store import ALL_LANES, DaprEventReader, Undecodable
from annals.telemetry import metrics
from annals_notification.streams import positions, tail
from annals_notification.streams.filters import Filter
from annals_notification.streams.tail import Commit, Tail

HEARTBEAT_SECONDS = 15.0
_TICK_SECONDS = 1.0  # until a waiting client notices that it is cut off, or that the replica drains
_BEHIND_BYTES = 32 * 1024 * 1024
"""How much JSON may arrive after the commit that a client is to be sent next. Clients share the commits, so
all buffers together hold no more than this."""


class TooSlow(Exception):
    """The client is too far behind and is cut off."""


class TooMany(Exception):
    """This replica already serves as many clients as it may."""


class Client:
    """A client of a live stream, and the commits that wait to be sent to it."""

    def __init__(self, wanted: Filter, buffer: int) -> None:
        self.wanted = wanted
        self.queue: asyncio.Queue[tuple[int, Commit]] = asyncio.Queue(buffer)
        self.cut = False
        self._oldest = 0

    def offer(self, commit: Commit, told: int) -> None:
        """Put a commit into the buffer. If the client is too far behind, cut it off; it may come back.

        `told` is the length of all JSON so far, including that of this commit.
        """
        if self.cut:
            return
        if self.queue.empty():
            self._oldest = told
        wants = any(self.wanted.matches(event) for event, _ in commit.events)
        if told - self._oldest > _BEHIND_BYTES or (wants and self.queue.full()):
            self.cut = True
            while not self.queue.empty():
                self.queue.get_nowait()
        elif wants:
            self.queue.put_nowait((told, commit))

    async def take(self) -> Commit:
        """Wait for the commit to be sent next, and return it."""
        self._oldest, commit = await self.queue.get()
        return commit


class Hub:
    """Offers every commit of the tail to every client. `run` must be running."""

    def __init__(
        self,
        store: DaprEventReader,
        draining: Callable[[], bool],
        *,
        max_clients: Callable[[], int],
        buffer: int,
    ) -> None:
        self._store = store
        self._tail = Tail(store)
        self._clients: set[Client] = set()
        self._draining = draining
        self._max_clients = max_clients
        self._buffer = buffer
        metrics.STREAM_CLIENTS.set_function(lambda: len(self._clients))

    def look(self) -> None:
        """Look for new commits now, as something was published."""
        self._tail.look()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        told = 0
        async for commit in self._tail.follow():
            told += sum(len(text) for _, text in commit.events)
            for client in self._clients:
                client.offer(commit, told)
            # Let the clients take this commit now: a page of commits comes at once, and may be large.
            await asyncio.sleep(0)

    async def listen(
        self, wanted: Filter, after: Mapping[int, int] | None
    ) -> AsyncIterator[tuple[str, list[str]]]:
        """Yield what to send to a client: its new position, and events as JSON. No events: a heartbeat.

        `after` is the position at which the client left off; without it, only new events are sent.
        Raises TooSlow, TooMany and StoreError.
        """
        if len(self._clients) >= (most := self._max_clients()):
            metrics.STREAM_REFUSED.inc()
            raise TooMany(f"{len(self._clients)} of {most} clients are connected to this replica")
        client = Client(wanted, self._buffer)
        self._clients.add(client)
        try:
            async with self._tail.listening():
                joined = dict(self._tail.seen)
                yield positions.render(joined if after is None else after), []
                ahead: dict[int, int] = {}
                if after is not None:
                    ahead = await self._ahead(after, joined)
                    async for seen, events in self._missed(wanted, after, joined):
                        yield seen, events
                async for seen, events in self._live(client, joined, ahead):
                    yield seen, events
        finally:
            self._clients.discard(client)

    async def _ahead(self, after: Mapping[int, int], joined: Mapping[int, int]) -> dict[int, int]:
        """Return how far a client has seen lanes on another replica that this one's tail has yet to read."""
        beyond = positions.beyond(after, joined)
        # A client may name any lane. Only lanes that can exist are read: all at once, and again each by
        # itself where nothing was found.
        ahead = {lane: seq for lane, seq in beyond.items() if lane in ALL_LANES}
        found = await asyncio.gather(*(self._store.read_log(lane, seq, seq) for lane, seq in ahead.items()))
        # A position beyond the end of the store is of another store: this one was restored, or is new.
        return {lane: ahead[lane] for lane, commits in zip(ahead, found, strict=True) if commits}

    async def _missed(
        self, wanted: Filter, after: Mapping[int, int], upto: Mapping[int, int]
    ) -> AsyncIterator[tuple[str, list[str]]]:
        seen = dict(after)
        heartbeat = _Heartbeat()
        damaged: Undecodable | None = None
        for lane, last in upto.items():
            try:
                async for commit in tail.read(self._store, seen, lane, last):
                    if self._draining():
                        return
                    seen[lane] = commit.seq
                    events = _matching(wanted, commit)
                    if events or heartbeat.is_due():
                        yield commit.seen, events
                        heartbeat.sent()
            except Undecodable as error:
                damaged = error
        if damaged is not None:
            # The rest of this lane cannot be sent: the client is to come back for it. It has got the others.
            raise damaged

    async def _live(
        self, client: Client, joined: dict[int, int], ahead: dict[int, int]
    ) -> AsyncIterator[tuple[str, list[str]]]:
        """Yield the commits after `joined`, except what the client has seen on another replica (`ahead`)."""
        known = joined | ahead
        heartbeat = _Heartbeat()
        while not self._draining():
            if client.cut:
                metrics.STREAM_CUT.inc()
                raise TooSlow("too much waited to be sent: reconnect with the last id")
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    commit = await client.take()
            except TimeoutError:
                # Not while commits wait, or were dropped: the tail has seen those, and the client has not.
                if heartbeat.is_due() and client.queue.empty() and not client.cut:
                    ahead = positions.beyond(ahead, self._tail.seen)
                    yield positions.render(self._tail.seen | ahead), []
                    heartbeat.sent()
                continue
            if commit.seq > known.get(commit.lane, 0):
                seen = commit.seen
                if ahead:
                    reached = positions.parse(seen)
                    ahead = positions.beyond(ahead, reached)
                    seen = positions.render(reached | ahead, commit.lane)
                yield seen, _matching(client.wanted, commit)
                heartbeat.sent()


class _Heartbeat:
    """Knows when a client was last sent something, and so when a heartbeat is due."""

    def __init__(self) -> None:
        self.sent()

    def sent(self) -> None:
        """Note that something is sent now."""
        self._at = time.monotonic()

    def is_due(self) -> bool:
        """Return whether nothing was sent for `HEARTBEAT_SECONDS`."""
        return time.monotonic() - self._at >= HEARTBEAT_SECONDS


def _matching(wanted: Filter, commit: Commit) -> list[str]:
    return [text for event, text in commit.events if wanted.matches(event)]
