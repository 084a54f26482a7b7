"""How many events are read at a time: many small ones or a few large ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from annals.events import RecordedEvent, StreamId
from annals.store import Append, MemoryEventStore, StoreUnavailable, event_pages
from event_store_conformance import saying

LARGE, SMALL = 100_000, 100


class Asked(MemoryEventStore):
    """Records how many events are asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def read_raw_events(
        self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        self.asked.append(len(refs))
        return await super().read_raw_events(refs, certain=certain)


async def filled(*sizes: int) -> tuple[Asked, list[tuple[StreamId, int]]]:
    store = Asked()
    events = tuple(saying("x", "x" * size) for size in sizes)
    await store.append(Append(events[0].stream, events, 0))
    return store, [(events[0].stream, version) for version in range(1, len(events) + 1)]


async def all_of(store: MemoryEventStore, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
    return [event async for events, _ in event_pages(store, refs) for event in events]


async def test_small_ones_are_read_many_at_a_time() -> None:
    store, refs = await filled(*[SMALL] * 1_500)
    assert [event.version for event in await all_of(store, refs)] == list(range(1, 1_501))
    assert store.asked == [128, *[256] * 5, 92]


async def test_large_ones_are_read_few_at_a_time() -> None:
    store, refs = await filled(*[LARGE] * 200, *[SMALL] * 300)
    assert [event.version for event in await all_of(store, refs)] == list(range(1, 501))
    assert store.asked[:4] == [128, 20, 20, 20]
    assert max(store.asked[1:5]) < 21 < store.asked[-2], "then more again"


async def test_one_that_is_left_out_is_missed() -> None:
    store, refs = await filled(SMALL, SMALL)
    with pytest.raises(StoreUnavailable, match="only 2 of 3 events could be read"):
        await all_of(store, [*refs, (refs[0][0], 3)])
    found = [page async for page in event_pages(store, [*refs, (refs[0][0], 3)], certain=True)]
    assert [event.version for events, _ in found for event in events] == [1, 2]
