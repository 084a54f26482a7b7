"""Base classes of commands and aggregates. An aggregate is a state that is folded from events. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from annals.events import EventData


class RuleViolation(Exception):
    """A rule of the domain refuses a command. `rule` is the name of the rule, for programs."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class NotFound(Exception):
    """The aggregate that a command is for does not exist, or no longer exists."""


class Command(BaseModel):
    """Base class of commands: the validated data that a caller sends. `command_type` is the public name."""

    # Validation errors are logged, and the input may be personal data.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    command_type: ClassVar[str]


class Aggregate(BaseModel):
    """Base class of aggregates. A new aggregate is the class with its defaults, at version 0.

    Increase `state_schema` whenever the fields change their meaning: a state stored under another number, or
    without one of the fields, is not read, and its events are folded again.
    """

    # States are stored by field name, so a field with an alias must be accepted by its name, too.
    model_config = ConfigDict(frozen=True, populate_by_name=True, hide_input_in_errors=True)

    aggregate_type: ClassVar[str]
    state_schema: ClassVar[int] = 1

    def apply(self, event: EventData) -> Self:
        """Return the state after an event. It never refuses an event: what happened, happened."""
        raise NotImplementedError


def decided(decision: EventData | Iterable[EventData]) -> tuple[EventData, ...]:
    """Return the events of a decision. Raises TypeError for none: nothing could be stored, nor repeated."""
    events = (decision,) if isinstance(decision, EventData) else tuple(decision)
    if not events:
        raise TypeError("a decision is at least one event, or a RuleViolation")
    return events
