"""The state of one step of a saga. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from annals.sagas.events import SagaError


class StepStatus(StrEnum):
    """The status of a step."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    FAILED = "failed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


# The phases of an attempt. A transition is new only if it goes beyond the attempt and phase that are known.
BEGUN, OVER = 1, 2


class StepState(BaseModel):
    """The state of a step. `attempts` counts the tries of its action, `undo_attempts` of its compensation.

    `uncertain`: an attempt at the action failed, and may have taken effect all the same. A step that waits
    does so until `deadline`, for one of the events in `waits_for`.
    """

    model_config = ConfigDict(frozen=True)

    status: StepStatus = StepStatus.PENDING
    attempts: int = 0
    undo_attempts: int = 0
    phase: int = 0
    undo_phase: int = 0
    uncertain: bool = False
    result: Any = None
    error: SagaError | None = None
    deadline: datetime | None = None
    waits_for: tuple[str, ...] = ()

    def knows(self, attempt: int, phase: int, *, undo: bool) -> bool:
        """Return whether this attempt has reached `phase`, or a later attempt has begun."""
        known = (self.undo_attempts, self.undo_phase) if undo else (self.attempts, self.phase)
        return known >= (attempt, phase)

    def over(self, attempt: int, *, undo: bool) -> bool:
        """Return whether the outcome of this attempt is known, or a later attempt has begun."""
        return self.knows(attempt, OVER, undo=undo)

    @property
    def finished_attempts(self) -> int:
        """The number of attempts at the action whose outcome is known."""
        return self.attempts - (self.phase == BEGUN)

    @property
    def finished_undo_attempts(self) -> int:
        """The number of attempts at the compensation whose outcome is known."""
        return self.undo_attempts - (self.undo_phase == BEGUN)

    def open_to_events(self, now: datetime | None) -> bool:
        """Return whether the step can take an event: it is pending, or it waits and `now` is in time."""
        late = now is not None and self.deadline is not None and self.deadline < now
        return self.status is StepStatus.PENDING or (self.status is StepStatus.WAITING and not late)

    @property
    def has_effect(self) -> bool:
        """Whether the step has, or may have, an effect that is not compensated."""
        return self.status in (
            StepStatus.RUNNING,
            StepStatus.COMPLETED,
            StepStatus.COMPENSATING,
            StepStatus.COMPENSATION_FAILED,
        ) or (self.status is StepStatus.FAILED and self.uncertain)
