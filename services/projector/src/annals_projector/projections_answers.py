"""What operators are told of read models."""

from __future__ import annotations

from typing import Any, Literal

from annals.projections import GenerationStatus
from annals.web.answers import Answer


class Commits(Answer):
    """How far a table is that is filled from the store."""

    done: int
    total: int


class GenerationNow(Answer):
    """A generation of a read model: a table of its own."""

    number: int
    version: int
    """Of the code that defines it."""
    status: GenerationStatus
    reason: str
    """Why it is built."""
    throttle: int | None
    """Events a second at most."""
    started_at: str
    caught_up: bool
    commits: Commits | None
    """Null for the live one, which is filled from what is published."""


class Definition(Answer):
    """What the code makes of a read model."""

    aggregate_type: str
    columns: dict[str, str]
    """Names to SQL types."""
    indexes: list[str]
    events: list[str]
    """The types that it is made of."""


class ReadModelNow(Answer):
    """A read model, and its generations."""

    name: str
    version: int | None
    """Of the code; null for one that this code does not know."""
    definition: Definition | None
    parked: int
    """How many of the tenant's streams wait behind a dead letter."""
    generations: list[GenerationNow]


class LaneNow(Answer):
    """How far the read models are in a lane of the store."""

    lane: int
    seq: int
    tail: int


class ReadModelsNow(Answer):
    """All read models."""

    items: list[ReadModelNow]
    lag: int
    """How many commits are in no read model yet."""
    positions: list[LaneNow]


class Begun(Answer):
    """The generation that is being built."""

    read_model: str
    number: int


class Status(Answer):
    """Where a generation stands now."""

    status: GenerationStatus


class Dropped(Answer):
    """The number of the generation that is gone."""

    dropped: int


class Live(Answer):
    """The number of the generation that answers."""

    live: int


class Column(Answer):
    """What two generations have in a column."""

    old: Any
    new: Any


class DifferingRow(Answer):
    """A row that differs."""

    id: str
    kind: Literal["only_old", "only_new", "differs", "on_its_way"]
    columns: dict[str, Column]


class Difference(Answer):
    """What differs between the live generation and another: counts of all tenants, rows of one."""

    old_rows: int
    new_rows: int
    only_old: int
    only_new: int
    differing: int
    on_their_way: int
    """Rows of which one of the two has not seen all that it is going to."""
    parked: int
    """Sequences that are parked in one of the two: what waits there is on its way to nowhere."""
    samples: list[DifferingRow]
