"""Many events, of which only some are held at a time: how large one is, is known when it was read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from annals.events import RecordedEvent, StreamId
from annals.store.protocol import EventReader, StoreUnavailable

_PAGE_BYTES = 2 * 1024 * 1024
_FIRST_EVENTS = 128
_MOST_EVENTS = 256  # the next may each be the largest that there can be


async def event_pages(
    reader: EventReader, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
) -> AsyncIterator[tuple[list[RecordedEvent], int]]:
    """Events in the order asked, a few at a time where they are large, each time with their bytes.

    None is left out, but for what does not exist if that is to be `certain`: raises StoreUnavailable.
    """
    start, most = 0, _FIRST_EVENTS
    while start < len(refs):
        wanted = refs[start : start + most]
        raw = [one for one in await reader.read_raw_events(wanted, certain=certain) if one is not None]
        if len(raw) < len(wanted) and not certain:
            # The answer broke off, see DaprSidecar.get_bulk.
            raise StoreUnavailable(f"{len(wanted)} events were asked for, {len(raw)} came")
        start += len(wanted)
        size = sum(map(len, raw))
        most = min(2 * most, _MOST_EVENTS, max(1, _PAGE_BYTES * len(wanted) // max(size, 1)))
        yield [RecordedEvent.stored(one) for one in raw], size
