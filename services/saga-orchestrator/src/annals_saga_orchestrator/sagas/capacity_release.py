"""Frees the place reserved with a member for a task that is completed, deleted, or no longer theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic import Field

from annals.sagas import Retry, Saga, SagaInput, SendCommand, StartOn, Step
from annals_saga_orchestrator.sagas.fields import Id

# There is nothing to compensate and nobody waits, but giving up would leave the place taken for ever. So the
# retries go on for about a day, to outlast an absence of the command service.
_PATIENT = Retry(max_retries=160, cap=timedelta(minutes=10))


# A hand-over that is compensated at the same time frees its place itself, so the place may be free already.
_NOTHING_TAKEN = ("member.not_reserved", "not_found")


class CapacityRelease1(SagaInput):
    """The input of version 1; see `CapacityRelease`."""

    member: Id
    task_id: Id
    previous: Id | None = None


class CapacityRelease(CapacityRelease1):
    """The member whose place is freed, and the task that the place was reserved for.

    `previous` had the task before `member`. During a hand-over both have a place for it, and nobody else has.
    `reserved_by` maps them to the hand-overs that reserved the places. A place that another one has reserved
    meanwhile is not freed.
    """

    reserved_by: dict[Id, Id] = Field(default_factory=dict)


def _place(given: CapacityRelease1, member: str) -> dict[str, Any]:
    by = given.reserved_by.get(member) if isinstance(given, CapacityRelease) else None
    return {"id": member, "task_id": given.task_id} | ({"handover": by} if by else {})


def _on_freed(data: Mapping[str, Any], task_id: str) -> dict[str, Any] | None:
    given = {"task_id": task_id} | ({"reserved_by": by} if (by := data.get("reserved_by")) else {})
    match data.get("frees", ()):
        case [member]:
            return given | {"member": member}
        case [previous, member]:
            return given | {"member": member, "previous": previous}
    return None


CAPACITY_RELEASE: Saga[Any] = Saga(
    "capacity-release",
    CapacityRelease,
    (
        Step(
            "release-previous",
            SendCommand(
                "member.release",
                lambda saga: _place(saga.input, saga.input.previous),
                accept=_NOTHING_TAKEN,
            ),
            retry=_PATIENT,
            when=lambda saga: saga.input.previous not in (None, saga.input.member),
        ),
        Step(
            "release",
            SendCommand(
                "member.release",
                lambda saga: _place(saga.input, saga.input.member),
                accept=_NOTHING_TAKEN,
            ),
            retry=_PATIENT,
        ),
    ),
    version=2,
    triggers=tuple(
        StartOn(event_type, _on_freed)
        for event_type in ("task.assigned", "task.unassigned", "task.completed", "task.deleted")
    ),
)

# Version 1 knew no hand-overs, and its orchestrators refuse an input that names one.
CAPACITY_RELEASE_1 = replace(CAPACITY_RELEASE, version=1, input=CapacityRelease1)
