"""The hand-over of a task: somebody is asked to take the task on, and if they do not, it goes back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from annals.sagas import (
    AskQuery,
    AwaitEvent,
    CancelOn,
    Parallel,
    PublishEvent,
    Saga,
    SagaContext,
    SagaInput,
    SendCommand,
    Step,
)
from annals_saga_orchestrator.sagas.fields import Deadline, Id

Context = SagaContext["TaskHandover"]


class TaskHandover(SagaInput):
    """The task to hand over, the member who is asked to take it on, and how long their answer may take."""

    task_id: Id
    assignee: Id
    deadline: Deadline = timedelta(days=1)


def _place(saga: Context) -> dict[str, Any]:
    """Return the reservation, marked with this hand-over: a reservation by another one is not released."""
    return {"id": saga.input.assignee, "task_id": saga.input.task_id, "handover": saga.id}


def _assignment(saga: Context) -> dict[str, Any]:
    """Return the assignment, marked with this hand-over: an assignment by other means is not reverted."""
    return {"id": saga.input.task_id, "assignee": saga.input.assignee, "handover": saga.id}


def _acceptance(saga: Context) -> dict[str, Any]:
    return {"id": saga.input.task_id, "assignee": saga.input.assignee}


def _request(saga: Context) -> dict[str, Any]:
    events = f"/sagas/{saga.id}/events"
    return {
        "user": saga.input.assignee,
        "kind": "handover_requested",
        "task_id": saga.input.task_id,
        "saga_id": saga.id,
        "answer_by": (saga.started + saga.input.deadline).isoformat(),
        "actions": {"accept": f"{events}/accept", "decline": f"{events}/decline"},
    }


def _withdrawal(saga: Context) -> dict[str, Any]:
    return {
        "user": saga.input.assignee,
        "kind": "handover_withdrawn",
        "task_id": saga.input.task_id,
        "saga_id": saga.id,
    }


def _reminder(saga: Context) -> dict[str, Any]:
    """Return a reminder that is due half-way to the deadline."""
    at = saga.started + saga.input.deadline / 2
    return _request(saga) | {"kind": "handover_reminder", "reminder_id": saga.id, "at": at.isoformat()}


def _no_reminder(saga: Context) -> dict[str, Any]:
    return {"reminder_id": saga.id}


def _task_as_assigned(saga: Context) -> str:
    position = saga.results["assign-task"]["position"]
    return f"queries/tasks/{saga.input.task_id}?position={position}"


def _previous(saga: Context) -> str | None:
    previous: str | None = saga.results["find-previous-assignee"].get("previous_assignee")
    return None if previous == saga.input.assignee else previous


TASK_HANDOVER = Saga(
    "task-handover",
    TaskHandover,
    (
        Step(
            "reserve-capacity",
            SendCommand("member.reserve", _place),
            compensation=SendCommand("member.release", _place, accept=("member.not_reserved", "not_found")),
        ),
        Step(
            "assign-task",
            SendCommand("task.assign", lambda saga: _assignment(saga) | {"reserved": True}),
            # Whoever deleted, completed or reassigned the task meanwhile has the last word on it.
            compensation=SendCommand(
                "task.revert_assignment",
                _assignment,
                accept=("not_found", "task.already_completed", "task.assignee_changed"),
            ),
        ),
        Step("find-previous-assignee", AskQuery(_task_as_assigned, ("previous_assignee",))),
        Parallel(
            Step(
                "schedule-reminder",
                PublishEvent("reminder.requested", _reminder, targets=("notification",)),
                compensation=PublishEvent("reminder.cancelled", _no_reminder, targets=("notification",)),
            ),
            Step(
                "notify",
                PublishEvent("notification.requested", _request, targets=("notification",)),
                compensation=PublishEvent("notification.requested", _withdrawal, targets=("notification",)),
            ),
        ),
        Step(
            "await-answer",
            AwaitEvent(
                ("accept",),
                refusals=("decline",),
                deadline=lambda saga: saga.input.deadline,
                by=lambda saga: saga.input.assignee,
            ),
        ),
        Parallel(
            Step(
                "accept-task", SendCommand("task.accept", _acceptance, user=lambda saga: saga.input.assignee)
            ),
            Step(
                "cancel-reminder", PublishEvent("reminder.cancelled", _no_reminder, targets=("notification",))
            ),
        ),
        Step(
            "release-previous",
            SendCommand(
                "member.release",
                lambda saga: {"id": _previous(saga), "task_id": saga.input.task_id},
                accept=("member.not_reserved", "not_found"),
            ),
            when=lambda saga: _previous(saga) is not None,
        ),
    ),
    business_key=lambda given: given.task_id,
    triggers=(
        CancelOn("task.deleted", lambda _data, task_id: task_id),
        CancelOn("task.completed", lambda _data, task_id: task_id),
    ),
)
