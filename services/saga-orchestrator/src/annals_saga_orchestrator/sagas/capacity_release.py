"""Frees the place reserved with a member for a task that is completed, deleted, or no longer theirs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from annals.sagas import Retry, Saga, SagaInput, SendCommand, StartOn, Step
from annals_saga_orchestrator.sagas.fields import Id

# There is nothing to compensate and nobody waits, but giving up would leave the place taken for ever. So the
# retries go on for about a day, to outlast an absence of the command service.
_PATIENT = Retry(max_retries=160, cap=timedelta(minutes=10))


# A hand-over that is compensated at the same time frees its place itself, so the place may be free already.
_NOTHING_TAKEN = ("member.not_reserved", "not_found")


class CapacityRelease(SagaInput):
    """The member whose place is freed, and the task that the place was reserved for.

    `previous` had the task before `member`. During a hand-over both have a place for it, and nobody else has.
    """

    member: Id
    task_id: Id
    previous: Id | None = None


def _on_freed(data: Mapping[str, Any], task_id: str) -> dict[str, Any] | None:
    match data.get("frees", ()):
        case [member]:
            return {"member": member, "task_id": task_id}
        case [previous, member]:
            return {"member": member, "task_id": task_id, "previous": previous}
    return None


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
    triggers=tuple(
        StartOn(event_type, _on_freed)
        for event_type in ("task.assigned", "task.unassigned", "task.completed", "task.deleted")
    ),
)
