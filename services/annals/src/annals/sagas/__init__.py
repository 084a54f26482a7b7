"""Sagas: long-running transactions across services, declared in steps and taken back in reverse.

What is declared and how it runs is pure (`declaration`, `start`, `engine`, `state`); `workflow` and
`activities` bring it onto Dapr.
"""

from annals.sagas.declaration import (
    AskQuery,
    AwaitEvent,
    CallActivity,
    CancelOn,
    Parallel,
    PublishEvent,
    Retry,
    Saga,
    SagaCatalog,
    SagaContext,
    SagaInput,
    SendCommand,
    StartOn,
    StartSaga,
    StartSagas,
    Step,
)
from annals.sagas.state import SagaState, SagaStatus, StepStatus

__all__ = [
    "AskQuery",
    "AwaitEvent",
    "CallActivity",
    "CancelOn",
    "Parallel",
    "PublishEvent",
    "Retry",
    "Saga",
    "SagaCatalog",
    "SagaContext",
    "SagaInput",
    "SagaState",
    "SagaStatus",
    "SendCommand",
    "StartOn",
    "StartSaga",
    "StartSagas",
    "Step",
    "StepStatus",
]
