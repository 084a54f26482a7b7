"""Fills an empty store from the lines of an export; see `annals.store.export`.

Every request may be sent again, and an import that was broken off can go on from anywhere: commits that are
there already are compared and skipped. Commits and events are only inserted, and a head is replaced only if
it is still as it was read. So another writer makes the import fail, and is not harmed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import index
from typing import Any

import orjson
import structlog

from annals.dapr import DaprSidecar, StateConflict, StateValue, Write
from annals.dapr.parts import parts
from annals.events import Position, RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.dapr_store import DaprEventReader
from annals.store.event_pages import MOST_EVENTS, fitting
from annals.store.export import FORMAT
from annals.store.protocol import Commit, Fold, Head, StoreError
from annals.store.sizes import TRANSACTION_BYTES

_log = structlog.get_logger(__name__)

_COMMITS = 64  # in one transaction
_BYTES = 1_500_000  # of events in one transaction, beside the heads, or read at a time

_Read = Callable[[str, Sequence[str]], Awaitable[dict[str, StateValue]]]


class NotImportable(StoreError):
    """The lines are not an export, or the store holds something else; the message says which."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A commit, with its own bytes and those of its events as they will be stored."""

    commit: Commit
    raw: bytes
    events: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Approximate bytes in a transaction."""
        return len(self.raw) + sum(map(len, self.events))


class Restore:
    """Imports lines into a store. `fold` computes the streams' states."""

    def __init__(self, sidecar: DaprSidecar, store: str, fold: Fold) -> None:
        self._sidecar = sidecar
        self._store = store
        self._reader = DaprEventReader(sidecar, store)
        self._fold = fold

    async def apply(self, body: bytes) -> int:
        """Import some lines, and return how many commits the store did not have yet.

        The line with `format` and the first commits of all lanes must come together, before all others.
        Raises DaprError, StoreError and NotImportable.
        """
        lines = _parse(body)
        entries = [_entry(line) for line in lines if "commit" in line]
        firsts = [entry for entry in entries if entry.commit.position.seq == 1]
        begins: dict[int, int] = {}
        for header in (line for line in lines if "format" in line):
            begins |= await self._begins(header, firsts)
        await self._require_begun(entries, begins)
        await self._insert(_subject_writes(lines))  # before the events that these keys decrypt
        taken = await self._begin(begins, firsts) if begins else 0
        await self._take_checkpoints([line["checkpoint"].encode() for line in lines if "checkpoint" in line])
        for batch in parts(entries, lambda entry: entry.size, _BYTES, _COMMITS):
            taken += await self._take(batch)
        return taken

    async def _begins(self, header: dict[str, Any], firsts: list[_Entry]) -> dict[int, int]:
        """Return the lanes to begin, with their ends; none if they were begun already."""
        if header["format"] != FORMAT:
            raise NotImportable(f"expected the format {FORMAT}, this is {header['format']}")
        lanes = {int(lane): int(tail) for lane, tail in header["lanes"].items()}
        if {entry.commit.position.lane for entry in firsts} != set(lanes):
            raise NotImportable("the first commit of every lane must come with the line that says the format")
        if await self._begun(lanes):
            return {}
        if await self._reader.tails():
            raise NotImportable("the store is not empty: an import needs one that nothing was written to")
        return lanes

    async def _begin(self, lanes: dict[int, int], firsts: list[_Entry]) -> int:
        """Begin the lanes, and return the number of their first commits.

        A single transaction does it, never divided, so that the store refuses all of it if anything else was
        written there.
        """
        writes = await self._writes(firsts, self._sidecar.get_certain)
        for lane, tail in lanes.items():
            # If an instance owns the lane, the first commit makes its next append fail. It then finds the
            # lane's end by the watermark, and goes on behind it.
            writes.append(Write(keys.imported(lane), orjson.dumps(tail), insert_only=True))
            writes.append(Write(keys.published(lane), orjson.dumps(tail)))
        try:
            await self._sidecar.transact(self._store, sorted(writes, key=lambda write: write.key))
        except StateConflict:
            if not await self._begun(lanes):
                raise NotImportable("something was written to the store at the same time") from None
        return len(firsts)

    async def _begun(self, lanes: dict[int, int]) -> bool:
        return await self._marks(lanes) == lanes

    async def _marks(self, lanes: Iterable[int]) -> dict[int, int]:
        """Return the ends of those of `lanes` that were begun."""
        by_key = {keys.imported(lane): lane for lane in lanes}
        marks = await self._sidecar.get_certain(self._store, list(by_key))
        return {by_key[key]: records.decoded(key, mark.data, int) for key, mark in marks.items()}

    async def _require_begun(self, entries: list[_Entry], begins: dict[int, int]) -> None:
        """Raise NotImportable for commits that are in no lane that was begun or is about to be begun."""
        last: dict[int, int] = {}
        for entry in entries:
            lane, seq = entry.commit.position.lane, entry.commit.position.seq
            last[lane] = max(last.get(lane, 0), seq)
        tails = begins or await self._marks(last)
        for lane, seq in last.items():
            if tails.get(lane, 0) < seq:
                raise NotImportable("the import did not begin with the file's first lines")

    async def _take(self, batch: list[_Entry]) -> int:
        # A bulk get may leave out keys that exist (see DaprSidecar.get_bulk). Every write is an insert or
        # replaces the value that was read, so a wrong guess is refused, and the next round reads for certain.
        for read in (self._sidecar.get_bulk, self._sidecar.get_certain, self._sidecar.get_certain):
            missing = await self._missing(batch, read)
            if not missing:
                return 0
            writes = await self._writes(missing, read)
            size = sum(len(write.key) + len(write.value) for write in writes)
            if size > TRANSACTION_BYTES and len(missing) > 1:
                half = len(missing) // 2
                return await self._take(missing[:half]) + await self._take(missing[half:])
            try:
                await self._sidecar.transact(self._store, sorted(writes, key=lambda write: write.key))
            except StateConflict:
                continue  # a key was left out, an earlier request applied this, or something else was written
            return len(missing)
        raise NotImportable("something else was written to a stream of the import")

    async def _missing(self, batch: list[_Entry], read: _Read) -> list[_Entry]:
        """Return the commits that the store does not have. Raises NotImportable if it has a different one."""
        wanted = {_log_key(entry): entry for entry in batch}
        there = await read(self._store, list(wanted))
        for key, value in there.items():
            if value.data != wanted[key].raw:
                raise NotImportable(f"the store has another commit at {wanted[key].commit.position}")
        return [entry for key, entry in wanted.items() if key not in there]

    async def _writes(self, entries: list[_Entry], read: _Read) -> list[Write]:
        """Return the writes that store commits with their events, and the heads of their streams."""
        writes = []
        brought: defaultdict[StreamId, dict[int, bytes]] = defaultdict(dict)
        for entry in entries:
            writes.append(Write(_log_key(entry), entry.raw, insert_only=True))
            brought[entry.commit.stream] |= enumerate(entry.events, start=entry.commit.first)
        found = await read(self._store, [keys.head(stream) for stream in brought])
        for stream, events in brought.items():
            writes += [Write(keys.event(stream, one), raw, insert_only=True) for one, raw in events.items()]
        heads = (
            self._head(stream, events, found.get(keys.head(stream))) for stream, events in brought.items()
        )
        return writes + await asyncio.gather(*heads)

    async def _head(self, stream: StreamId, brought: dict[int, bytes], there: StateValue | None) -> Write:
        """Return the write of a stream's head after more events; it has a state once the stream has no hole.

        A stream written through several lanes has holes until all of them are imported. Until then the head
        also keeps the state up to the first hole, so that no event is read and folded twice. The head is
        written even if it does not change: of two requests that each bring events of the stream, one is then
        refused, and finds the other's events when it tries again.

        A stream that this release cannot read gets no state: its commands are refused, but nothing else is.
        """
        key = keys.head(stream)
        head = records.decoded(key, there.data, records.decode_head) if there else None
        part = records.decoded(key, there.data, records.decode_part) if there else None
        last = max(brought)
        if head is None or head.version < last:
            head = Head(last, None, 0, RecordedEvent.from_json(brought[last]).hash)
        most = min(len(brought), MOST_EVENTS)
        while True:
            first = part.version + 1 if part else 1
            versions = range(first, min(first + most, head.version + 1))
            absent = [version for version in versions if version not in brought]
            read = await self._reader.read_raw_events([(stream, version) for version in absent], certain=True)
            known = brought | {version: raw for version, raw in zip(absent, read, strict=True) if raw}
            raws = [known[version] for version in takewhile(known.__contains__, versions)]
            try:
                events = [RecordedEvent.from_json(raw) for raw in raws]
                folded = self._fold(stream, part, events)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = {"stream": str(stream), "version": head.version}
                _log.error("an imported stream cannot be read", **what, error=str(error))
                return Write.replacing(key, records.encode_head(head, part), there)
            if folded is None:
                part = None
                continue
            hash_ = events[-1].hash if events else part.hash if part else ""
            part = Head(first + len(events) - 1, *folded, hash_)
            if len(events) < len(versions) or part.version == head.version:
                break
            most = fitting(most, len(raws), sum(map(len, raws)), bytes_held=_BYTES, most=MOST_EVENTS)
        whole = part.version == head.version
        data = records.encode_head(part) if whole else records.encode_head(head, part)
        return Write.replacing(key, data, there)

    async def _take_checkpoints(self, given: list[bytes]) -> None:
        last: dict[int, tuple[int, bytes]] = {}
        writes = []
        for raw in given:
            fields = orjson.loads(raw)
            lane, number = fields["lane"], fields["number"]
            writes.append(Write(keys.checkpoint(lane, number), raw, insert_only=True))
            last[lane] = max(last.get(lane, (0, b"")), (number, raw))
        await self._insert(writes)
        for lane, (number, raw) in last.items():
            key = keys.checkpoint(lane)
            value = await self._sidecar.get(self._store, key)
            if value is None or records.decoded(key, value.data, _number) < number:
                await self._sidecar.save(self._store, Write.replacing(key, raw, value))

    async def _insert(self, writes: list[Write]) -> None:
        """Insert the keys that do not exist. Those that do stay as they are, such as an erased subject's."""
        for start in range(0, len(writes), _COMMITS):
            page = writes[start : start + _COMMITS]
            there = await self._sidecar.get_certain(self._store, [write.key for write in page])
            missing = [write for write in page if write.key not in there]
            if missing:
                await self._sidecar.transact(self._store, missing)


def _number(checkpoint: bytes) -> int:
    return index(orjson.loads(checkpoint)["number"])


def _parse(body: bytes) -> list[dict[str, Any]]:
    try:
        lines = [orjson.loads(line) for line in body.splitlines() if line]
    except orjson.JSONDecodeError as error:
        raise NotImportable(f"a line is not JSON: {error}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise NotImportable("every line must be a JSON object")
    return lines


def _entry(line: dict[str, Any]) -> _Entry:
    try:
        raw = line["commit"].encode()
        commit = records.decode_commit(raw, Position(line["lane"], line["seq"]))
        events = tuple(event.encode() for event in line["events"])
        first, *_ = [RecordedEvent.from_json(event) for event in events]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        place = f"{line.get('lane')}-{line.get('seq')}"
        raise NotImportable(f"the line of commit {place} is not a commit: {error}") from error
    if len(events) != commit.last - commit.first + 1 or first.position != commit.position:
        raise NotImportable(f"the events in the line of commit {commit.position} do not belong to it")
    return _Entry(commit, raw, events)


def _subject_writes(lines: list[dict[str, Any]]) -> list[Write]:
    return [
        Write(keys.subject(line["tenant"], line["subject"]), line["key"].encode(), insert_only=True)
        for line in lines
        if "subject" in line
    ]


def _log_key(entry: _Entry) -> str:
    position = entry.commit.position
    return keys.log(position.lane, position.seq)
