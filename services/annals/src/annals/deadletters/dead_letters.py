"""The dead letters of one service, in the state store: every replica knows what is parked.

An index key holds all that is parked and what operators corrected, bounded; each letter's details have
a key of their own. Changes are first-write on the index: of two that change it at once, one looks again.
The index is written whole, with the details that change, in one message, and a sidecar takes 4 MiB: only so
many letters are taken in that there is room for whatever is done to them later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, StateConflict, StateValue, Write
from annals.dapr.parts import parts
from annals.deadletters import letter as letters
from annals.deadletters.letter import DeadLetter, Detail, Kind, Status
from annals.events import RecordedEvent, StreamId
from annals.telemetry import metrics

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_REFRESH_SECONDS = 0.5
_STALE_SECONDS = 2.0
SETTLED_SECONDS = 2 * _STALE_SECONDS
"""After this every replica knows of a change, or has stopped."""

_MAX_PARKED = 1_000
_MOST_PARKED = 4 * _MAX_PARKED
"""Of all together."""
_MOST_BYTES = 2_000_000
"""Of the letters, when one more is taken in: what is done to those there makes them little larger."""
_MOST_EDITED = 1_000_000
"""Of the index, the data that operators wrote: it stays there for ever."""
_MOST_DISCARDED = 500_000
"""Of the index, what they discarded: beyond it there would come to be no room for what fails."""
_MAX_DONE = 200
_ATTEMPTS = 20
_AT_ONCE = 100
"""Letters that are changed in one transaction."""
_BYTES_AT_ONCE = 4_000_000
"""What the index and the details of several take in it."""


Revise = Callable[[Detail], Detail]


class TooManyParked(Exception):
    """So many of a consumer are parked that it is not single messages that are wrong: it stops."""


class TooMuchEdited(Exception):
    """What operators corrected takes as much as there is room for."""


class MovedOn(Exception):
    """A sequence waits at another event than the one that was looked at."""

    def __init__(self, letter_id: str, expected: int, actual: int) -> None:
        super().__init__(f"{letter_id} waits at version {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class UnknownLetter(Exception):
    """There is no such dead letter, or not any more."""


class DeadLettersUnknown(Exception):
    """What is parked cannot be read now, or was damaged."""


@dataclass(slots=True)
class _Index:
    parked: dict[str, DeadLetter] = field(default_factory=dict)
    done: dict[str, DeadLetter] = field(default_factory=dict)
    corrections: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: int = 0
    """Bytes of the letters, as they were read."""

    @classmethod
    def decode(cls, data: bytes | None) -> _Index:
        if data is None:
            return cls()
        value = orjson.loads(data)
        corrections = value["corrections"]
        return cls(
            {one["id"]: _letter(one) for one in value["parked"]},
            {one["id"]: _letter(one) for one in value["done"]},
            # Older releases keep here, too, who corrected it and why.
            {place: {"data": one["data"]} for place, one in corrections.items()},
            len(data) - len(orjson.dumps(corrections)),
        )

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "parked": [asdict(one) for one in self.parked.values()],
                "done": [asdict(one) for one in list(self.done.values())[-_MAX_DONE:]],
                "corrections": self.corrections,
            }
        )


class DeadLetters:
    """See the module. `run` must be running; methods that write raise DaprError and DeadLettersUnknown."""

    def __init__(self, sidecar: DaprSidecar, store: str, service: str) -> None:
        self._sidecar = sidecar
        self._store = store
        self._prefix = f"dead-letters/{service}"
        self._index = _Index()
        self._read_at = float("-inf")
        self._changing = asyncio.Lock()
        self._changes = 0
        metrics.DEAD_LETTERS.set_function(lambda: len(self._index.parked))

    async def run(self) -> None:
        """Keep what is known of the parked fresh, for ever."""
        while True:
            try:
                await self.refresh()
            except (DaprError, DeadLettersUnknown) as error:
                _log.warning("the dead letters cannot be read now", error=str(error))
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read what is parked. Raises DaprError and DeadLettersUnknown."""
        while True:
            began, changes = time.monotonic(), self._changes
            value = await self._sidecar.get(self._store, self._prefix)
            if changes == self._changes:
                break
            # It may have been read before what was changed here: an event would go past the one it waits for.
        if began >= self._read_at:
            self._index = _decoded(self._prefix, value, _Index.decode)
            self._read_at = began

    def require_fresh(self, consumer: str, generation: int = 0) -> None:
        """Raises DeadLettersUnknown when what is known is too old to go by, TooManyParked of the consumer.

        What is released stops nobody: it is to be handled again, by who asks here first.
        """
        if time.monotonic() - self._read_at > _STALE_SECONDS:
            raise DeadLettersUnknown("what is parked is not known now")
        waiting = [one for one in self._index.parked.values() if one.status is Status.PARKED]
        _require_few(waiting, consumer, generation)

    def find(self, consumer: str, stream: StreamId, generation: int = 0) -> DeadLetter | None:
        """The letter behind which a stream's events wait, as far as this replica knows."""
        if not self._index.parked:
            return None
        return self._index.parked.get(letters.sequence_id(consumer, stream, generation))

    def corrected(self, consumer: str, event: RecordedEvent) -> RecordedEvent | None:
        """The event as it is to be handled; None when it is to be passed over."""
        if self._index.corrections:
            correction = self._index.corrections.get(_place(consumer, event.stream, event.version))
            if correction is not None:
                return letters.corrected(event, correction)
        return event

    async def park(self, letter: DeadLetter, detail: Detail) -> None:
        """Park. What is parked already stays at its first failure, with one attempt more.

        A released sequence that fails again is parked again, where it fails now. A text that comes again
        stays as operators made it, and released if it is. Raises TooManyParked.
        """
        known: DeadLetter | None = None

        def change(index: _Index) -> None:
            nonlocal known
            known = index.parked.get(letter.id)
            if known is None:
                # What is released counts here: it may fail again, and is not one more then.
                _require_few(index.parked.values(), letter.consumer, letter.generation)
                if index.size >= _MOST_BYTES:
                    raise TooManyParked(
                        f"what is parked takes {index.size} bytes: something general is wrong"
                    )
                index.parked[letter.id] = letter
            elif letter.kind is Kind.EVENT and (
                known.status is Status.RELEASED or letter.version < known.version
            ):
                reason = _short(letter.reason, known, index)
                attempts = letter.attempts + known.attempts
                index.parked[letter.id] = replace(letter, reason=reason, attempts=attempts)
            else:
                index.parked[letter.id] = replace(known, attempts=known.attempts + letter.attempts)

        def revise(before: Detail) -> Detail:
            raw = detail.raw if known is None else before.raw
            return replace(detail, raw=raw, history=before.history)

        log = _log.bind(
            dead_letter=letter.id,
            consumer=letter.consumer,
            tenant=letter.tenant,
            stream=letter.stream,
            version=letter.version,
            reason=letter.reason,
            trace_id=letter.trace_id,
        )
        try:
            await self._change(change, {letter: revise})
        except TooManyParked:
            log.warning("failed, and is not parked: there is no room")
            raise
        log.error("parked")
        metrics.PARKED.labels(letter.consumer).inc()

    async def park_again(self, letter: DeadLetter, reason: str) -> None:
        """Park what was released and cannot be handled yet, unless it was released anew meanwhile."""

        def change(index: _Index) -> None:
            known = _require(index, letter.id)
            if known.released_at != letter.released_at:
                return
            short = _short(reason, known, index)
            index.parked[letter.id] = replace(
                known, status=Status.PARKED, reason=short, attempts=known.attempts + 1
            )

        await self._change(change)

    def parked(self, tenant: str) -> list[DeadLetter]:
        """What is parked, oldest first."""
        return [one for one in self._index.parked.values() if one.tenant == tenant]

    def tenants(self) -> dict[str, int]:
        """Whose letters are parked, and how many, the most first."""
        return dict(Counter(one.tenant for one in self._index.parked.values()).most_common())

    def released(self) -> list[DeadLetter]:
        """The letters that are to be handled again."""
        return [one for one in self._index.parked.values() if one.status is Status.RELEASED]

    async def known(self, tenant: str, letter_id: str) -> DeadLetter:
        """One letter, parked or done. Raises UnknownLetter."""
        await self.refresh()
        letter = self._index.parked.get(letter_id) or self._index.done.get(letter_id)
        if letter is None or letter.tenant != tenant:
            raise UnknownLetter(f"there is no dead letter {letter_id}")
        return letter

    async def get(self, tenant: str, letter_id: str) -> tuple[DeadLetter, Detail]:
        """One letter, parked or done, with its detail. Raises UnknownLetter."""
        letter, key = await self.known(tenant, letter_id), self._key(letter_id)
        return letter, _detail(key, await self._sidecar.get(self._store, key))

    async def correct(
        self, letter: DeadLetter, data: dict[str, Any] | None, who: str | None, reason: str
    ) -> None:
        """Have the consumer see other data in the event that failed; None: have it pass the event over.

        The event itself stays what it is. The correction holds for every later time as well, also
        when the read model is built anew. Raises TooMuchEdited, of what takes more room than there is;
        what is discarded takes little. Raises MovedOn where it is another event by now than that of `letter`.
        """
        what = "discarded" if data is None else "edited"
        entry = letters.action(what, who, reason, version=letter.version, data=data)
        stream = letter.sequence

        def change(index: _Index) -> None:
            known = _require(index, letter.id)
            if known.version != letter.version:
                raise MovedOn(letter.id, letter.version, known.version)
            place = _place(letter.consumer, stream, letter.version)
            index.corrections[place] = {"data": data}  # who and why is in the history
            _require_room(index.corrections, editing=data is not None)

        await self._change(change, {letter: partial(_noted, entry)})

    async def rewrite(self, letter: DeadLetter, raw: str, who: str | None, reason: str) -> None:
        """Replace the text of what could not be read."""

        def revise(detail: Detail) -> Detail:
            entry = letters.action("edited", who, reason, before=detail.raw)
            return replace(_noted(entry, detail), raw=raw)

        await self._change(lambda index: _require(index, letter.id), {letter: revise})

    async def release(self, found: Sequence[DeadLetter], who: str | None, reason: str | None) -> int:
        """Have parked sequences handled again, from their first events on; how many are still parked."""
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
                revise = partial(_noted, entry)
                change = partial(_release, {one.id for one in part}, time.time())
                await self._change(change, dict.fromkeys(part, revise))
            released += len(ids)
        return released

    async def done(self, letter: DeadLetter, who: str | None = None, reason: str | None = None) -> None:
        """A released sequence was handled to its end, or a text was discarded."""
        revisions: dict[DeadLetter, Revise] = {}
        if who is not None or reason is not None:
            revisions[letter] = partial(_noted, letters.action("discarded", who, reason))

        def change(index: _Index) -> None:
            known = index.parked.get(letter.id)
            if known is None or (letter.kind is Kind.EVENT and known != letter):
                return  # it failed again meanwhile
            del index.parked[letter.id]
            index.done[letter.id] = replace(known, status=Status.DONE)

        await self._change(change, revisions)

    async def end(self, read_model: str, generation: int) -> None:
        """Nothing waits for a table that is gone."""

        def change(index: _Index) -> None:
            for one in _of(index.parked.values(), read_model, generation):
                del index.parked[one.id]
                index.done[one.id] = replace(one, status=Status.DONE)

        await self._change(change)

    def parked_in(self, read_model: str, generation: int) -> int:
        """How many sequences wait in a table, of all tenants, until an operator has a look."""
        found = _of(self._index.parked.values(), read_model, generation)
        return sum(one.status is Status.PARKED for one in found)

    def generations(self) -> set[tuple[str, int]]:
        """The read models' generations that something waits for."""
        return {(one.consumer, one.generation) for one in self._index.parked.values() if one.generation}

    def _key(self, letter_id: str) -> str:
        return f"{self._prefix}/{letter_id}"

    async def _change(
        self,
        change: Callable[[_Index], object],
        revisions: Mapping[DeadLetter, Revise] = MappingProxyType({}),
    ) -> None:
        """Change the index and, with it, the details of some letters."""
        async with self._changing:
            await self._change_alone(change, revisions)

    async def _change_alone(
        self, change: Callable[[_Index], object], revisions: Mapping[DeadLetter, Revise]
    ) -> None:
        by_key = {self._key(one.id): (one, revise) for one, revise in revisions.items()}
        for _ in range(_ATTEMPTS):
            began = time.monotonic()
            value = await self._sidecar.get(self._store, self._prefix)
            index = _decoded(self._prefix, value, _Index.decode)
            change(index)
            # After the index: whoever changes a detail changes that too, and then this is refused.
            details = await self._sidecar.get_certain(self._store, list(by_key))
            writes = [
                Write.over(self._prefix, index.encode(), value),
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
        raise DeadLettersUnknown("the dead letters are being changed by many at once")


def _encoded(detail: Detail) -> bytes:
    return orjson.dumps(asdict(detail))


def _detail(key: str, value: StateValue | None) -> Detail:
    return _decoded(key, value, lambda data: Detail(**orjson.loads(data)) if data else Detail())


def _to_revise(letter: DeadLetter, key: str, value: StateValue | None) -> Detail:
    """A letter's detail, which is to be changed. Raises DeadLettersUnknown where a text was damaged."""
    try:
        return _detail(key, value)
    except DeadLettersUnknown as error:
        if letter.kind is Kind.RAW:
            raise
        # It only tells of an event, whose id is its sequence's for ever: others would wait for the telling.
        _log.error("what was known of a dead letter was damaged, and begins anew", error=str(error))
        return Detail()


def _decoded(key: str, value: StateValue | None, decode: Callable[[bytes | None], T]) -> T:
    """What a key holds. Raises DeadLettersUnknown, which names one that was damaged."""
    try:
        return decode(value.data if value else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeadLettersUnknown(f"{key} cannot be decoded: {error!r}") from error


def _noted(entry: dict[str, Any], detail: Detail) -> Detail:
    return replace(detail, history=[*detail.history, entry])


def _release(ids: Set[str], at: float, index: _Index) -> None:
    for one in ids & index.parked.keys():
        index.parked[one] = replace(index.parked[one], status=Status.RELEASED, released_at=at)


def _of(found: Collection[DeadLetter], consumer: str, generation: int) -> list[DeadLetter]:
    return [one for one in found if (one.consumer, one.generation) == (consumer, generation)]


def _require_few(found: Collection[DeadLetter], consumer: str, generation: int) -> None:
    if len(found) >= _MOST_PARKED:
        raise TooManyParked(f"{_MOST_PARKED} sequences are parked in all: something general is wrong")
    if len(found) >= _MAX_PARKED and len(_of(found, consumer, generation)) >= _MAX_PARKED:
        name = f"{consumer}, generation {generation}" if generation else consumer
        raise TooManyParked(f"{_MAX_PARKED} sequences of {name} are parked: something general is wrong")


def _require_room(corrections: Mapping[str, Mapping[str, Any]], *, editing: bool) -> None:
    alike = {place: one for place, one in corrections.items() if (one["data"] is not None) == editing}
    size = len(orjson.dumps(alike))
    if editing and size > _MOST_EDITED:
        raise TooMuchEdited(
            f"all that was edited takes {size} bytes with it, of {_MOST_EDITED}: "
            "mend what fails on the event, or discard it"
        )
    if not editing and size > _MOST_DISCARDED:
        raise TooMuchEdited(
            f"all that was discarded takes {size} bytes with it, of {_MOST_DISCARDED}: "
            "mend what fails on the event by a release, which may pass it over"
        )


def _short(reason: str, known: DeadLetter, index: _Index) -> str:
    """The reason of what failed again: where there is no room, no longer than before."""
    short = reason[: letters.REASON_LENGTH]
    if index.size < _MOST_BYTES:
        return short
    return short.encode()[: len(known.reason.encode())].decode(errors="ignore")


def _require(index: _Index, letter_id: str) -> DeadLetter:
    known = index.parked.get(letter_id)
    if known is None:
        raise UnknownLetter(f"{letter_id} is not parked any more")
    return known


def _place(consumer: str, stream: StreamId, version: int) -> str:
    return f"{consumer}/{stream.tenant}/{stream.name}/{version}"


def _letter(value: dict[str, Any]) -> DeadLetter:
    return DeadLetter(**value | {"kind": Kind(value["kind"]), "status": Status(value["status"])})
