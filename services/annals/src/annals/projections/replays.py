"""Replays the parked sequences of read models that operators have released, in the order of their events."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import structlog

from annals.dapr import DaprError, Database, DatabaseError, StatementRefused
from annals.deadletters import (
    SETTLED_SECONDS,
    DeadLetter,
    DeadLetters,
    DeadLettersUnknown,
    Kind,
    TooManyParked,
)
from annals.projections.applier import Applier, ProjectionStalled, changed
from annals.projections.changes import Change, Put
from annals.projections.generations import Generations, GenerationStatus, Outdated
from annals.store import EventReader, StoreError
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_EVERY_SECONDS = 0.5
_NOT_NOW = (DatabaseError, StoreError, DaprError, ProjectionStalled, DeadLettersUnknown, Outdated)
_TRY = "SELECT to_json(jsonb_populate_record(NULL::readmodels.{table}, $1::text::jsonb))::text"


class Replays:
    """Replays released sequences. Every replica does so: to apply a sequence twice changes nothing more."""

    def __init__(
        self,
        database: Database,
        store: EventReader,
        applier: Applier,
        generations: Generations,
        dead_letters: DeadLetters,
    ) -> None:
        self._database = database
        self._store = store
        self._applier = applier
        self._generations = generations
        self._dead_letters = dead_letters
        self._said = Said()

    async def run(self) -> None:
        """Replay until cancelled; a sequence that cannot be replayed now is tried again the next time."""
        while True:
            try:
                await self._end_gone()
                self._said.is_over()
            except (DatabaseError, DaprError, DeadLettersUnknown) as error:
                if self._said.is_news(error):
                    _log.warning("the dead letters of a dropped table cannot be ended now", error=str(error))
            for letter in self._dead_letters.released():
                if letter.kind is not Kind.EVENT:
                    continue
                what = {"tenant": letter.tenant, "dead_letter": letter.id}
                try:
                    await self._replay(letter)
                    self._said.is_over(letter.id)
                except _NOT_NOW as error:
                    if self._said.is_news(error, letter.id):
                        _log.warning("a dead letter cannot be replayed now", **what, error=str(error))
                except TooManyParked as error:
                    if self._said.is_news(error, letter.id):
                        why = "a dead letter is not replayed until others are settled"
                        _log.error(why, **what, error=str(error))
            await asyncio.sleep(_EVERY_SECONDS)

    async def _end_gone(self) -> None:
        """End the dead letters of tables that were dropped."""
        unknown = [one for one in self._dead_letters.generations() if self._generations.find(*one) is None]
        if unknown:
            # A letter may belong to a table that was made after the catalogue was read.
            await self._generations.refresh()
        for read_model, number in unknown:
            if self._generations.find(read_model, number) is None:
                _log.info(
                    "the dead letters of a dropped table are ended", read_model=read_model, generation=number
                )
                await self._dead_letters.close_generation(read_model, number)

    async def _replay(self, letter: DeadLetter) -> None:
        known = self._generations.find(letter.consumer, letter.generation)
        if known is None:
            await self._dead_letters.done(letter)  # its table is gone
            return
        generation = self._generations.generation(known)
        if generation is None:
            return  # a replica that can fill it replays what is parked there
        # To apply the newest event applies all before it that the table lacks. A replica that does not know
        # yet that the sequence is released may skip an event that comes meanwhile. So a replay only ends
        # the letter if it began once every replica knew.
        settled = time.time() - letter.released_at > SETTLED_SECONDS
        applier = self._applier
        if known.status is not GenerationStatus.LIVE:
            applier = Applier(self._database, self._store, lambda: [generation], self._dead_letters)
        async for event in self._store.read_stream(letter.sequence, backwards=True, limit=1):
            await applier.apply([event])
        if settled:
            await self._dead_letters.done(letter)

    async def dry_run(self, letter: DeadLetter) -> dict[str, Any]:
        """Return what a replay would lead to: the row, or where it fails again. Changes nothing."""
        if letter.kind is Kind.RAW:
            return {"would": "read", "note": "the text would be read again as a message"}
        known = self._generations.find(letter.consumer, letter.generation)
        if known is None:
            return {"would": "end", "note": "the letter's table has been dropped"}
        generation = self._generations.generation(known)
        if generation is None:
            return {"would": "wait", "note": f"this replica does not fill the table: {known.unfilled}"}
        change: Change | None = None
        events = 0
        async for event in self._store.read_stream(letter.sequence):
            try:
                change = changed(generation.projection, change, event, self._dead_letters)
            except Exception as error:  # noqa: BLE001 - a projection may fail in any way
                reason = f"{type(error).__name__}: {error}"
                return {"would": "fail", "version": event.version, "reason": reason}
            events += event.version >= letter.version
        if not isinstance(change, Put):
            return {"would": "apply", "events": events, "row": None}
        tried = _TRY.format(table=generation.name)
        try:
            await self._database.fetch(tried, orjson.dumps(change.row).decode())
        except StatementRefused:
            return {"would": "fail", "reason": "the database does not take the row", "row": change.row}
        return {"would": "apply", "events": events, "row": change.row}
