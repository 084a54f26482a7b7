"""The index of a service's dead letters: what is parked, what is done, and the operators' corrections. Pure.

It is stored as a whole, in one message to the sidecar, which accepts 4 MiB. So only as many letters are
accepted as leave room for what is done to them later.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from annals.deadletters import letter as letters
from annals.deadletters.letter import DeadLetter, Kind, Status
from annals.events import RecordedEvent, StreamId

_MAX_PARKED = 1_000
"""Parked sequences of one consumer, or of one generation of a read model."""
_MOST_PARKED = 4 * _MAX_PARKED
"""Parked sequences of all consumers together."""
_MOST_BYTES = 2_000_000
"""Bytes of the letters up to which another one is accepted. Later changes make them only a little larger."""
_MOST_EDITED = 1_000_000
"""Bytes of corrections in which operators edited data. They stay in the index permanently."""
_MOST_DISCARDED = 500_000
"""Bytes of corrections in which operators discarded events. More would leave no room for new letters."""
_MAX_DONE = 200  # letters that are kept in the index after they are done


class TooManyParked(Exception):
    """So many sequences are parked that something general must be wrong: the consumer stops."""


class TooMuchEdited(Exception):
    """A correction does not fit any more: operators' corrections take as much room as there is for them."""


class MovedOn(Exception):
    """A sequence waits at another event by now than the one that the operator looked at."""

    def __init__(self, letter_id: str, expected: int, actual: int) -> None:
        super().__init__(f"{letter_id} waits at version {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class UnknownLetter(Exception):
    """There is no such dead letter, or there no longer is."""


@dataclass(slots=True)
class Index:
    """The letters by their ids, oldest first, and the corrections by the places of their events."""

    parked: dict[str, DeadLetter] = field(default_factory=dict)
    """The letters that are parked or released."""
    finished: dict[str, DeadLetter] = field(default_factory=dict)
    corrections: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: int = 0
    """Bytes of the letters when the index was read."""

    @classmethod
    def decode(cls, data: bytes | None) -> Index:
        """Return the stored index; an empty one if there is none."""
        if data is None:
            return cls()
        value = orjson.loads(data)
        corrections = value["corrections"]
        return cls(
            {one["id"]: _letter(one) for one in value["parked"]},
            {one["id"]: _letter(one) for one in value["done"]},
            # Older releases also stored here who made the correction and why.
            {place: {"data": one["data"]} for place, one in corrections.items()},
            len(data) - len(orjson.dumps(corrections)),
        )

    def encode(self) -> bytes:
        """Return the index as it is stored, with the newest of the letters that are done."""
        return orjson.dumps(
            {
                "parked": [asdict(one) for one in self.parked.values()],
                "done": [asdict(one) for one in list(self.finished.values())[-_MAX_DONE:]],
                "corrections": self.corrections,
            }
        )

    def require(self, letter_id: str) -> DeadLetter:
        """Return a letter that is parked or released. Raises UnknownLetter."""
        known = self.parked.get(letter_id)
        if known is None:
            raise UnknownLetter(f"{letter_id} is not parked any more")
        return known

    def require_few(self, consumer: str, generation: int) -> None:
        """Raise TooManyParked if so many sequences are parked that the consumer has to stop.

        Released letters do not count: the consumer that asks is the one that will handle them again.
        """
        waiting = [one for one in self.parked.values() if one.status is Status.PARKED]
        _require_few(waiting, consumer, generation)

    def corrected(self, consumer: str, event: RecordedEvent) -> RecordedEvent | None:
        """Return the event as the consumer must handle it; None if an operator discarded it."""
        if self.corrections:
            correction = self.corrections.get(_place(consumer, event.stream, event.version))
            if correction is not None:
                return letters.corrected(event, correction)
        return event

    def of(self, consumer: str, generation: int) -> list[DeadLetter]:
        """Return the letters of one generation that are parked or released."""
        return _of(self.parked.values(), consumer, generation)

    def park(self, letter: DeadLetter) -> DeadLetter | None:
        """Park a letter; see `DeadLetters.park`. Return what was known of it. Raises TooManyParked."""
        known = self.parked.get(letter.id)
        if known is None:
            # Released letters count here: one that fails again is parked without this check.
            _require_few(self.parked.values(), letter.consumer, letter.generation)
            if self.size >= _MOST_BYTES:
                raise TooManyParked(f"the dead letters take {self.size} bytes: something general is wrong")
            self.parked[letter.id] = letter
            return None
        attempts = known.attempts + letter.attempts
        fails_anew = known.status is Status.RELEASED or letter.version < known.version
        if letter.kind is Kind.EVENT and fails_anew:
            reason = self._short(letter.reason, known)
            self.parked[letter.id] = replace(letter, reason=reason, attempts=attempts)
        else:
            self.parked[letter.id] = replace(known, attempts=attempts)
        return known

    def park_again(self, letter: DeadLetter, reason: str) -> None:
        """Park a released letter again, unless it was released once more meanwhile. Raises UnknownLetter."""
        known = self.require(letter.id)
        if known.released_at != letter.released_at:
            return
        short = self._short(reason, known)
        self.parked[letter.id] = replace(
            known, status=Status.PARKED, reason=short, attempts=known.attempts + 1
        )

    def correct(self, letter: DeadLetter, data: dict[str, Any] | None) -> None:
        """Correct the event of a letter; see `DeadLetters.correct`.

        Raises UnknownLetter, MovedOn and TooMuchEdited.
        """
        known = self.require(letter.id)
        if known.version != letter.version:
            raise MovedOn(letter.id, letter.version, known.version)
        # Who made the correction, and why, is in the letter's history.
        self.corrections[_place(letter.consumer, letter.sequence, letter.version)] = {"data": data}
        alike = {p: one for p, one in self.corrections.items() if (one["data"] is None) == (data is None)}
        size = len(orjson.dumps(alike))
        if data is not None and size > _MOST_EDITED:
            raise TooMuchEdited(
                f"with this edit, the edited data takes {size} bytes, and at most {_MOST_EDITED} are kept: "
                "fix the consumer that fails on the event, or discard the event"
            )
        if data is None and size > _MOST_DISCARDED:
            raise TooMuchEdited(
                f"with this event, the discarded ones take {size} bytes, and at most {_MOST_DISCARDED} are "
                "kept: release a version of the consumer that handles the event or skips it"
            )

    def release(self, ids: Set[str], at: float) -> None:
        """Release those of the letters that are still there."""
        for one in ids & self.parked.keys():
            self.parked[one] = replace(self.parked[one], status=Status.RELEASED, released_at=at)

    def finish(self, letter: DeadLetter) -> None:
        """Mark a letter as done, unless it is done already, or its event failed again meanwhile."""
        known = self.parked.get(letter.id)
        if known is None or (letter.kind is Kind.EVENT and known != letter):
            return
        del self.parked[letter.id]
        self.finished[letter.id] = replace(known, status=Status.DONE)

    def close_generation(self, read_model: str, generation: int) -> None:
        """Mark all letters of a read model's generation as done."""
        for one in self.of(read_model, generation):
            self.finish(one)

    def _short(self, reason: str, known: DeadLetter) -> str:
        """Return the reason of a repeated failure, no longer than the one before if there is no room."""
        short = reason[: letters.REASON_LENGTH]
        if self.size < _MOST_BYTES:
            return short
        return short.encode()[: len(known.reason.encode())].decode(errors="ignore")


def _of(found: Collection[DeadLetter], consumer: str, generation: int) -> list[DeadLetter]:
    return [one for one in found if (one.consumer, one.generation) == (consumer, generation)]


def _require_few(found: Collection[DeadLetter], consumer: str, generation: int) -> None:
    if len(found) >= _MOST_PARKED:
        raise TooManyParked(f"{_MOST_PARKED} sequences are parked in all: something general is wrong")
    if len(found) >= _MAX_PARKED and len(_of(found, consumer, generation)) >= _MAX_PARKED:
        name = f"{consumer}, generation {generation}" if generation else consumer
        raise TooManyParked(f"{_MAX_PARKED} sequences of {name} are parked: something general is wrong")


def _place(consumer: str, stream: StreamId, version: int) -> str:
    return f"{consumer}/{stream.tenant}/{stream.name}/{version}"


def _letter(value: dict[str, Any]) -> DeadLetter:
    return DeadLetter(**value | {"kind": Kind(value["kind"]), "status": Status(value["status"])})
