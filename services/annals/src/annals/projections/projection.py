"""What a projection is: a table, and for each event it wants a function to a change of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from annals.events import RecordedEvent
from annals.projections.changes import Change, Delete, Patch, Put, Row, fold


@dataclass(frozen=True, slots=True)
class Table:
    """A read model's table. Its primary key is `(tenant, id)`, and a row belongs to one stream.

    A column in `maps` holds a JSON object, of which a patch changes the members it names.
    """

    name: str
    columns: tuple[str, ...]
    maps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Projection:
    """Events of one aggregate type, to rows.

    `changes` takes the event to what it changes; every row also keeps its stream's `version` and
    the time it last changed, which the library sees to. Other events of the type only advance those.
    """

    table: Table
    aggregate_type: str
    changes: Mapping[str, Callable[[RecordedEvent], Change]]

    def change(self, event: RecordedEvent) -> Change:
        """What an event of the aggregate type changes."""
        moved = {"version": event.version, "updated_at": event.timestamp.isoformat()}
        to_change = self.changes.get(event.event_type)
        match to_change(event) if to_change else Patch({}):
            case Put(row):
                created = {
                    "tenant": event.tenant_id,
                    "id": event.aggregate_id,
                    "created_at": event.timestamp.isoformat(),
                }
                return Put({**row, **created, **moved})
            case Patch(row):
                return Patch({**row, **moved})
            case Delete() as delete:
                return delete

    def fold(self, events: Iterable[RecordedEvent]) -> Row | None:
        """The row after a stream's events; None where there is none."""
        return fold((self.change(event) for event in events), self.table.maps)
