"""What an aggregate is: a state that decides commands and is folded from events. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from annals.events import EventData


class RuleViolation(Exception):
    """A command that a rule of the domain refuses; `rule` names it for programs."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class NotFound(Exception):
    """The aggregate that a command is for does not exist, or does not any more."""


class Command(BaseModel):
    """Base of the commands: what a caller may say, validated. `command_type` is its public name."""

    # An error is logged, and what was said may be personal.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    command_type: ClassVar[str]


class Aggregate(BaseModel):
    """Base of the states. A new aggregate is the class with its defaults, at version 0.

    `state_schema` is counted up when the fields change their meaning: states stored under an older
    number are not read, their events are folded again.
    """

    # By name, too, because it is stored by name.
    model_config = ConfigDict(frozen=True, populate_by_name=True, hide_input_in_errors=True)

    aggregate_type: ClassVar[str]
    state_schema: ClassVar[int] = 1

    def apply(self, event: EventData) -> Self:
        """The state after an event. It never refuses: what happened, happened."""
        raise NotImplementedError


def decided(decision: EventData | Iterable[EventData]) -> tuple[EventData, ...]:
    """The events of a decision. Raises TypeError where there is none: nothing could be stored or repeated."""
    events = (decision,) if isinstance(decision, EventData) else tuple(decision)
    if not events:
        raise TypeError("a decision is at least one event, or a RuleViolation")
    return events
