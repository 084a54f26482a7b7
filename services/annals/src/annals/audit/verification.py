"""Verifies the whole store: every event by its hash, every log by its signed checkpoints."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from annals.audit.checkpoint import Checkpoint, VerificationKeys, rolled
from annals.events import Position, StreamId, chained
from annals.store import ALL_LANES, Commit, EventReader, Undecodable

_PAGE = 256
_REMEMBERED = 100_000  # streams kept in memory

ReadCheckpoints = Callable[[int, int], Awaitable[list[Checkpoint]]]
"""Reads a lane's checkpoints from a number on: at most a page, ending before the first absent one."""

ReadLast = Callable[[int], Awaitable[Checkpoint | None]]
"""Reads the last checkpoint of a lane."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that the verification found, and where: at an event, or else at a sequence of a lane's log."""

    reason: str
    lane: int
    seq: int
    tenant: str | None = None
    stream: str | None = None
    version: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a lane is verified, and how far it is signed; `events` counts those of all lanes so far."""

    lane: int
    seq: int
    signed: int
    events: int


class _Altered(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


async def verify(
    store: EventReader,
    read_checkpoints: ReadCheckpoints,
    last_checkpoint: ReadLast,
    trusted: VerificationKeys,
) -> AsyncIterator[Progress | Finding]:
    """Verify the store; yield progress and, for each lane that fails, the first fault in it.

    Its memory does not grow with the store. Raises StoreError if the store cannot be read.
    """
    events = 0
    logged = _Logged(store)
    chain, heads = _Chain(store, logged), _Heads(store, logged)
    walked: dict[int, int] = {}
    tails = await store.tails()  # before any log is read: each log must reach its tail
    for lane in ALL_LANES:  # and not only those with a first commit, which may have been removed
        signed = _Signed(lane, read_checkpoints, last_checkpoint, trusted)
        seq, digest = 0, ""
        try:
            while commits := await _following(store, lane, seq, tails.get(lane, 0), signed):
                events += await chain.check(commits)
                await heads.check(commits)
                for commit in commits:
                    digest = rolled(digest, commit)
                    await signed.check(commit, digest)
                seq = commits[-1].position.seq
                yield Progress(lane, seq, signed.seq, events)
            walked[lane] = seq
        except _Altered as altered:
            yield altered.finding
        except Undecodable as error:
            yield Finding(str(error), lane, seq)
    await heads.check_rest()
    for finding in await logged.findings(walked):
        yield finding


async def _following(store: EventReader, lane: int, seq: int, tail: int, signed: _Signed) -> list[Commit]:
    commits = await store.read_log(lane, seq + 1, seq + _PAGE)
    if commits:
        return commits
    if await signed.reaches_beyond(seq):
        # The commits may have been written, and signed, since the first read: read again.
        commits = await store.read_log(lane, seq + 1, seq + _PAGE)
        if not commits:
            raise signed.wrong(f"the log ends at {seq}, but was signed beyond that")
    elif tail > seq:
        raise _Altered(Finding(f"the log ends at {seq}, but was written up to {tail}", lane, seq))
    return commits


class _Logged:
    """Checks that the events of streams are also in a log. A walk of the logs cannot find those in none."""

    def __init__(self, store: EventReader) -> None:
        self._store = store
        self._furthest: dict[int, tuple[int, Finding]] = {}
        self._findings: dict[int, Finding] = {}

    async def check(self, events: Sequence[tuple[StreamId, int, bytes | None, Position]]) -> None:
        """Check that events are in a log; each comes with the position of the commit that led to it."""
        for wrong in await asyncio.gather(*(self._wrong(*event) for event in events)):
            if wrong is not None:
                self._findings.setdefault(wrong.lane, wrong)

    async def findings(self, walked: Mapping[int, int]) -> list[Finding]:
        """Return a finding for each lane in `walked` that has one: the lanes that held, with their ends."""
        for lane, (seq, finding) in self._furthest.items():
            if lane in walked and not await self._reaches(lane, walked[lane], seq):
                self._findings.setdefault(finding.lane, finding)
        return [finding for lane, finding in sorted(self._findings.items()) if lane in walked]

    async def _wrong(
        self, stream: StreamId, version: int, value: bytes | None, place: Position
    ) -> Finding | None:
        if value is None:
            return _finding(place, stream, version, value, "it is missing")
        wrong = _finding(place, stream, version, value, "it is in no log")
        position = _position(value)
        if position is None:
            return wrong
        try:
            found = await self._store.read_log(position.lane, position.seq, position.seq)
        except Undecodable:  # reported when the lane itself is walked
            found = None
        if found is not None and not any(one.stream == stream and version in one.versions for one in found):
            return wrong
        if position.seq > self._furthest.get(position.lane, (0, wrong))[0]:
            self._furthest[position.lane] = position.seq, wrong
        return None

    async def _reaches(self, lane: int, walked: int, seq: int) -> bool:
        """Return whether a lane's log reaches `seq` without a hole; it may have grown since it was walked."""
        try:
            while walked < seq and (commits := await self._store.read_log(lane, walked + 1, walked + _PAGE)):
                walked = commits[-1].position.seq
        except Undecodable:
            return False
        return walked >= seq


class _Heads:
    """Checks the heads of the streams, which may be ahead of the part of the logs that was walked so far."""

    def __init__(self, store: EventReader, logged: _Logged) -> None:
        self._store = store
        self._logged = logged
        self._ahead: OrderedDict[StreamId, tuple[int, Position]] = OrderedDict()

    async def check(self, commits: Sequence[Commit]) -> None:
        """Compare the heads of the commits' streams with the commits. Raises _Altered."""
        streams = list({commit.stream for commit in commits})
        loaded = await asyncio.gather(*(self._store.load(stream) for stream in streams))
        heads = {stream: head for stream, (head, _) in zip(streams, loaded, strict=True)}
        behind: dict[tuple[StreamId, int], Position] = {}
        for commit in commits:
            head = heads[commit.stream] or (await self._store.load(commit.stream, certain=True))[0]
            if head is None or head.version < commit.last:
                raise _altered(commit, commit.last, None, "the head of its stream does not reach it")
            if head.version == commit.last and head.hash != commit.hash:
                raise _altered(commit, commit.last, None, "the head of its stream has another hash")
            self._ahead.pop(commit.stream, None)
            if head.version > commit.last:
                self._ahead[commit.stream] = head.version, commit.position
            else:
                behind[commit.stream, commit.last + 1] = commit.position
        # Events behind a head exist only if the stream has just grown, or was tampered with. As there are
        # usually none, their absence is not made certain, which would cost one read each.
        raw = await self._store.read_raw_events(list(behind))
        there = zip(behind.items(), raw, strict=True)
        await self._logged.check([(*ref, value, place) for (ref, place), value in there if value is not None])
        while len(self._ahead) > _REMEMBERED:
            await self._check_oldest()

    async def check_rest(self) -> None:
        """Check the last events of the streams whose heads are ahead of all that the logs have shown."""
        while self._ahead:
            await self._check_oldest()

    async def _check_oldest(self) -> None:
        oldest = [self._ahead.popitem(last=False) for _ in range(min(_PAGE, len(self._ahead)))]
        refs = [(stream, version) for stream, (version, _) in oldest]
        raw = await self._store.read_raw_events(refs, certain=True)
        places = [place for _, (_, place) in oldest]
        await self._logged.check(
            [(*ref, value, place) for ref, value, place in zip(refs, raw, places, strict=True)]
        )


class _Chain:
    """Checks the hash chains of the streams, whichever lanes a stream was written through."""

    def __init__(self, store: EventReader, logged: _Logged) -> None:
        self._store = store
        self._logged = logged
        self._hashes: OrderedDict[tuple[StreamId, int], str] = OrderedDict()

    async def check(self, commits: Sequence[Commit]) -> int:
        """Verify the events of commits, and return how many they are. Raises _Altered."""
        own = [ref for commit in commits for ref in commit.refs]
        before = {
            (commit.stream, commit.first - 1): commit.position for commit in commits if commit.first > 1
        }
        unknown = before.keys() - self._hashes.keys() - set(own)
        raw = await self._read([*own, *unknown])
        await self._logged.check([(*ref, raw[ref], before[ref]) for ref in unknown])
        for ref in unknown:
            self._hashes[ref] = _hash(raw[ref])
        for commit in commits:
            contents = [
                self._check_event(commit, version, raw[commit.stream, version]) for version in commit.versions
            ]
            if self._hashes.get((commit.stream, commit.last)) != commit.hash:
                value = raw[commit.stream, commit.last]
                raise _altered(commit, commit.last, value, "the log has another hash for it")
            ids = [content.get("event_id") for content in contents]
            types = tuple(content.get("event_type") for content in contents)
            if (ids[:1], types) != ([commit.commit_id], commit.types):
                reason = "the log has another id or other types for its commit"
                raise _altered(commit, commit.first, raw[commit.stream, commit.first], reason)
        while len(self._hashes) > _REMEMBERED:
            self._hashes.popitem(last=False)
        return len(own)

    async def _read(self, refs: list[tuple[StreamId, int]]) -> dict[tuple[StreamId, int], bytes | None]:
        return dict(zip(refs, await self._store.read_raw_events(refs, certain=True), strict=True))

    def _check_event(self, commit: Commit, version: int, value: bytes | None) -> dict[str, Any]:
        if value is None:
            raise _altered(commit, version, value, "it is missing")
        try:
            content = orjson.loads(value)
        except ValueError:
            raise _altered(commit, version, value, "it is not JSON") from None
        previous = self._hashes.pop((commit.stream, version - 1), "")
        if not isinstance(content, dict) or chained(content, previous) != content.get("hash"):
            raise _altered(
                commit, version, value, "its content, or the hash before it, is not what its hash covers"
            )
        stream, position = commit.stream, commit.position
        place = (
            content.get("tenant_id"),
            f"{content.get('aggregate_type')}-{content.get('aggregate_id')}",
            content.get("version"),
            content.get("lane"),
            content.get("seq"),
        )
        if place != (stream.tenant, stream.name, version, position.lane, position.seq):
            raise _altered(commit, version, value, "it was recorded in another place")
        self._hashes[stream, version] = content["hash"]
        return content


class _Signed:
    """Checks the log of one lane against its checkpoints."""

    def __init__(
        self, lane: int, read: ReadCheckpoints, read_last: ReadLast, trusted: VerificationKeys
    ) -> None:
        self._lane = lane
        self._read = read
        self._read_last = read_last
        self._trusted = trusted
        self._last: Checkpoint | None = None
        self._page: list[Checkpoint] = []
        self._exhausted = False

    @property
    def seq(self) -> int:
        """The sequence up to which the log agrees with its checkpoints."""
        return self._last.seq if self._last else 0

    async def check(self, commit: Commit, digest: str) -> None:
        """Compare the log up to a commit with the checkpoint that ends there, if one does."""
        following = await self._next()
        if following is None or following.seq != commit.position.seq:
            return
        if following.digest != digest:
            raise self.wrong(f"the log between {self.seq + 1} and {following.seq} is not what was signed")
        self._last = self._page.pop(0)

    async def reaches_beyond(self, seq: int) -> bool:
        """Return whether a checkpoint covers more than the log up to `seq`."""
        following = await self._next()
        return following is not None and following.seq > seq

    async def _next(self) -> Checkpoint | None:
        if not self._page and not self._exhausted:
            number = self._last.number + 1 if self._last else 1
            self._page = await self._read(self._lane, number) or await self._read_to_the_last(number)
            self._exhausted = not self._page
            self._check_page()
        return self._page[0] if self._page else None

    async def _read_to_the_last(self, number: int) -> list[Checkpoint]:
        """Return the checkpoints from `number` on after a read found none; one may have been signed since."""
        last = await self._read_last(self._lane)
        if last is None:
            return []
        if last.lane != self._lane or not self._trusted.verifies(last):
            raise self.wrong("its last checkpoint is not signed by a trusted key")
        if last.number < number:
            return []
        page = await self._read(self._lane, number)
        if not page:
            raise self.wrong(f"checkpoint {number} is missing, but checkpoint {last.number} exists")
        return page

    def _check_page(self) -> None:
        before = self._last
        for one in self._page:
            linked = one.previous == (before.signature if before else "")
            if one.lane != self._lane or not linked or not self._trusted.verifies(one):
                raise self.wrong(f"checkpoint {one.number} is not signed by a trusted key")
            before = one

    def wrong(self, reason: str) -> _Altered:
        """Return the error to raise if the checkpoints show that something is wrong."""
        return _Altered(Finding(reason, self._lane, self.seq))


def _said(value: bytes | None) -> dict[str, Any]:
    """Return the fields of a stored event; none if it is absent or not a JSON object."""
    try:
        content = orjson.loads(value or b"")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _hash(value: bytes | None) -> str:
    """Return the hash that an event claims to have; it is checked when the event's own commit is."""
    return str(_said(value).get("hash", ""))


def _position(value: bytes) -> Position | None:
    """Return the position that an event claims to have; None if there is no such position."""
    said = _said(value)
    lane, seq = said.get("lane"), said.get("seq")
    return Position(lane, seq) if type(lane) is type(seq) is int and lane in ALL_LANES and seq > 0 else None


def _finding(place: Position, stream: StreamId, version: int, value: bytes | None, reason: str) -> Finding:
    event_id = _said(value).get("event_id")
    known = None if event_id is None else str(event_id)
    return Finding(reason, place.lane, place.seq, stream.tenant, stream.name, version, known)


def _altered(commit: Commit, version: int, value: bytes | None, reason: str) -> _Altered:
    return _Altered(_finding(commit.position, commit.stream, version, value, reason))
