"""What a projection is: a table, and for each event it wants a function to a change of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from annals.events import RecordedEvent, require_aggregate_type, require_event_type
from annals.projections.changes import Change, Delete, Patch, Put, Row, fold

KEPT = {"tenant": "text", "id": "text", "version": "bigint"}
STAMPS = {"created_at": "timestamptz", "updated_at": "timestamptz"}
_HIDDEN = ("prior", "deleted")

# PostgreSQL makes small letters of large ones, and cuts off what is longer than 63 of them.
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_LONGEST = 63
_LONGEST_TABLE = 48
"""Behind it stand the numbers of a generation and of an index."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A read model's table, which the library makes: a row belongs to one stream, `(tenant, id)`.

    `columns` takes a name to an SQL type; every row also has `version`, `created_at` and `updated_at`.
    `indexes` are what stands behind `CREATE INDEX ON table`. A column in `maps` holds a JSON object, of
    which a patch changes the members it names: its type is jsonb. Raises ValueError for what cannot be.
    """

    name: str
    columns: Mapping[str, str]
    indexes: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A comma that was forgotten: a text would be taken letter by letter.
        if any(isinstance(given, str) for given in (self.indexes, self.maps)):
            raise ValueError(f"the table {self.name} takes a tuple of indexes, and one of maps, and no text")
        for name, most in ((self.name, _LONGEST_TABLE), *((name, _LONGEST) for name in self.columns)):
            if len(name) > most or not _NAME.fullmatch(name):
                what = f"no name of at most {most} small letters, digits and _"
                raise ValueError(f"the table {self.name}: {name!r} is {what}")
        if kept := sorted(self.columns.keys() & {*KEPT, *STAMPS, *_HIDDEN}):
            raise ValueError(f"the table {self.name} has these columns anyway: {', '.join(kept)}")
        if unknown := sorted(set(self.maps) - self.columns.keys()):
            raise ValueError(f"the table {self.name} has no columns for its maps: {', '.join(unknown)}")
        # Two values of another type are not put together; one statement fills all tables, and would fail.
        if other := sorted(name for name in self.maps if self.columns[name].strip().lower() != "jsonb"):
            raise ValueError(f"the table {self.name} has maps that are no jsonb: {', '.join(other)}")


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Events of one aggregate type, to rows.

    `changes` takes the event to what it changes; every row also keeps its stream's `version` and
    the time it last changed, which the library sees to. Other events of the type only advance those.
    A projection whose rows come out otherwise than before has a higher `version`: its table is then
    built anew beside the one that is in use. Raises ValueError for types that no event has.
    """

    table: Table
    aggregate_type: str
    changes: Mapping[str, Callable[[RecordedEvent], Change]]
    version: int = 1

    def __post_init__(self) -> None:
        require_aggregate_type(self.aggregate_type)
        for event_type in self.changes:
            require_event_type(event_type)

    def change(self, event: RecordedEvent) -> Change:
        """What an event of the aggregate type changes. Raises what its function raises.

        Raises TypeError for what no row can be made of: found out later, with the rows of others, it would
        fail for all of them, or spoil what the row has.
        """
        moved = {"updated_at": event.timestamp.isoformat()}
        to_change = self.changes.get(event.event_type)
        if to_change is None:
            return Patch(moved)
        match to_change(event):
            case Put(row):
                self._require_row(row)
                return Put({**row, "created_at": event.timestamp.isoformat(), **moved})
            case Patch(row):
                self._require_row(row, patched=True)
                return Patch({**row, **moved})
            case Delete() as delete:
                return delete
            case other:
                raise TypeError(f"a projection gives a Put, a Patch or a Delete, not {other!r}")

    def fold(self, events: Iterable[RecordedEvent]) -> Row | None:
        """The row after a stream's events; None where there is none."""
        version, stream_id = 0, ""

        def changes() -> Iterable[Change]:
            nonlocal version, stream_id
            for event in events:
                version, stream_id = event.version, event.aggregate_id
                yield self.change(event)

        row = fold(changes(), self.table.maps)
        return None if row is None else {**row, "id": stream_id, "version": version}

    def _require_row(self, row: Row, *, patched: bool = False) -> None:
        """Raises TypeError, also for what is nested too deep for a statement: two levels deeper there."""
        orjson.dumps([{"row": row}])
        for name in self.table.maps:
            if name in row and not (isinstance(row[name], dict) or (row[name] is None and not patched)):
                raise TypeError(f"the column {name} takes an object, not {type(row[name]).__name__}")
