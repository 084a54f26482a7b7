"""A task is done or deleted: the place that was reserved for it with its assignee is free again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annals.sagas import Saga, SagaInput, SendCommand, StartOn, Step
from annals_saga_orchestrator.sagas.fields import Id


class CapacityRelease(SagaInput):
    """Whose place, reserved for which task."""

    member: Id
    task_id: Id


def _on_closed(data: Mapping[str, Any], task_id: str) -> dict[str, Any] | None:
    return {"member": data["assignee"], "task_id": task_id} if data.get("assignee") else None


CAPACITY_RELEASE = Saga(
    "capacity-release",
    CapacityRelease,
    (
        Step(
            "release",
            SendCommand(
                "member.release",
                lambda saga: {"id": saga.input.member, "task_id": saga.input.task_id},
                # Tasks are also assigned without a hand-over, and to people who are no members.
                accept=("member.not_reserved", "not_found"),
            ),
        ),
    ),
    triggers=(StartOn("task.completed", _on_closed), StartOn("task.deleted", _on_closed)),
)
