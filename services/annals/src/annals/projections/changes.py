"""Changes of rows, and how to merge and fold them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Put:
    """Replaces the row, whatever it was; columns that are not named become null."""

    row: Row


@dataclass(frozen=True, slots=True)
class Patch:
    """Changes these columns of the row; without a row it changes nothing."""

    row: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes the row."""


Change = Put | Patch | Delete


def merge(first: Change, then: Change, maps: Sequence[str] = ()) -> Change:
    """Return the one change that does what `first` and `then` do together; see `Table` for `maps`."""
    match first, then:
        case _, Put() | Delete():
            return then
        case Delete(), Patch():
            return first
        case Put(), Patch():
            return Put(_patched(first.row, then.row, maps))
        case Patch(), Patch():
            return Patch(_patched(first.row, then.row, maps))
    raise AssertionError("every pair of changes is named above")


def fold(changes: Iterable[Change], maps: Sequence[str] = ()) -> Row | None:
    """Return the row that changes leave when they begin without one."""
    row: Row | None = None
    for change in changes:
        match change:
            case Put():
                row = change.row
            case Patch():
                row = None if row is None else _patched(row, change.row, maps)
            case Delete():
                row = None
    return row


def _patched(row: Row, patch: Row, maps: Sequence[str]) -> Row:
    members = {name: {**(row.get(name) or {}), **patch[name]} for name in maps if name in patch}
    return {**row, **patch, **members}
