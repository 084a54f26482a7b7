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


# Tasks are also assigned without a hand-over, and to people who are no members.
_NOTHING_TAKEN = ("member.not_reserved", "not_found")


class CapacityRelease(SagaInput):
    """Whose place, reserved for which task.

    `previous` had the task before `member`: while it is being handed over, both have a place for it.
    """

    member: Id
    task_id: Id
    previous: Id | None = None


def _on_closed(data: Mapping[str, Any], task_id: str) -> dict[str, Any] | None:
    had = [name for name in (data.get("assignee"), data.get("previous_assignee")) if name]
    return {"member": had[0], "task_id": task_id, "previous": (had[1:] or [None])[0]} if had else None


CAPACITY_RELEASE = Saga(
    "capacity-release",
    CapacityRelease,
    (
        Step(
            "release-previous",
            SendCommand(
                "member.release",
                lambda saga: {"id": saga.input.previous, "task_id": saga.input.task_id},
                accept=_NOTHING_TAKEN,
            ),
            retry=_PATIENT,
            when=lambda saga: saga.input.previous not in (None, saga.input.member),
        ),
        Step(
            "release",
            SendCommand(
                "member.release",
                lambda saga: {"id": saga.input.member, "task_id": saga.input.task_id},
                accept=_NOTHING_TAKEN,
            ),
            retry=_PATIENT,
        ),
    ),
    triggers=(StartOn("task.completed", _on_closed), StartOn("task.deleted", _on_closed)),
)
