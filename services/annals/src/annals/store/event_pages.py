"""Reads many events page by page, so that only some are in memory at a time.

An event's size is known only after it was read, so the size of each page is estimated from the one before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from annals.events import RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.protocol import EventReader, StoreUnavailable

_PAGE_BYTES = 2 * 1024 * 1024
_FIRST_EVENTS = 128  # in the first page, before any size is known
MOST_EVENTS = 256
"""Most events in one page, however small the last ones were: the next may be as large as events can be."""


def fitting(before: int, found: int, size: int, *, bytes_held: int, most: int) -> int:
    """Return how many events to ask for so that they take about `bytes_held`, given that `found` took `size`.

    `before` is how many were asked for last: the answer at most doubles that, and never exceeds `most`.
    """
    return min(2 * before, most, max(1, bytes_held * found // max(size, 1)))


async def event_pages(
    reader: EventReader,
    refs: Sequence[tuple[StreamId, int]],
    *,
    certain: bool = False,
    first: int = _FIRST_EVENTS,
) -> AsyncIterator[tuple[list[RecordedEvent], int]]:
    """Yield events in the order asked, page by page, each page with its size in bytes.

    `first` limits the first page, which is read before any size is known. If an event is missing from a page,
    raises StoreUnavailable; with `certain`, the event does not exist and is left out.
    """
    start, most = 0, first
    while start < len(refs):
        wanted = refs[start : start + most]
        found = await reader.read_raw_events(wanted, certain=certain)
        raw = [(ref, one) for ref, one in zip(wanted, found, strict=True) if one is not None]
        if len(raw) < len(wanted) and not certain:
            # The answer broke off: see DaprSidecar.get_bulk.
            raise StoreUnavailable(f"only {len(raw)} of {len(wanted)} events could be read")
        start += len(wanted)
        size = sum(len(one) for _, one in raw)
        most = fitting(most, len(wanted), size, bytes_held=_PAGE_BYTES, most=MOST_EVENTS)
        yield [records.decoded(keys.event(*ref), one, RecordedEvent.stored) for ref, one in raw], size
