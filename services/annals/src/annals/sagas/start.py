"""The input of a saga's workflow, and what the saga's declaration says about it. Pure.

`annals.sagas.engine` runs a workflow from this input. `annals.sagas.orchestrator` makes the input, and asks
the declaration without running anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from annals.events import EventData
from annals.sagas.asker import NOBODY, Asker
from annals.sagas.declaration import AwaitEvent, Saga, SagaContext, StartSaga, StartSagas, Step
from annals.sagas.events import SagaStarted
from annals.sagas.state import SagaState, SagaStatus

# The characters that the id of a saga or of a Dapr workflow may not have.
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

# In characters. With the id of an event, they stay within the 100 that the API takes in the id of a saga.
_TYPE_SHOWN = 63


def entry(event: EventData, at: str | None = None) -> dict[str, Any]:
    """Return a transition as JSON, for an activity to record. It happened at `at`, or when it is recorded."""
    return {"type": event.event_type, "data": event.model_dump(mode="json"), "at": at}


def beginning(started: SagaStarted, asker: Asker = NOBODY) -> dict[str, Any]:
    """Return the entry of a saga's first transition. It says who asked, whoever records it."""
    return entry(started, started.started_at.isoformat()) | {"asker": asker.to_json()}


def start_of(saga_id: str, tenant: str, state: SagaState, asker: Asker = NOBODY) -> dict[str, Any]:
    """Return the input of a saga's workflow; see `annals.sagas.engine.run`. `asker` asks for the workflow."""
    given: dict[str, Any] = {
        "id": saga_id,
        "tenant": tenant,
        "user": state.user,
        "correlation_id": state.correlation_id,
        "type": state.saga_type,
        "version": state.saga_version,
        "input": state.input,
        "started": state.started_at.isoformat() if state.started_at else None,
        "results": state.results,
    }
    if state.run == 0:
        return given | {"begun": beginning(state.as_started(), asker)}
    given |= {"run": state.run, "steps": list(state.steps)}
    if state.status is SagaStatus.COMPENSATING:
        return given | {"undo": state.to_undo(), "reason": state.reason or "tried again"}
    return given | {
        "known": {name: step.model_dump(mode="json") for name, step in state.steps.items() if step.phase},
        "undo_order": state.undo_order,
        "raised": [one.model_dump(mode="json") for one in state.raised],
        "cancel": state.cancel_reason,
    }


def triggered_id(saga_type: str, event_id: str) -> str:
    """Return the id of the saga that an event starts. It is always the same."""
    return _UNFIT.sub("-", f"{saga_type[:_TYPE_SHOWN]}-{event_id}")


def child_id(parent: str, step: str, index: int) -> str:
    """Return the id of the saga that a step starts for its input number `index`. It is always the same."""
    return str(uuid5(NAMESPACE_URL, f"annals:saga:{parent}/{step}/{index}"))


def children(saga: Saga[Any], step: Step, start: Mapping[str, Any]) -> list[str]:
    """Return the ids of all sagas that a step starts, whether they have begun or not."""
    match step.action:
        case StartSaga():
            count = 1
        case StartSagas():
            count = len(step.action.inputs(context_of(saga, start)))
        case _:
            count = 0
    return [child_id(start["id"], step.name, index) for index in range(count)]


def waits(saga: Saga[Any]) -> dict[str, tuple[str, ...]]:
    """Return the steps that wait, each with the events that it waits for."""
    return {step.name: step.action.names for step in saga.flat() if isinstance(step.action, AwaitEvent)}


def answerer(saga: Saga[Any], event: str, start: Mapping[str, Any]) -> str | None:
    """Return the only user who may raise an event, or None if anybody may. Raises what `by` raises."""
    for step in saga.flat():
        wait = step.action
        if isinstance(wait, AwaitEvent) and wait.by and event in wait.names:
            user: str | None = wait.by(context_of(saga, start))
            return user
    return None


def begun_with(start: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the steps that the saga began with; None if a workflow of an earlier release does not say."""
    begun = start.get("begun", {}).get("data", {})
    steps: Sequence[str] | None = start.get("steps", begun.get("steps"))
    return steps


def context_of(saga: Saga[Any], start: Mapping[str, Any]) -> SagaContext[Any]:
    """Return the context that the functions of a saga's declaration are called with."""
    return SagaContext(
        start["id"],
        start["tenant"],
        start.get("user"),
        saga.input.model_validate(start["input"]),
        dict(start.get("results") or {}),
        datetime.fromisoformat(start["started"]),
    )
