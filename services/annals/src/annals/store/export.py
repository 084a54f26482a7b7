"""Exports the whole store as lines of JSON, to back it up or to fill another store.

A file has these lines, in this order: one with `format`; the first commit of every lane; the signed
checkpoints; the other commits, lane by lane, in their order; one with `end`. A commit and its events are in
their line as strings, byte for byte as the store holds them. Subjects' keys come before the commits that need
them, and only on request: a backup that has them undoes an erasure that comes later.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from functools import partial
from operator import index
from typing import Any

import orjson

from annals.dapr import DaprSidecar
from annals.events import Position, RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.dapr_store import DaprEventReader
from annals.store.event_pages import MOST_EVENTS, event_pages, fitting
from annals.store.protocol import Commit, StoreError

FORMAT = "annals-export/1"
_PAGE = 500  # commits
# Bytes of events in memory at a time, roughly: one event may have 240,000, or as many as `max_event_bytes`.
_BYTES = 4 * 1024 * 1024
_FIRST_EVENTS = 64  # in the first page, before any size is known
_CHECKPOINT_PAGE = 50
_REMEMBERED_SUBJECTS = 100_000  # whose keys are known to have been written
_TOKEN = re.compile(rb'"annals-enc\.v1/([A-Za-z0-9._~@:-]{1,128})/')


class Export:
    """Exports a store as lines. Its methods raise DaprError, and StoreError, which names a damaged value."""

    def __init__(self, sidecar: DaprSidecar, store: str, *, with_keys: bool) -> None:
        self._sidecar = sidecar
        self._store = store
        self._reader = DaprEventReader(sidecar, store)
        self._with_keys = with_keys
        self._digest = hashlib.sha256()
        self._subjects: set[tuple[str, str]] = set()
        self._commits = self._events = 0
        self._most = _FIRST_EVENTS

    async def pages(self) -> AsyncIterator[bytes]:
        """Yield the lines, many at a time. They do not contain what is appended while the export runs."""
        tails = await self._tails()
        yield self._lines([{"format": FORMAT, "exported_at": datetime.now(UTC), "lanes": tails}])
        for lane in tails:
            async for page in self._commit_lines(lane, 1, 1):
                yield page
        for lane, tail in tails.items():
            async for page in self._checkpoint_lines(lane, tail):
                yield page
        for lane, tail in tails.items():
            for first in range(2, tail + 1, _PAGE):
                async for page in self._commit_lines(lane, first, min(first + _PAGE - 1, tail)):
                    yield page
        # The digest covers all the lines before, so that a file that was cut off or altered is detected.
        end = {"commits": self._commits, "events": self._events, "sha256": self._digest.hexdigest()}
        yield orjson.dumps({"end": end}) + b"\n"

    async def _tails(self) -> dict[int, int]:
        """Return the sequence at which the export of each lane ends, so that no stream in it has a hole.

        The ends of the lanes are read one after the other, while appends go on. So if a stream is written
        through two lanes, a commit within one end may follow a commit of the stream that is beyond the other
        end. Therefore the ends are read twice. A commit that was there before the second reading is within
        its ends, and so is the commit that it follows, which is older. So commits within the first reading's
        ends need no check. Of the later ones, a commit that follows one beyond an end is cut off, with the
        rest of its lane. All these came after the second reading began, so nothing older is cut off.
        """
        before = await self._reader.reached()
        tails = await self._reader.reached()
        late = [
            commit
            for lane, tail in tails.items()
            for commit in await self._reader.read_log(lane, before.get(lane, 0) + 1, tail)
            if commit.first > 1
        ]
        refs = [(commit.stream, commit.first - 1) for commit in late]
        below = [event.position async for page, _ in event_pages(self._reader, refs) for event in page]
        standing = [(commit.position, on) for commit, on in zip(late, below, strict=True)]
        while True:
            without = [
                above
                for above, on in standing
                if above.seq <= tails[above.lane] and on.seq > tails.get(on.lane, 0)
            ]
            if not without:
                return {lane: tail for lane, tail in tails.items() if tail}
            for above in without:
                tails[above.lane] = min(tails[above.lane], above.seq - 1)

    async def _commit_lines(self, lane: int, first: int, last: int) -> AsyncIterator[bytes]:
        wanted = [keys.log(lane, seq) for seq in range(first, last + 1)]
        found = await self._sidecar.get_certain(self._store, wanted)
        if len(found) < len(wanted):
            raise StoreError(f"the log of lane {lane} has a hole between {first} and {last}")
        raw = {Position(lane, seq): found[key].data for seq, key in enumerate(wanted, start=first)}
        coming = deque(
            records.decoded(key, found[key].data, partial(records.decode_commit, position=position))
            for key, position in zip(wanted, raw, strict=True)
        )
        while commits := self._next(coming):
            events = await self._events_of(commits)
            subjects = await self._subject_lines(events) if self._with_keys else []
            lines = (
                {
                    "lane": lane,
                    "seq": commit.position.seq,
                    "commit": raw[commit.position].decode(),
                    "events": [events[commit.stream, version].decode() for version in commit.versions],
                }
                for commit in commits
            )
            self._commits += len(commits)
            self._events += len(events)
            yield self._lines(subjects) + self._lines(lines)

    def _next(self, coming: deque[Commit]) -> list[Commit]:
        """Take the next commits: at least one, and more as long as they have at most `_most` events."""
        commits: list[Commit] = []
        events = 0
        while coming and (not commits or events + len(coming[0].versions) <= self._most):
            commits.append(coming.popleft())
            events += len(commits[-1].versions)
        return commits

    async def _events_of(self, commits: list[Commit]) -> dict[tuple[StreamId, int], bytes]:
        places = [(ref, commit.position) for commit in commits for ref in commit.refs]
        refs = [ref for ref, _ in places]
        raw = await self._reader.read_raw_events(refs, certain=True)
        events = {}
        for (ref, position), data in zip(places, raw, strict=True):
            if data is None:
                raise StoreError(f"event {ref[1]} of {ref[0]} is missing")
            records.decoded(keys.event(*ref), data, partial(_require_own, position))
            events[ref] = data
        # Sizes are known only after reading. The next events are taken to be as large.
        size = sum(map(len, events.values()))
        self._most = fitting(self._most, len(events), size, bytes_held=_BYTES, most=MOST_EVENTS)
        return events

    async def _subject_lines(self, events: dict[tuple[StreamId, int], bytes]) -> list[dict[str, Any]]:
        named = {
            (stream.tenant, subject.decode())
            for (stream, _), data in events.items()
            for subject in _TOKEN.findall(data)
        } - self._subjects
        # To write a key twice does no harm, but memory that grows with the store would.
        self._subjects = named if len(self._subjects) > _REMEMBERED_SUBJECTS else self._subjects | named
        wanted = {keys.subject(*subject): subject for subject in sorted(named)}
        found = await self._sidecar.get_certain(self._store, list(wanted))
        return [
            {
                "subject": wanted[key][1],
                "tenant": wanted[key][0],
                "key": records.decoded(key, value.data, bytes.decode),
            }
            for key, value in found.items()
        ]

    async def _checkpoint_lines(self, lane: int, tail: int) -> AsyncIterator[bytes]:
        number = 1
        while True:
            wanted = [keys.checkpoint(lane, one) for one in range(number, number + _CHECKPOINT_PAGE)]
            found = await self._sidecar.get_certain(self._store, wanted)
            raw = [(key, found[key].data) for key in wanted if key in found]
            # A checkpoint that was signed after the export began covers commits that are not in the export.
            within = [data for key, data in raw if records.decoded(key, data, _seq) <= tail]
            yield self._lines([{"checkpoint": data.decode()} for data in within])
            if len(within) < _CHECKPOINT_PAGE:
                return
            number += _CHECKPOINT_PAGE

    def _lines(self, values: Iterable[dict[str, Any]]) -> bytes:
        data = b"".join(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n" for value in values)
        self._digest.update(data)
        return data


def _require_own(position: Position, event: bytes) -> None:
    """Raise ValueError for an event that cannot be read or names another position than the log does."""
    at = RecordedEvent.from_json(event).position
    if at != position:
        raise ValueError(f"it says that it is at {at}, and the log has it at {position}")


def _seq(checkpoint: bytes) -> int:
    return index(orjson.loads(checkpoint)["seq"])
