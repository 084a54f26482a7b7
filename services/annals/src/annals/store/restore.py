"""Fills an empty store from the lines of an export; see `annals.store.export`.

Every request may be sent again, and an import that was broken off goes on from anywhere: what is there
already is compared and passed over. All of it is inserted, nothing overwritten, so whatever else writes
to the store meanwhile makes the import fail, and is not harmed.
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

_COMMITS = 64
_BYTES = 1_500_000

_Read = Callable[[str, Sequence[str]], Awaitable[dict[str, StateValue]]]


class NotImportable(StoreError):
    """The lines are not an export, or the store holds something else; the text says which."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A commit with its events, as they are to be stored."""

    commit: Commit
    raw: bytes
    events: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.raw) + sum(map(len, self.events))


class Restore:
    """See the module. `fold` makes the streams' states. Raises DaprError, StoreError, NotImportable."""

    def __init__(self, sidecar: DaprSidecar, store: str, fold: Fold) -> None:
        self._sidecar = sidecar
        self._store = store
        self._reader = DaprEventReader(sidecar, store)
        self._fold = fold

    async def apply(self, body: bytes) -> int:
        """Take some lines; those with `format` and the lanes' first commits together, before all others.

        Returns how many commits the store did not have yet.
        """
        lines = _parse(body)
        entries = [_entry(line) for line in lines if "commit" in line]
        firsts = [entry for entry in entries if entry.commit.position.seq == 1]
        begins: dict[int, int] = {}
        for header in (line for line in lines if "format" in line):
            begins |= await self._begins(header, firsts)
        await self._require_begun(entries, begins)
        await self._insert(_subject_writes(lines))  # before what they are the keys of
        taken = await self._begin(begins, firsts) if begins else 0
        await self._take_checkpoints([line["checkpoint"].encode() for line in lines if "checkpoint" in line])
        for batch in parts(entries, lambda entry: entry.size, _BYTES, _COMMITS):
            taken += await self._take(batch)
        return taken

    async def _begins(self, header: dict[str, Any], firsts: list[_Entry]) -> dict[int, int]:
        """The lanes that are to be begun, with their ends; none if they were."""
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
        """In one transaction, which is what refuses a store that others write to: so it is never divided."""
        writes = await self._writes(firsts, self._sidecar.get_certain)
        for lane, tail in lanes.items():
            # Whoever owns the lane meets the first commit at its next append, looks, and goes on behind.
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
        """The ends of those of these lanes that were begun."""
        by_key = {keys.imported(lane): lane for lane in lanes}
        marks = await self._sidecar.get_certain(self._store, list(by_key))
        return {by_key[key]: records.decoded(key, mark.data, int) for key, mark in marks.items()}

    async def _require_begun(self, entries: list[_Entry], begins: dict[int, int]) -> None:
        """Raises NotImportable for what is in no lane that was begun, or is about to be."""
        last: dict[int, int] = {}
        for entry in entries:
            lane, seq = entry.commit.position.lane, entry.commit.position.seq
            last[lane] = max(last.get(lane, 0), seq)
        tails = begins or await self._marks(last)
        for lane, seq in last.items():
            if tails.get(lane, 0) < seq:
                raise NotImportable("the import did not begin with the file's first lines")

    async def _take(self, batch: list[_Entry]) -> int:
        # What a bulk leaves out may be there (see DaprSidecar.get_bulk). All is inserted, or written over
        # what was read, so a wrong guess is refused; then it is read for certain.
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
                continue  # or it was applied by a request whose reply was lost, or something else is there
            return len(missing)
        raise NotImportable("something else was written to a stream of the import")

    async def _missing(self, batch: list[_Entry], read: _Read) -> list[_Entry]:
        """What the store does not have. Raises NotImportable where it has something else."""
        wanted = {_log_key(entry): entry for entry in batch}
        there = await read(self._store, list(wanted))
        for key, value in there.items():
            if value.data != wanted[key].raw:
                raise NotImportable(f"the store has another commit at {wanted[key].commit.position}")
        return [entry for key, entry in wanted.items() if key not in there]

    async def _writes(self, entries: list[_Entry], read: _Read) -> list[Write]:
        """What puts commits into the store, and with them the heads of their streams."""
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
        """A stream's head after more events: it has the state as soon as the stream has no hole.

        Holes are what was written through another lane, whose part comes later. How far the stream is until
        then is kept in the head, so that nothing is read and folded twice. The head is written even if it
        stays as it is: of two requests that each bring a part, one is refused and finds the other's.

        A stream that this release cannot read gets no state. Its commands are refused, and nothing else is.
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
                return Write.over(key, records.encode_head(head, part), there)
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
        return Write.over(key, data, there)

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
                await self._sidecar.save(self._store, Write.over(key, raw, value))

    async def _insert(self, writes: list[Write]) -> None:
        """Insert what is not there; what is there stays: a subject that was erased, for one."""
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
        raise NotImportable("every line is an object")
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
        raise NotImportable(f"the events of commit {commit.position} are not its own")
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
