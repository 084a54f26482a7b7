"""The answers of the `/projections` routes."""

from __future__ import annotations

from typing import Any, Literal

from annals.projections import GenerationStatus
from annals.web.answers import Answer


class Commits(Answer):
    """How many of the store's commits a generation has been filled with."""

    done: int
    total: int


class GenerationNow(Answer):
    """A generation of a read model, which is a table of its own."""

    number: int
    version: int
    """The version of the projection that fills it."""
    status: GenerationStatus
    reason: str
    """Why it was built."""
    throttle: int | None
    """The most events a second that building it may apply; null without a limit."""
    started_at: str
    caught_up: bool
    commits: Commits | None
    """Null for the live generation, which is filled from published events."""


class Definition(Answer):
    """The definition of a read model in the running code."""

    aggregate_type: str
    columns: dict[str, str]
    """Column names to SQL types."""
    indexes: list[str]
    events: list[str]
    """The types of the events that change its rows."""


class ReadModelNow(Answer):
    """A read model and its generations."""

    name: str
    version: int | None
    """The newest version in the running code; null if this code does not have the read model."""
    definition: Definition | None
    parked: int
    """How many of the tenant's streams wait behind a dead letter of the read model."""
    generations: list[GenerationNow]


class LaneNow(Answer):
    """How far the read models have applied a lane of the store."""

    lane: int
    seq: int
    tail: int


class ReadModelsNow(Answer):
    """All read models, and how far they are behind the store."""

    items: list[ReadModelNow]
    lag: int
    """Commits in the store, counted in each lane from the first that the read models lack."""
    positions: list[LaneNow]


class Begun(Answer):
    """The generation that is being built."""

    read_model: str
    number: int


class Status(Answer):
    """The status of a generation after the change."""

    status: GenerationStatus


class Dropped(Answer):
    """The number of the generation that was dropped."""

    dropped: int


class Live(Answer):
    """The number of the generation that now answers queries."""

    live: int


class Column(Answer):
    """The values of two generations in a column."""

    old: Any
    new: Any


class DifferingRow(Answer):
    """A row that differs between two generations."""

    id: str
    kind: Literal["only_old", "only_new", "differs", "on_its_way"]
    columns: dict[str, Column]


class Difference(Answer):
    """How the live generation (old) and another (new) differ: counts over all tenants, rows of one tenant."""

    old_rows: int
    new_rows: int
    only_old: int
    only_new: int
    differing: int
    on_their_way: int
    """Rows at different versions, because one of the two generations has not applied all events yet."""
    parked: int
    """Parked sequences in either generation; their rows stay behind until the dead letters are dealt with."""
    samples: list[DifferingRow]
