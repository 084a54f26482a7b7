"""The global feed: every commit of every lane with its events, read from the store alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

from annals.events import RecordedEvent
from annals.store import Commit, EventReader, StoreError

_PAGE = 500


async def read_feed(
    store: EventReader, after: Mapping[int, int] = MappingProxyType({})
) -> AsyncIterator[tuple[Commit, list[RecordedEvent]]]:
    """Yield all commits after a position in each lane, with their events.

    `after` maps a lane to a sequence; a lane that is 0 or absent is read from its start. Commits of one lane
    come in the lane's order, and so do the events of a stream that was written through one lane only. The
    events of a stream that was written through two lanes may come out of order; the reader sorts them by
    version.
    """
    for lane in await store.tails():
        seq = after.get(lane, 0)
        while commits := await store.read_log(lane, seq + 1, seq + _PAGE):
            refs = [ref for commit in commits for ref in commit.refs]
            events = await store.read_events(refs)
            if len(events) != len(refs):
                raise StoreError(
                    f"lane {lane} names {len(refs)} events after {seq}, the store has {len(events)}"
                )
            taken = 0
            for commit in commits:
                size = len(commit.versions)
                yield commit, events[taken : taken + size]
                taken += size
            seq = commits[-1].position.seq
