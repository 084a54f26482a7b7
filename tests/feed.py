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
    """All commits behind a position of each lane (lane to sequence; 0 or absent: from the start).

    Within a lane they come in its order, and so does each stream that only one lane wrote; a
    stream written through two lanes may come out of order and is put right by its versions.
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
