"""Declarations of projections: a table, and functions that turn events into changes of its rows. Pure."""

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
_OF_THE_LIBRARY = ("build_progress", "event_index", "generations", "lane_checkpoints", "migrations")
"""The other tables of the schema."""

# PostgreSQL folds unquoted names to lower case, and truncates names of more than 63 bytes.
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_LONGEST = 63
_LONGEST_TABLE = 48
"""Characters of a table's name; leaves room for the numbers of a generation and of an index behind it."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The table of a read model, which the library creates; a row belongs to one stream, `(tenant, id)`.

    `columns` maps names to SQL types; every row also has `version`, `created_at` and `updated_at`. Each of
    `indexes` is what follows `CREATE INDEX ON table`. A column in `maps` is of type jsonb and holds a JSON
    object, of which a patch changes only the members it names. Raises ValueError for an invalid declaration.
    """

    name: str
    columns: Mapping[str, str]
    indexes: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A tuple of one without its comma is a string, which would be read letter by letter.
        if any(isinstance(given, str) for given in (self.indexes, self.maps)):
            raise ValueError(
                f"the table {self.name} takes its indexes and its maps as tuples, not as one text"
            )
        for name, most in ((self.name, _LONGEST_TABLE), *((name, _LONGEST) for name in self.columns)):
            if len(name) > most or not _NAME.fullmatch(name):
                what = f"not a name of at most {most} small letters, digits and _"
                raise ValueError(f"the table {self.name}: {name!r} is {what}")
        if self.name in _OF_THE_LIBRARY:
            raise ValueError(f"the table {self.name} has the name of a table of the library")
        if kept := sorted(self.columns.keys() & {*KEPT, *STAMPS, *_HIDDEN}):
            raise ValueError(
                f"the table {self.name} must not declare columns that every table has: {', '.join(kept)}"
            )
        if unknown := sorted(set(self.maps) - self.columns.keys()):
            raise ValueError(f"the table {self.name} has no columns for its maps: {', '.join(unknown)}")
        # `||` merges objects of jsonb only. One statement fills all tables, so it would fail for all of them.
        if other := sorted(name for name in self.maps if self.columns[name].strip().lower() != "jsonb"):
            raise ValueError(f"the table {self.name} has maps that are not of type jsonb: {', '.join(other)}")


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A projection: turns the events of one aggregate type into the rows of a table.

    `changes` maps an event type to the function that returns the change of the row. The library also keeps
    the stream's `version` and the time of the last change in each row; event types without a function only
    advance these two. If its rows come out differently than before, give the projection a higher `version`:
    the table is then built anew beside the one in use. Raises ValueError for types that no event can have.
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
        """Return the change that an event of the aggregate type makes. Raises whatever its function raises.

        Raises TypeError for a change that no row can be made of. If only the statement found it, it would
        fail for all streams of the batch, or damage the row.
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
        """Return the row that a stream's events leave, or None if they leave no row."""
        version, stream_id = 0, ""

        def changes() -> Iterable[Change]:
            nonlocal version, stream_id
            for event in events:
                version, stream_id = event.version, event.aggregate_id
                yield self.change(event)

        row = fold(changes(), self.table.maps)
        return None if row is None else {**row, "id": stream_id, "version": version}

    def _require_row(self, row: Row, *, patched: bool = False) -> None:
        """Raises TypeError for a row that is not JSON, or without an object in a column of `maps`."""
        # As deep as in the statement's parameter, so that the encoder's limit on nesting is met here.
        orjson.dumps([{"row": row}])
        for name in self.table.maps:
            if name in row and not (isinstance(row[name], dict) or (row[name] is None and not patched)):
                raise TypeError(f"the column {name} takes an object, not {type(row[name]).__name__}")
