"""Sagas: long-running transactions across services, declared as steps and compensated in reverse order.

The declaration and the engine that runs it are pure (`declaration`, `start`, `engine`, `state`); `workflow`
and `activities` run them on Dapr.
"""

from annals.sagas.catalog import SagaCatalog
from annals.sagas.declaration import (
    AskQuery,
    AwaitEvent,
    CallActivity,
    CancelOn,
    Parallel,
    PublishEvent,
    Retry,
    Saga,
    SagaContext,
    SagaInput,
    SendCommand,
    StartOn,
    StartSaga,
    StartSagas,
    Step,
)
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.step_state import StepStatus

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
