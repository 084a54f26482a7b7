"""The answers of the service, for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from annals.sagas import SagaStatus
from annals.sagas.events import SagaError
from annals.sagas.step_state import StepStatus
from annals.web.answers import Answer


class SagaStepNow(Answer):
    """The current state of a step of a saga."""

    name: str
    status: StepStatus
    attempts: int
    """How often the step's action was attempted."""
    undo_attempts: int
    """How often the step's compensation was attempted."""
    uncertain: bool
    """Whether an attempt at the action failed and may have taken effect all the same."""
    result: Any
    error: SagaError | None
    deadline: datetime | None
    """Until when the step waits for an event."""
    waits_for: list[str]
    """The events that the step waits for; one of them ends the wait."""


class SagaNow(Answer):
    """The current state of a saga, by its history."""

    id: str
    type: str
    version: int
    """The version of the saga's declaration."""
    status: SagaStatus
    started_at: datetime | None
    caused_at: datetime | None
    """The time of the domain event that started the saga, if one did."""
    user: str | None
    correlation_id: str | None
    business_key: str | None
    """What the saga is about. Only one saga of a type runs for a business key at a time."""
    parent: str | None
    """The id of the saga that started this one, if one did."""
    input: dict[str, Any]
    steps: list[SagaStepNow]
    waits_for: list[str]
    """The events that the saga's steps wait for. Each step takes one."""
    cancel_requested: bool
    cancel_reason: str | None
    terminated: bool
    suspended: bool
    reason: str | None
    """Why the saga is compensated, has failed, or was terminated."""
    left: list[str]
    """The steps of a failed saga that were not compensated."""
    output: Any


class SagaFound(Answer):
    """A saga as the projector's `/queries/sagas` lists it. Its other fields are described there."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    status: SagaStatus
    business_key: str | None
    created_at: datetime
    updated_at: datetime


class Raised(Answer):
    """The confirmation that an event was raised."""

    id: str
    event: str
