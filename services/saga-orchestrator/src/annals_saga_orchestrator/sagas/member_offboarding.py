"""A member leaves: each of their open tasks is handed over to a successor, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field

from annals.sagas import CallActivity, Retry, Saga, SagaContext, SagaInput, StartOn, StartSagas, Step
from annals_saga_orchestrator.sagas.fields import Deadline, Id

_AT_A_TIME = 5

# A member leaves only once, so giving up would leave their tasks where they are. The retries go on for about
# a day, to outlast an absence of the projector. More of them might not fit into the largest workflow.
_PATIENT = Retry(max_retries=58, cap=timedelta(minutes=30))

Context = SagaContext["MemberOffboarding"]


class MemberOffboarding(SagaInput):
    """The member who leaves, and the successors: each open task is offered to one of them, in rotation."""

    member: Id
    successors: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1_000)]
    deadline: Deadline = timedelta(days=1)


def _handovers(saga: Context) -> list[dict[str, Any]]:
    given = saga.input
    deadline = given.model_dump(mode="json")["deadline"]
    return [
        {
            "task_id": task_id,
            "assignee": given.successors[index % len(given.successors)],
            "deadline": deadline,
        }
        for index, task_id in enumerate(saga.results["find-open-tasks"])
    ]


def _summary(saga: Context) -> dict[str, Any]:
    handed = saga.results["hand-over"]
    return {
        "tasks": handed["total"],
        "handed_over": handed["by_status"].get("completed", 0),
        "not_handed_over": handed["not_completed"],
        "still_assigned": saga.results["find-rest"],
    }


def _on_left(data: Mapping[str, Any], member_id: str) -> dict[str, Any]:
    return {"member": member_id, "successors": data["successors"], "deadline": data["deadline"]}


_OPEN_TASKS = CallActivity("open-tasks", lambda saga: {"assignee": saga.input.member})

MEMBER_OFFBOARDING = Saga(
    "member-offboarding",
    MemberOffboarding,
    (
        Step("find-open-tasks", _OPEN_TASKS, retry=_PATIENT),
        Step("hand-over", StartSagas("task-handover", _handovers, concurrency=_AT_A_TIME)),
        # A task that was declined is the member's again, and one that came in late was not handed over.
        Step("find-rest", _OPEN_TASKS, retry=_PATIENT),
    ),
    version=2,
    business_key=lambda given: given.member,
    output=_summary,
    triggers=(StartOn("member.left", _on_left),),
)

# Version 1 gave up after seven seconds.
MEMBER_OFFBOARDING_1 = replace(
    MEMBER_OFFBOARDING,
    version=1,
    steps=tuple(replace(step, retry=Retry()) for step in MEMBER_OFFBOARDING.flat()),
)
