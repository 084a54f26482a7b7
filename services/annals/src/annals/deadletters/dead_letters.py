"""The dead letters of one service, kept in the state store, so that every replica knows what is parked.

One key holds the index; the details of each letter have a key of their own. The index is changed by
first-write: of two concurrent changes, one is refused and tried again. It is written as a whole, in one
transaction with the details that change.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, StateConflict, StateValue, Write
from annals.dapr.parts import parts
from annals.deadletters import letter as letters
from annals.deadletters.index import Index, TooManyParked, UnknownLetter
from annals.deadletters.letter import DeadLetter, Detail, Kind, Status
from annals.events import RecordedEvent, StreamId
from annals.telemetry import metrics
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_REFRESH_SECONDS = 0.5
_STALE_SECONDS = 2.0  # after which a copy of the index is too old to go by
SETTLED_SECONDS = 2 * _STALE_SECONDS
"""After this time every replica knows of a change, or has stopped handling events."""

_ATTEMPTS = 20  # of a change, while others change the index at the same time
_AT_ONCE = 100
"""Letters changed in one transaction."""
_BYTES_AT_ONCE = 4_000_000
"""Bytes of the index and of the details of several letters in one transaction."""


Revise = Callable[[Detail], Detail]


class DeadLettersUnknown(Exception):
    """The dead letters cannot be read or changed now, or their stored value is damaged."""


class DeadLettersDamaged(DeadLettersUnknown):
    """A stored value of the dead letters cannot be decoded; the text names its key."""


class DeadLetters:
    """The dead letters of one service. `run` must be running.

    Methods that write raise DaprError and DeadLettersUnknown.
    """

    def __init__(self, sidecar: DaprSidecar, store: str, service: str) -> None:
        self._sidecar = sidecar
        self._store = store
        self._prefix = f"dead-letters/{service}"
        self._index = Index()
        self._read_at = float("-inf")
        self._changing = asyncio.Lock()
        self._changes = 0
        metrics.DEAD_LETTERS.set_function(lambda: len(self._index.parked))

    async def run(self) -> None:
        """Refresh this replica's copy of the index at intervals, until cancelled."""
        said = Said()
        while True:
            try:
                await self.refresh()
                said.is_over()
            except (DaprError, DeadLettersUnknown) as error:
                if said.is_news(error):
                    _log.warning("the dead letters cannot be read now", error=str(error))
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read the index. Raises DaprError and DeadLettersUnknown."""
        while True:
            began, changes = time.monotonic(), self._changes
            value = await self._sidecar.get(self._store, self._prefix)
            if changes == self._changes:
                break
            # The value may be older than a change made here meanwhile: with it, an event could overtake the
            # parked one that it must wait for.
        if began >= self._read_at:
            self._index = _decoded(self._prefix, value, Index.decode)
            self._read_at = began

    def require_fresh(self, consumer: str, generation: int = 0) -> None:
        """Raise DeadLettersUnknown if the index is too old a copy, TooManyParked if the consumer has to stop.

        Released letters do not count here: the consumer that asks is the one that will handle them again.
        """
        if time.monotonic() - self._read_at > _STALE_SECONDS:
            raise DeadLettersUnknown("the dead letters have not been read for too long")
        self._index.require_few(consumer, generation)

    def find(self, consumer: str, stream: StreamId, generation: int = 0) -> DeadLetter | None:
        """Return the letter behind which a stream's events wait, as far as this replica knows, or None."""
        if not self._index.parked:
            return None
        return self._index.parked.get(letters.sequence_id(consumer, stream, generation))

    def corrected(self, consumer: str, event: RecordedEvent) -> RecordedEvent | None:
        """Return the event as the consumer must handle it; None if an operator discarded it."""
        return self._index.corrected(consumer, event)

    async def park(self, letter: DeadLetter, detail: Detail) -> None:
        """Park a letter. Raises TooManyParked.

        A sequence that is parked already stays at its first event that failed, and the attempts add up. A
        released sequence is parked again at the event that fails now. An unreadable message that arrives
        again keeps the text that operators gave it, and stays released if it is.
        """
        known: DeadLetter | None = None

        def change(index: Index) -> None:
            nonlocal known
            known = index.park(letter)

        def revise(before: Detail) -> Detail:
            raw = detail.raw if known is None else before.raw
            return replace(detail, raw=raw, history=before.history)

        log = _log.bind(
            dead_letter=letter.id,
            consumer=letter.consumer,
            tenant=letter.tenant,
            stream=letter.stream,
            version=letter.version,
            group=letter.group,  # not the reason, which may quote what people wrote
            trace_id=letter.trace_id,
        )
        try:
            await self._change(change, {letter: revise})
        except TooManyParked:
            log.warning("an event or message failed, and there is no room to park it")
            raise
        log.error("parked")
        metrics.PARKED.labels(letter.consumer).inc()

    async def park_again(self, letter: DeadLetter, reason: str) -> None:
        """Park a released letter that still cannot be handled, unless it was released again meanwhile."""
        await self._change(lambda index: index.park_again(letter, reason))

    def parked(self, tenant: str) -> list[DeadLetter]:
        """Return a tenant's letters that are parked or released, oldest first."""
        return [one for one in self._index.parked.values() if one.tenant == tenant]

    def tenants(self) -> dict[str, int]:
        """Return how many letters each tenant has that are parked or released, the largest number first."""
        return dict(Counter(one.tenant for one in self._index.parked.values()).most_common())

    def released(self) -> list[DeadLetter]:
        """Return the letters that are to be handled again."""
        return [one for one in self._index.parked.values() if one.status is Status.RELEASED]

    async def known(self, tenant: str, letter_id: str) -> DeadLetter:
        """Return one letter, parked or done. Raises UnknownLetter."""
        await self.refresh()
        letter = self._index.parked.get(letter_id) or self._index.finished.get(letter_id)
        if letter is None or letter.tenant != tenant:
            raise UnknownLetter(f"there is no dead letter {letter_id}")
        return letter

    async def get(self, tenant: str, letter_id: str) -> tuple[DeadLetter, Detail]:
        """Return one letter, parked or done, with its detail. Raises UnknownLetter."""
        letter, key = await self.known(tenant, letter_id), self._key(letter_id)
        return letter, _detail(key, await self._sidecar.get(self._store, key))

    async def correct(
        self, letter: DeadLetter, data: dict[str, Any] | None, who: str | None, reason: str
    ) -> None:
        """Give the consumer other data for the event that failed, or with None make it skip the event.

        The event itself does not change. The correction also applies each time that the consumer handles the
        event later, as when its read model is built anew. Raises TooMuchEdited if there is no room for the
        correction, and MovedOn if the sequence waits at another event by now than that of `letter`.
        """
        what = "discarded" if data is None else "edited"
        entry = letters.action(what, who, reason, version=letter.version, data=data)
        await self._change(lambda index: index.correct(letter, data), {letter: partial(_noted, entry)})

    async def rewrite(self, letter: DeadLetter, raw: str, who: str | None, reason: str) -> None:
        """Replace the text of an unreadable message."""

        def revise(detail: Detail) -> Detail:
            entry = letters.action("edited", who, reason, before=detail.raw)
            return replace(_noted(entry, detail), raw=raw)

        await self._change(lambda index: index.require(letter.id), {letter: revise})

    async def release(self, found: Sequence[DeadLetter], who: str | None, reason: str | None) -> int:
        """Release letters, to be handled again from their first events on; return how many still existed."""
        entry = letters.action("replayed", who, reason)
        released = 0
        for start in range(0, len(found), _AT_ONCE):
            await self.refresh()
            ids = {one.id for one in found[start : start + _AT_ONCE]} & self._index.parked.keys()
            by_key = {self._key(one): self._index.parked[one] for one in ids}
            values = await self._sidecar.get_certain(self._store, list(by_key))
            noted = {one: _noted(entry, _to_revise(one, key, values.get(key))) for key, one in by_key.items()}
            sizes = {one: len(_encoded(detail)) for one, detail in noted.items()}
            room = _BYTES_AT_ONCE - len(self._index.encode())
            for part in parts(sizes, sizes.__getitem__, room):
                await self._release({one.id for one in part}, dict.fromkeys(part, partial(_noted, entry)))
            released += len(ids)
        return released

    async def discard(self, letter: DeadLetter, who: str | None, reason: str) -> None:
        """Mark an unreadable message as done without its being read. Raises UnknownLetter."""

        def change(index: Index) -> None:
            index.require(letter.id)
            index.finish(letter)

        await self._change(change, {letter: partial(_noted, letters.action("discarded", who, reason))})

    async def done(self, letter: DeadLetter) -> None:
        """Mark a letter as done: its sequence was handled to the end, or its text was read."""
        await self._change(lambda index: index.finish(letter))

    async def close_generation(self, read_model: str, generation: int) -> None:
        """Mark all letters of a read model's generation as done, because its table is gone."""
        await self._change(lambda index: index.close_generation(read_model, generation))

    def parked_in(self, read_model: str, generation: int) -> int:
        """Return how many sequences of all tenants are parked, and not released, in one generation."""
        found = self._index.of(read_model, generation)
        return sum(one.status is Status.PARKED for one in found)

    def generations(self) -> set[tuple[str, int]]:
        """Return the read models' generations for which letters are parked or released."""
        return {(one.consumer, one.generation) for one in self._index.parked.values() if one.generation}

    async def _release(self, ids: Set[str], revisions: Mapping[DeadLetter, Revise]) -> None:
        at = time.time()
        await self._change(lambda index: index.release(ids, at), revisions)

    def _key(self, letter_id: str) -> str:
        return f"{self._prefix}/{letter_id}"

    async def _change(
        self,
        change: Callable[[Index], object],
        revisions: Mapping[DeadLetter, Revise] = MappingProxyType({}),
    ) -> None:
        """Change the index and the details of some letters, in one transaction."""
        async with self._changing:
            await self._change_alone(change, revisions)

    async def _change_alone(
        self, change: Callable[[Index], object], revisions: Mapping[DeadLetter, Revise]
    ) -> None:
        by_key = {self._key(one.id): (one, revise) for one, revise in revisions.items()}
        for _ in range(_ATTEMPTS):
            began = time.monotonic()
            value = await self._sidecar.get(self._store, self._prefix)
            index = _decoded(self._prefix, value, Index.decode)
            change(index)
            # Read the details after the index: a concurrent change of a detail also changes the index, and so
            # makes the store refuse this transaction.
            details = await self._sidecar.get_certain(self._store, list(by_key))
            writes = [
                Write.replacing(self._prefix, index.encode(), value),
                *(
                    Write(key, _encoded(revise(_to_revise(one, key, details.get(key)))))
                    for key, (one, revise) in by_key.items()
                ),
            ]
            try:
                await self._sidecar.transact(self._store, writes)
            except StateConflict:
                continue
            self._index, self._read_at = index, max(self._read_at, began)
            self._changes += 1
            return
        raise DeadLettersUnknown("the dead letters are being changed by too many requests at once")


def _encoded(detail: Detail) -> bytes:
    return orjson.dumps(asdict(detail))


def _detail(key: str, value: StateValue | None) -> Detail:
    return _decoded(key, value, lambda data: Detail(**orjson.loads(data)) if data else Detail())


def _to_revise(letter: DeadLetter, key: str, value: StateValue | None) -> Detail:
    """Return a letter's detail before a change. Raises DeadLettersDamaged if a message's text is damaged."""
    try:
        return _detail(key, value)
    except DeadLettersDamaged as error:
        if letter.kind is Kind.RAW:
            raise
        # Begin an event's detail anew, since it only describes the event. The id of a sequence never changes:
        # otherwise all later letters of the stream would wait for a repair too.
        _log.error("the details of a dead letter are damaged, and begin anew", error=str(error))
        return Detail()


def _decoded(key: str, value: StateValue | None, decode: Callable[[bytes | None], T]) -> T:
    """Return the decoded value of a key. Raises DeadLettersDamaged."""
    try:
        return decode(value.data if value else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeadLettersDamaged(f"{key} cannot be decoded: {error!r}") from error


def _noted(entry: dict[str, Any], detail: Detail) -> Detail:
    return replace(detail, history=[*detail.history, entry])
