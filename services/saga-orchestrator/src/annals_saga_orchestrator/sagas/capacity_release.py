"""A task is done or deleted: the place that was reserved for it with its assignee is free again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from annals.sagas import Retry, Saga, SagaInput, SendCommand, StartOn, Step
from annals_saga_orchestrator.sagas.fields import Id

# There is nothing to take back, and nobody waits for it: to give up would leave the place taken for ever.
# So it outlasts what keeps the command service away, for about a day.
_PATIENT = Retry(max_retries=160, cap=timedelta(minutes=10))


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
            retry=_PATIENT,
        ),
    ),
    triggers=(StartOn("task.completed", _on_closed), StartOn("task.deleted", _on_closed)),
)
