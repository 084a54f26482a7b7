"""What the service answers, for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from annals.sagas import SagaStatus
from annals.sagas.events import SagaError
from annals.sagas.state import StepStatus
from annals.web.answers import Answer


class SagaStepNow(Answer):
    """A step of a saga as it is now."""

    name: str
    status: StepStatus
    attempts: int
    """Tries of its action."""
    undo_attempts: int
    """Tries of its compensation."""
    uncertain: bool
    """Whether a try may have taken effect although it was not seen to."""
    result: Any
    error: SagaError | None
    deadline: datetime | None
    """Until when it waits."""
    waits_for: list[str]
    """The events of which it waits for one."""


class SagaNow(Answer):
    """A saga as it is now, by its history."""

    id: str
    type: str
    version: int
    """Of its declaration."""
    status: SagaStatus
    started_at: datetime | None
    caused_at: datetime | None
    """When that happened which it was started for, if it was by a domain event."""
    user: str | None
    correlation_id: str | None
    business_key: str | None
    """What it is about; of a type there is one at a time for it."""
    parent: str | None
    """The saga that started it."""
    input: dict[str, Any]
    steps: list[SagaStepNow]
    waits_for: list[str]
    """The events that its steps wait for: each waits for one of its own."""
    cancel_requested: bool
    cancel_reason: str | None
    terminated: bool
    suspended: bool
    reason: str | None
    """Why it is compensated, or has failed."""
    left: list[str]
    """The steps of a failed saga that were not taken back."""
    output: Any


class SagaFound(Answer):
    """A saga as the projector's `/queries/sagas` has it, where its other fields are described."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    status: SagaStatus
    business_key: str | None
    created_at: datetime
    updated_at: datetime


class Raised(Answer):
    """That an event was raised."""

    id: str
    event: str
