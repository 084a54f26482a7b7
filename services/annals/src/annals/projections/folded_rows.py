"""Folds events into rows in memory and writes the rows together, for a generation filled from the store.

However many events of a stream come between two writes, its row is written once. Harder cases are left to an
`Applier`, which reads the store: a gap, an event that the projection fails on, and a row that the database
refuses or that another replica has moved.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from annals.dapr import Database, StatementRefused, StatementTooLarge
from annals.deadletters import DeadLetters
from annals.events import RecordedEvent, StreamId
from annals.projections.applier import Applier, change_row, changed, is_parked, versions
from annals.projections.changes import Change
from annals.projections.statement import apply_statement
from annals.projections.tables import Generation
from annals.store import EventReader

_MOST_ROWS = 10_000
_STATEMENT_ROWS = 500
_LEFT_AT_ONCE = 200  # streams in one batch of the applier, which also reads what they lack from the store
_STATEMENTS = 3  # at the same time: rows are encoded while the database writes others
_KNOWN_VERSIONS = 100_000


@dataclass(slots=True)
class _Row:
    """The one change that the events of a stream after version `prior` and up to `last` make."""

    prior: int
    last: RecordedEvent
    change: Change


class FoldedRows:
    """The folded rows of one generation. Discard the object after an error."""

    def __init__(
        self,
        database: Database,
        store: EventReader,
        generation: Generation,
        dead_letters: DeadLetters,
    ) -> None:
        self._database = database
        self._generation = generation
        self._dead_letters = dead_letters
        self._applier = Applier(database, store, lambda: [generation], dead_letters)
        self._statement = apply_statement([generation], indexed=False)
        self._rows: dict[StreamId, _Row] = {}
        self._left: dict[StreamId, RecordedEvent] = {}
        self._versions: OrderedDict[StreamId, int] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether as many rows are held as may be, so that they must be written."""
        return len(self._rows) + len(self._left) >= _MOST_ROWS

    async def take(self, events: Sequence[RecordedEvent]) -> None:
        """Fold events. Raises DatabaseError, DeadLettersUnknown and TooManyParked."""
        self._dead_letters.require_fresh(self._generation.projection.table.name, self._generation.number)
        await self._learn({event.stream for event in events})
        for event in events:
            self._fold(event)

    async def write(self) -> None:
        """Write all that was folded. Raises what `Applier.apply` raises."""
        rows, self._rows = list(self._rows.items()), {}
        parts = [rows[start : start + _STATEMENT_ROWS] for start in range(0, len(rows), _STATEMENT_ROWS)]
        gate = asyncio.Semaphore(_STATEMENTS)

        async def in_turn(part: Sequence[tuple[StreamId, _Row]]) -> None:
            async with gate:
                await self._write(part)

        await asyncio.gather(*map(in_turn, parts))
        left, self._left = self._left, {}
        if left:
            for stream in left:
                self._versions.pop(stream, None)
            events = list(left.values())
            for start in range(0, len(events), _LEFT_AT_ONCE):
                await self._applier.apply(events[start : start + _LEFT_AT_ONCE])
        while len(self._versions) > _KNOWN_VERSIONS:
            self._versions.popitem(last=False)

    async def _learn(self, streams: Iterable[StreamId]) -> None:
        unknown = [one for one in streams if one not in self._rows and one not in self._versions]
        if unknown:
            self._versions.update(await versions(self._database, self._generation, unknown))

    def _fold(self, event: RecordedEvent) -> None:
        stream = event.stream
        row = self._rows.get(stream)
        at = self._versions[stream] if row is None else row.last.version
        if event.version <= at or is_parked(self._dead_letters, self._generation, stream):
            return
        if event.version > at + 1:
            self._leave(stream, event)
            return
        before = None if row is None else row.change
        try:
            change = changed(self._generation.projection, before, event, self._dead_letters)
        except Exception:  # noqa: BLE001 - a projection may fail in any way; the applier meets it again
            self._leave(stream, event)
            return
        if row is None:
            self._rows[stream] = _Row(at, event, change)
        else:
            row.last, row.change = event, change

    def _leave(self, stream: StreamId, event: RecordedEvent) -> None:
        """Leave a stream to the applier, up to the latest event that is left."""
        left = self._left.get(stream)
        if left is None or left.version < event.version:
            self._left[stream] = event

    async def _write(self, part: Sequence[tuple[StreamId, _Row]]) -> None:
        given = [change_row(row.last, row.change, row.last.version, row.prior) for _, row in part]
        try:
            advanced = await self._database.fetch(self._statement, orjson.dumps(given).decode())
        except StatementRefused as refused:
            if isinstance(refused, StatementTooLarge) and len(part) > 1:
                half = len(part) // 2
                await self._write(part[:half])
                await self._write(part[half:])
                return
            advanced = []
        moved = {StreamId.named(tenant, stream) for _, tenant, stream in advanced}
        for stream, row in part:
            if stream in moved:
                self._versions[stream] = row.last.version
                self._versions.move_to_end(stream)
            else:
                self._leave(stream, row.last)
