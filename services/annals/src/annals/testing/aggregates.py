"""Aggregates as given / when / then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import orjson
from pydantic import BaseModel

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation, decided
from annals.events import EventData, portable

A = TypeVar("A", bound=Aggregate)
E = TypeVar("E", bound=EventData)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Given(Generic[A]):
    """An aggregate after some events; see `given`."""

    state: A
    decided: tuple[EventData, ...] = ()
    refused: RuleViolation | NotFound | None = None

    def when(self, decide: Callable[[A], EventData | Iterable[EventData]]) -> Given[A]:
        """Let it decide something.

        Also where nothing happened to it: whether a command may find that is for its handler to say
        (`creates`), which is not asked here.
        """
        try:
            events = decided(decide(self.state))
        except (RuleViolation, NotFound) as error:
            return Given(self.state, refused=error)
        state = self.state
        for event in events:
            state = happened(state, event)
        return Given(state, events)

    def then(self, *events: EventData) -> Self:
        """It decided these events."""
        if self.refused is not None:
            raise AssertionError(f"it was refused: {self.refused}")
        if self.decided != events:
            raise AssertionError(f"it decided {self.decided}, not {events}")
        return self

    def then_refused(self, rule: str) -> None:
        """A rule refused it, or `not_found` for an aggregate that is not there."""
        found = self.refused.rule if isinstance(self.refused, RuleViolation) else None
        if isinstance(self.refused, NotFound):
            found = "not_found"
        if found != rule:
            raise AssertionError(f"expected {rule}, it was {found or 'not refused'}")


def given(aggregate: type[A], *events: EventData) -> Given[A]:
    """An aggregate to which events happened: `given(Task, created).when(…).then(…)`.

    Raises AssertionError for an event, or a state, that the store would not give back.
    """
    state = aggregate()
    for event in events:
        state = happened(state, event)
    return Given(state)


def happened(state: A, event: EventData) -> A:
    """The state after an event, both as the store gives them back. Raises AssertionError where it cannot."""
    state = state.apply(stored(event))
    try:
        return _read_back(state)
    except (ValueError, orjson.JSONEncodeError) as error:
        what = f"the state of {type(state).__name__} after {event.event_type}"
        raise AssertionError(f"{what} cannot be stored and read again: {error}") from error


def stored(event: E) -> E:
    """An event as the store gives it back. Raises AssertionError where it cannot."""
    try:
        portable(event.model_dump(mode="json"))
        return _read_back(event)
    except (ValueError, orjson.JSONEncodeError) as error:
        raise AssertionError(f"{event.event_type} cannot be stored and read again: {error}") from error


def _read_back(model: M) -> M:
    return type(model).model_validate(orjson.loads(orjson.dumps(model.model_dump(mode="json"))))
