"""Aggregates as given / when / then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation
from annals.events import EventData

A = TypeVar("A", bound=Aggregate)


@dataclass(frozen=True, slots=True)
class Given(Generic[A]):
    """An aggregate after some events; see `given`."""

    state: A
    decided: tuple[EventData, ...] = ()
    refused: RuleViolation | NotFound | None = None

    def when(self, decide: Callable[[A], EventData | Iterable[EventData]]) -> Given[A]:
        """Let it decide something."""
        try:
            decision = decide(self.state)
        except (RuleViolation, NotFound) as error:
            return Given(self.state, refused=error)
        events = (decision,) if isinstance(decision, EventData) else tuple(decision)
        state = self.state
        for event in events:
            state = state.apply(event)
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
    """An aggregate to which events happened: `given(Task, created).when(…).then(…)`."""
    state = aggregate()
    for event in events:
        state = state.apply(event)
    return Given(state)
