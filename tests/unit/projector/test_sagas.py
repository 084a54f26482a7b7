"""What a saga waits for, as queries show it."""

from __future__ import annotations

from typing import Any

import orjson

from annals.testing import projected
from annals_projector.queries.sagas import _public
from annals_projector.read_models.sagas import SAGAS

Event = tuple[str, dict[str, Any]]

STARTED: Event = (
    "saga.started",
    {
        **dict.fromkeys(("business_key", "parent", "user", "correlation_id")),
        "saga_type": "t",
        "saga_version": 1,
        "input": {},
        "steps": ["v", "w"],
    },
)


def waiting(step: str) -> Event:
    return "saga.waiting", {"step": step, "events": [f"yes-{step}"], "deadline": "2030-01-02T00:00:00Z"}


def answered(step: str) -> Event:
    return "saga.resumed", {"step": step, "event": f"yes-{step}", "refused": False}


def row(*events: Event) -> dict[str, Any]:
    folded = SAGAS.fold(projected(SAGAS, STARTED, *events).events)
    kept: dict[str, Any] = orjson.loads(orjson.dumps(folded))
    return kept


def test_it_waits_for_all_that_its_steps_wait_for() -> None:
    both = waiting("v"), waiting("w")
    assert _public(row())["waits_for"] is None
    assert _public(row(*both))["waits_for"] == ["yes-v", "yes-w"]
    assert _public(row(*both, answered("v")))["waits_for"] == ["yes-w"]
    assert _public(row(*both, answered("w")))["waits_for"] == ["yes-v"]
    assert _public(row(*both, ("saga.compensating", {"reason": "no"})))["waits_for"] is None


def test_a_row_of_before_that_was_kept_with_the_step_has_it_too() -> None:
    before = row(waiting("w"))
    del before["steps"]["w"]["waits_for"]
    assert _public(before)["waits_for"] == ["yes-w"]


def test_what_is_tried_again_is_not_suspended_though_it_was_when_it_was_ended_by_force() -> None:
    retried = row(
        ("saga.suspended", {}),
        ("saga.terminated", {"reason": "enough", "left": ["v"]}),
        ("saga.compensation_retried", {"run": 1, "left": ["v"]}),
    )
    assert (retried["status"], retried["ended_at"], retried["suspended"]) == ("compensating", None, False)
