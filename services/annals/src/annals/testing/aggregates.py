"""Given / when / then tests for aggregates.

Every event and every state is written as JSON and read back, as the store does. A test therefore fails on
what production could not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import orjson
from pydantic import BaseModel

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation, decided
from annals.events import EventData, require_portable

A = TypeVar("A", bound=Aggregate)
E = TypeVar("E", bound=EventData)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Given(Generic[A]):
    """The state of an aggregate after some events, and its last decision; see `given`."""

    state: A
    decided: tuple[EventData, ...] = ()
    refused: RuleViolation | NotFound | None = None

    def when(self, decide: Callable[[A], EventData | Iterable[EventData]]) -> Given[A]:
        """Call `decide` with the state, and apply the events that it returns or keep its refusal.

        An aggregate without events decides too. Whether a command may meet one is up to the command's
        handler (`creates`), which is not checked here.
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
        """Assert that the last decision was exactly these events, in this order."""
        if self.refused is not None:
            raise AssertionError(f"the decision was refused: {self.refused}")
        if self.decided != events:
            raise AssertionError(f"the aggregate decided {self.decided}, not {events}")
        return self

    def then_refused(self, rule: str) -> None:
        """Assert that `rule` refused the last decision; `not_found` stands for a `NotFound`."""
        found = self.refused.rule if isinstance(self.refused, RuleViolation) else None
        if isinstance(self.refused, NotFound):
            found = "not_found"
        if found != rule:
            raise AssertionError(f"expected a refusal by {rule}, got {found or 'none'}")


def given(aggregate: type[A], *events: EventData) -> Given[A]:
    """Return an aggregate to which `events` happened: `given(Task, created).when(…).then(…)`.

    Raises AssertionError if an event, or the state after it, cannot be stored and read again.
    """
    state = aggregate()
    for event in events:
        state = happened(state, event)
    return Given(state)


def happened(state: A, event: EventData) -> A:
    """Return the state after `event`, both as the store would return them.

    Raises AssertionError if one of them cannot be stored and read again.
    """
    state = state.apply(stored(event))
    try:
        return _read_back(state)
    except (ValueError, orjson.JSONEncodeError) as error:
        what = f"the state of {type(state).__name__} after {event.event_type}"
        raise AssertionError(f"{what} cannot be stored and read again: {error}") from error


def stored(event: E) -> E:
    """Return `event` as the store would. Raises AssertionError if it cannot be stored and read again."""
    try:
        require_portable(event.model_dump(mode="json"))
        return _read_back(event)
    except (ValueError, orjson.JSONEncodeError) as error:
        raise AssertionError(f"{event.event_type} cannot be stored and read again: {error}") from error


def _read_back(model: M) -> M:
    return type(model).model_validate(orjson.loads(orjson.dumps(model.model_dump(mode="json"))))
