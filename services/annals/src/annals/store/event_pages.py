"""Many events, of which only some are held at a time: how large one is, is known when it was read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from annals.events import RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.protocol import EventReader, StoreUnavailable

_PAGE_BYTES = 2 * 1024 * 1024
_FIRST_EVENTS = 128
MOST_EVENTS = 256
"""The most events read at once, however small the last page was: the next may be as large as events get."""


def fitting(before: int, found: int, size: int, *, bytes_held: int, most: int) -> int:
    """How many to ask for after `before`, of which those found had `size` bytes: about `bytes_held`."""
    return min(2 * before, most, max(1, bytes_held * found // max(size, 1)))


async def event_pages(
    reader: EventReader,
    refs: Sequence[tuple[StreamId, int]],
    *,
    certain: bool = False,
    first: int = _FIRST_EVENTS,
) -> AsyncIterator[tuple[list[RecordedEvent], int]]:
    """Events in the order asked, a few at a time where they are large, each time with their bytes.

    The `first` are read before it is known how large they are.

    None is left out, but for what does not exist if that is to be `certain`: raises StoreUnavailable.
    """
    start, most = 0, first
    while start < len(refs):
        wanted = refs[start : start + most]
        found = await reader.read_raw_events(wanted, certain=certain)
        raw = [(ref, one) for ref, one in zip(wanted, found, strict=True) if one is not None]
        if len(raw) < len(wanted) and not certain:
            # The answer broke off, see DaprSidecar.get_bulk.
            raise StoreUnavailable(f"{len(wanted)} events were asked for, {len(raw)} came")
        start += len(wanted)
        size = sum(len(one) for _, one in raw)
        most = fitting(most, len(wanted), size, bytes_held=_PAGE_BYTES, most=MOST_EVENTS)
        yield [records.decoded(keys.event(*ref), one, RecordedEvent.stored) for ref, one in raw], size
