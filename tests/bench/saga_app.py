"""The saga orchestrator with one saga of three commands, to compare it with a bare workflow."""

from __future__ import annotations

from annals.sagas import Saga, SagaCatalog, SagaInput, SendCommand, Step
from annals.web import serve
from annals_saga_orchestrator.app import create
from annals_saga_orchestrator.settings import SagaSettings


class Member(SagaInput):
    """The member whose capacity is set three times."""

    member: str


def _set(number: int) -> Step:
    return Step(
        f"set-{number}",
        SendCommand("member.set_capacity", lambda saga: {"id": saga.input.member, "capacity": number}),
    )


if __name__ == "__main__":
    settings = SagaSettings()
    serve(
        create(settings, SagaCatalog(Saga("bench", Member, (_set(0), _set(1), _set(2))))),
        settings,
        "saga-orchestrator",
    )
