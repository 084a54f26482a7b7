"""Fills an empty store from the lines of an export; see `annals.store.export`.

Every request may be sent again, and an import that was broken off goes on from anywhere: what is there
already is compared and passed over. All of it is inserted, nothing overwritten, so whatever else writes
to the store meanwhile makes the import fail, and is not harmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from annals.dapr import DaprSidecar, StateConflict, StateValue, Write
from annals.events import Position, RecordedEvent, StreamId
from annals.store import keys, records
from annals.store.dapr_store import DaprEventReader
from annals.store.export import FORMAT
from annals.store.protocol import Commit, Fold, Head, StoreError

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
        await self._insert(_subject_writes(lines))  # before what they are the keys of
        taken = 0
        for header in (line for line in lines if "format" in line):
            firsts = [entry for entry in entries if entry.commit.position.seq == 1]
            taken += await self._begin(header, firsts)
        await self._require_begun(entries)
        await self._take_checkpoints([line["checkpoint"].encode() for line in lines if "checkpoint" in line])
        for batch in _batches(entries):
            taken += await self._take(batch)
        return taken

    async def _begin(self, header: dict[str, Any], firsts: list[_Entry]) -> int:
        if header["format"] != FORMAT:
            raise NotImportable(f"expected the format {FORMAT}, this is {header['format']}")
        lanes = {int(lane): int(tail) for lane, tail in header["lanes"].items()}
        if {entry.commit.position.lane for entry in firsts} != set(lanes):
            raise NotImportable("the first commit of every lane must come with the line that says the format")
        if await self._begun(lanes):
            return 0
        if await self._reader.lanes():
            raise NotImportable("the store is not empty: an import needs one that nothing was written to")
        writes, _ = await self._writes(firsts, self._sidecar.get_certain)
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
        marks = await self._sidecar.get_certain(self._store, [keys.imported(lane) for lane in lanes])
        return all(
            (mark := marks.get(keys.imported(lane))) is not None and int(mark.data) == tail
            for lane, tail in lanes.items()
        )

    async def _require_begun(self, entries: list[_Entry]) -> None:
        last: dict[int, int] = {}
        for entry in entries:
            lane, seq = entry.commit.position.lane, entry.commit.position.seq
            last[lane] = max(last.get(lane, 0), seq)
        marks = await self._sidecar.get_certain(self._store, [keys.imported(lane) for lane in last])
        for lane, seq in last.items():
            mark = marks.get(keys.imported(lane))
            if mark is None or int(mark.data) < seq:
                raise NotImportable("the import did not begin with the file's first lines")

    async def _take(self, batch: list[_Entry]) -> int:
        # What a bulk leaves out may be there (see DaprSidecar.get_bulk). All is inserted, or written over
        # what was read, so a wrong guess is refused; then it is read for certain.
        for read in (self._sidecar.get_bulk, self._sidecar.get_certain, self._sidecar.get_certain):
            missing = await self._missing(batch, read)
            if not missing:
                return 0
            writes, gaps = await self._writes(missing, read)
            try:
                await self._sidecar.transact(self._store, sorted(writes, key=lambda write: write.key))
            except StateConflict:
                continue  # or it was applied by a request whose reply was lost, or something else is there
            for stream in gaps:
                await self._close_gap(stream)
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

    async def _writes(self, entries: list[_Entry], read: _Read) -> tuple[list[Write], list[StreamId]]:
        """What puts commits into the store, and the streams of which these do not give the state.

        An earlier part of them is not there yet, or came through a release that had another schema.
        """
        streams = list({entry.commit.stream for entry in entries})
        found = await read(self._store, [keys.head(stream) for stream in streams])
        heads = {
            stream: records.decode_head(found[keys.head(stream)].data)
            for stream in streams
            if keys.head(stream) in found
        }
        writes, gaps = [], []
        for entry in entries:
            commit = entry.commit
            writes.append(Write(_log_key(entry), entry.raw, insert_only=True))
            writes += [
                Write(keys.event(commit.stream, version), raw, insert_only=True)
                for version, raw in enumerate(entry.events, start=commit.first)
            ]
            head = heads.get(commit.stream)
            at = head.version if head else 0
            if commit.first == at + 1:
                state, schema = None, 0
                if head is None or head.state is not None:
                    events = [RecordedEvent.from_json(raw) for raw in entry.events]
                    folded = self._fold(commit.stream, head, events)
                    if folded is None:
                        gaps.append(commit.stream)
                    else:
                        state, schema = folded
                heads[commit.stream] = Head(commit.last, state, schema, commit.hash)
            else:
                # Written through two lanes: another lane's part comes later, or came before.
                gaps.append(commit.stream)
                if commit.last > at:
                    heads[commit.stream] = Head(commit.last, None, 0, commit.hash)
        for stream, head in heads.items():
            key, there = keys.head(stream), found.get(keys.head(stream))
            etag = there.etag if there else None
            writes.append(Write(key, records.encode_head(head), insert_only=etag is None, etag=etag))
        return writes, gaps

    async def _close_gap(self, stream: StreamId) -> None:
        """Fold a stream anew, if all of it is there by now."""
        value = await self._sidecar.get(self._store, keys.head(stream))
        if value is None:
            return
        head = records.decode_head(value.data)
        refs = [(stream, version) for version in range(1, head.version + 1)]
        events = await self._reader.read_events(refs)
        if len(events) < len(refs) or (folded := self._fold(stream, None, events)) is None:
            return
        whole = records.encode_head(Head(head.version, *folded, head.hash))
        await self._sidecar.save(self._store, Write(keys.head(stream), whole, etag=value.etag))

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
            value = await self._sidecar.get(self._store, keys.checkpoint(lane))
            if value is None or orjson.loads(value.data)["number"] < number:
                etag = value.etag if value else None
                write = Write(keys.checkpoint(lane), raw, insert_only=etag is None, etag=etag)
                await self._sidecar.save(self._store, write)

    async def _insert(self, writes: list[Write]) -> None:
        """Insert what is not there; what is there stays: a subject that was erased, for one."""
        for start in range(0, len(writes), _COMMITS):
            page = writes[start : start + _COMMITS]
            there = await self._sidecar.get_certain(self._store, [write.key for write in page])
            missing = [write for write in page if write.key not in there]
            if missing:
                await self._sidecar.transact(self._store, missing)


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
        first = RecordedEvent.from_json(events[0])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotImportable(f"a line is not a commit: {error}") from error
    if len(events) != commit.last - commit.first + 1 or first.position != commit.position:
        raise NotImportable(f"the events of commit {commit.position} are not its own")
    return _Entry(commit, raw, events)


def _batches(entries: Iterable[_Entry]) -> list[list[_Entry]]:
    batches: list[list[_Entry]] = []
    size = 0
    for entry in entries:
        if not batches or len(batches[-1]) == _COMMITS or size + entry.size > _BYTES:
            batches.append([])
            size = 0
        batches[-1].append(entry)
        size += entry.size
    return batches


def _subject_writes(lines: list[dict[str, Any]]) -> list[Write]:
    return [
        Write(keys.subject(line["tenant"], line["subject"]), line["key"].encode(), insert_only=True)
        for line in lines
        if "subject" in line
    ]


def _log_key(entry: _Entry) -> str:
    position = entry.commit.position
    return keys.log(position.lane, position.seq)
