"""Changes of rows, and what several of them come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Put:
    """The row is this, whatever it was; columns that are not named are null."""

    row: Row


@dataclass(frozen=True, slots=True)
class Patch:
    """These columns of the row change; no row, no change."""

    row: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """The row is gone."""


Change = Put | Patch | Delete


def merge(first: Change, then: Change, maps: Sequence[str] = ()) -> Change:
    """The one change that two in a row come to; see `Table` for `maps`."""
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
    """The row that changes leave behind, from none."""
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
