"""The events of a saga's stream, `saga-{id}`: one for each transition of the saga."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from annals.events import Data, EventData, EventRegistry, require_portable

_LONGEST_MESSAGE = 2_000  # characters of an error


def recordable(message: str) -> str:
    """Shorten an error message, and replace the characters in it that no store takes."""
    return message[:_LONGEST_MESSAGE].encode(errors="replace").decode().replace("\0", "?")


def require_recordable(step: str, result: Any) -> None:
    """Raise ValueError if the store would refuse the record of a step's result.

    A result is recorded together with the transitions that follow. One that is refused would block them for
    good, and with them the compensation of the saga.
    """
    try:
        orjson.dumps(require_portable({"result": result}))
    except (ValueError, orjson.JSONEncodeError) as error:
        raise ValueError(f"{step} came to what cannot be stored: {error}") from error


class SagaError(BaseModel):
    """Why an attempt failed. `kind`: `rejected`, `failed` or `timeout`; `rule`: the rule that refused it."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str
    rule: str | None = None


class SagaStarted(EventData, type="saga.started"):
    """A saga was started. `parent` is the id of the saga that started it, if one did.

    `caused_at` is the time of the domain event that started it, if one did.
    """

    started_at: AwareDatetime
    caused_at: AwareDatetime | None = None
    user: str | None = None
    correlation_id: str | None = None
    saga_type: str
    saga_version: int
    business_key: str | None = None
    input: Data
    steps: tuple[str, ...]
    parent: str | None = None


class StepStarted(EventData, type="saga.step_started"):
    """An attempt at a step's action began, or at its compensation if `compensation` is true."""

    step: str
    attempt: int
    compensation: bool = False


class StepCompleted(EventData, type="saga.step_completed"):
    """A step's action succeeded."""

    step: str
    attempt: int
    result: Any = None


class StepFailed(EventData, type="saga.step_failed"):
    """An attempt at a step's action failed, or at its compensation if `compensation` is true.

    `final`: no further attempt follows. `uncertain`: the attempt may have taken effect all the same.
    """

    step: str
    attempt: int
    error: SagaError
    final: bool
    uncertain: bool = False
    compensation: bool = False


class StepSkipped(EventData, type="saga.step_skipped"):
    """A step was skipped, because its condition says that it is not needed."""

    step: str


class StepCompensated(EventData, type="saga.step_compensated"):
    """A step's compensation succeeded."""

    step: str
    attempt: int


class SagaWaiting(EventData, type="saga.waiting"):
    """A step waits until `deadline` for somebody to raise one of `events`."""

    step: str
    events: tuple[str, ...]
    deadline: AwareDatetime


class EventRaised(EventData, type="saga.event_raised"):
    """Somebody raised an event that a step waits for, now or later. `number` counts raised events from 1."""

    event: str
    number: int
    data: Any = None
    user: str | None = None


class SagaResumed(EventData, type="saga.resumed"):
    """A step's wait is over: `event` was raised, or the deadline passed and `event` is null.

    `refused`: the event is a refusal. `number` is the number of the `saga.event_raised`.
    """

    step: str
    event: str | None
    number: int | None = None
    refused: bool = False
    data: Any = None
    user: str | None = None


class SagaCompensating(EventData, type="saga.compensating"):
    """The saga will not complete: its steps are being compensated."""

    reason: str


class SagaCompleted(EventData, type="saga.completed"):
    """Every step succeeded."""

    output: Any = None


class SagaCompensated(EventData, type="saga.compensated"):
    """The saga has ended without completing, and every compensation succeeded."""

    reason: str


class SagaFailed(EventData, type="saga.failed"):
    """The saga has ended, and some compensations failed. People must see to the steps that `left` names."""

    reason: str
    left: tuple[str, ...]


class SagaCancelRequested(EventData, type="saga.cancel_requested"):
    """A cancellation was requested. The saga is compensated unless it ends before."""

    reason: str


class SagaTerminated(EventData, type="saga.terminated"):
    """Somebody terminated the saga where it stood. The steps that `left` names were not compensated."""

    reason: str
    left: tuple[str, ...]


class SagaSuspended(EventData, type="saga.suspended"):
    """Somebody suspended the saga."""


class SagaContinued(EventData, type="saga.continued"):
    """Somebody resumed the suspended saga."""


class SagaRestarted(EventData, type="saga.restarted"):
    """The saga was restarted: a new workflow, number `run`, continues it from its history."""

    run: int
    reason: str


class CompensationRetried(EventData, type="saga.compensation_retried"):
    """Somebody asked to compensate the steps that were `left`. A new workflow, number `run`, does so."""

    run: int
    left: tuple[str, ...]


REGISTRY = EventRegistry(
    [
        SagaStarted,
        StepStarted,
        StepCompleted,
        StepFailed,
        StepSkipped,
        StepCompensated,
        SagaWaiting,
        EventRaised,
        SagaResumed,
        SagaCompensating,
        SagaCompleted,
        SagaCompensated,
        SagaFailed,
        SagaCancelRequested,
        SagaTerminated,
        SagaSuspended,
        SagaContinued,
        SagaRestarted,
        CompensationRetried,
    ]
)
