"""The saga orchestrator with sagas made for tests; `python saga_app.py 1 2` declares two versions."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from annals.sagas import (
    AwaitEvent,
    Parallel,
    Retry,
    Saga,
    SagaCatalog,
    SagaContext,
    SagaInput,
    SendCommand,
    StartOn,
    Step,
)
from annals.web import serve
from annals_saga_orchestrator.app import create
from annals_saga_orchestrator.settings import SagaSettings

QUICK = Retry(max_retries=3, first=timedelta(milliseconds=100), cap=timedelta(milliseconds=400))


class Pledge(SagaInput):
    """The member whose place is reserved, and the task it is reserved for."""

    member: str
    task_id: str


def _place(suffix: str = "") -> Step:
    def given(saga: SagaContext[Pledge]) -> dict[str, Any]:
        return {
            "id": saga.input.member,
            "task_id": saga.input.task_id + suffix,
            "handover": saga.id,
        }

    return Step(
        f"reserve{suffix}",
        SendCommand("member.reserve", given),
        compensation=SendCommand("member.release", given, accept=("member.not_reserved",)),
        retry=QUICK,
        compensation_retry=QUICK,
        timeout=timedelta(seconds=2),
    )


_WAIT = Step("wait", AwaitEvent(("go",), refusals=("stop",), deadline=lambda _: timedelta(minutes=5)))

VERSIONS = {
    1: Saga("pledge", Pledge, (_place(), _WAIT), 1, output=lambda _: "version 1"),
    # One step more before the wait, so an instance of version 1 could not continue under version 2.
    2: Saga("pledge", Pledge, (_place(), _place("-twice"), _WAIT), 2, output=lambda _: "version 2"),
}


class Release(SagaInput):
    """The member whose place is released."""

    member: str


RELEASE = Saga(
    "release",
    Release,
    (
        Step(
            "release",
            SendCommand(
                "member.release",
                lambda saga: {"id": saga.input.member, "task_id": "none"},
                accept=("member.not_reserved",),
            ),
        ),
    ),
    triggers=(StartOn("task.completed", lambda data, _: {"member": data["assignee"]}),),
)


def _approval(name: str) -> Step:
    return Step(name, AwaitEvent((f"approve-{name}",), deadline=lambda _: timedelta(minutes=5)))


# Two approvals, in either order.
REVIEW = Saga("review", Release, (Parallel(_approval("budget"), _approval("text")),))

if __name__ == "__main__":
    settings = SagaSettings()
    catalog = SagaCatalog(RELEASE, REVIEW, *(VERSIONS[int(version)] for version in sys.argv[1:]))
    serve(create(settings, catalog), settings, "saga-orchestrator")
