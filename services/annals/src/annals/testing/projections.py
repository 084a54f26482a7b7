"""Given / when / then tests for projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from annals.events import RecordedEvent
from annals.projections.changes import Patch, Put, Row
from annals.projections.projection import Projection
from annals.projections.tables import columns

Happened = tuple[str, dict[str, Any]]
"""An event's type and its data."""

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Projected:
    """A projection, and the events of the one stream that it is tested with; see `projected`."""

    projection: Projection
    events: tuple[RecordedEvent, ...] = ()

    def when(self, *happened: Happened, event_version: str = "1.0") -> Self:
        """Add events to the stream, one second apart. The id of its aggregate is `one`."""
        events = self.events
        for event_type, data in happened:
            version = len(events) + 1
            event = RecordedEvent(
                event_type=event_type,
                event_version=event_version,
                source="test",
                aggregate_type=self.projection.aggregate_type,
                aggregate_id="one",
                data=data,
                timestamp=_BEGINNING + timedelta(seconds=version),
                version=version,
                lane=0,
                seq=version,
            )
            events = (*events, event)
        return replace(self, events=events)

    def then(self, **columns: Any) -> Self:
        """Assert that the row has these values; columns that are not named may hold anything."""
        row = self._row()
        if row is None:
            raise AssertionError("there is no row")
        found = {name: row.get(name) for name in columns}
        if found != columns:
            raise AssertionError(f"the row has {found}, not {columns}")
        return self

    def then_no_row(self) -> Self:
        """Assert that there is no row, or that it has been deleted."""
        if (row := self._row()) is not None:
            raise AssertionError(f"there is a row: {row}")
        return self

    def _row(self) -> Row | None:
        """Return the folded row. Raises AssertionError for a column that the table does not have.

        The database ignores such a column, because an older release may meet changes of a newer one.
        """
        table = self.projection.table
        for event in self.events:
            match self.projection.change(event):
                case Put(row) | Patch(row) if unknown := sorted(row.keys() - columns(table).keys()):
                    raise AssertionError(
                        f"{event.event_type} changes {', '.join(unknown)}; {table.name} has no such column"
                    )
        return self.projection.fold(self.events)


def projected(projection: Projection, *happened: Happened, event_version: str = "1.0") -> Projected:
    """Return a projection of events: `projected(MEMBERS, registered).when(reserved).then(reserved=1)`.

    `event_version` is the version of these events. A projection gets events as they were stored, not upcast.
    """
    return Projected(projection).when(*happened, event_version=event_version)
