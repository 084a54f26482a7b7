"""The events of a saga's stream, `saga-{id}`: every transition it went through."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from annals.events import Data, EventData, EventRegistry, portable

_LONGEST_MESSAGE = 2_000


def recordable(message: str) -> str:
    """An error's words as a history can hold them: they may quote a text that nothing stores."""
    return message[:_LONGEST_MESSAGE].encode(errors="replace").decode().replace("\0", "?")


def require_recordable(step: str, result: Any) -> None:
    """Raises ValueError for what a step came to where the store would refuse the record of it.

    That is made with the next step: it would fail for good, and so would all that takes the saga back.
    """
    try:
        orjson.dumps(portable({"result": result}))
    except (ValueError, orjson.JSONEncodeError) as error:
        raise ValueError(f"{step} came to what cannot be stored: {error}") from error


class SagaError(BaseModel):
    """Why a try failed. `kind`: rejected, failed, timeout; `rule` is a rejecting rule's name."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str
    rule: str | None = None


class SagaStarted(EventData, type="saga.started"):
    """A saga began. `parent` is the saga that started it.

    `caused_at` is when that happened which it was started for, if it was by a domain event.
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
    """An action is tried. `compensation`: it is the one that takes the step back."""

    step: str
    attempt: int
    compensation: bool = False


class StepCompleted(EventData, type="saga.step_completed"):
    """A step's action succeeded."""

    step: str
    attempt: int
    result: Any = None


class StepFailed(EventData, type="saga.step_failed"):
    """A try failed. `final`: it was the last; `uncertain`: it may have taken effect all the same."""

    step: str
    attempt: int
    error: SagaError
    final: bool
    uncertain: bool = False
    compensation: bool = False


class StepSkipped(EventData, type="saga.step_skipped"):
    """A step's condition said that it is not needed."""

    step: str


class StepCompensated(EventData, type="saga.step_compensated"):
    """What a step did was taken back."""

    step: str
    attempt: int


class SagaWaiting(EventData, type="saga.waiting"):
    """A step waits for somebody to raise one of these events."""

    step: str
    events: tuple[str, ...]
    deadline: AwareDatetime


class EventRaised(EventData, type="saga.event_raised"):
    """Somebody raised an event that a step waits for, or will. `number` counts those of the saga, from 1."""

    event: str
    number: int
    data: Any = None
    user: str | None = None


class SagaResumed(EventData, type="saga.resumed"):
    """The wait is over: `event` was raised, or none was in time. `refused`: it was a refusal.

    `number` is that of the event.
    """

    step: str
    event: str | None
    number: int | None = None
    refused: bool = False
    data: Any = None
    user: str | None = None


class SagaCompensating(EventData, type="saga.compensating"):
    """The saga will not complete: what it did is being taken back."""

    reason: str


class SagaCompleted(EventData, type="saga.completed"):
    """Every step succeeded."""

    output: Any = None


class SagaCompensated(EventData, type="saga.compensated"):
    """Everything was taken back."""

    reason: str


class SagaFailed(EventData, type="saga.failed"):
    """Some steps could not be taken back: `left` names them, for people to see to."""

    reason: str
    left: tuple[str, ...]


class SagaCancelRequested(EventData, type="saga.cancel_requested"):
    """Somebody asked that the saga be taken back."""

    reason: str


class SagaTerminated(EventData, type="saga.terminated"):
    """Somebody ended the saga where it was. What `left` names was not taken back."""

    reason: str
    left: tuple[str, ...]


class SagaSuspended(EventData, type="saga.suspended"):
    """Somebody halted the saga."""


class SagaContinued(EventData, type="saga.continued"):
    """Somebody let a halted saga go on."""


class SagaRestarted(EventData, type="saga.restarted"):
    """The saga stood still: another workflow goes on from where its history is. `run` counts them."""

    run: int
    reason: str


class CompensationRetried(EventData, type="saga.compensation_retried"):
    """Somebody asked to try again what could not be taken back. `run` counts the times."""

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
