"""A saga as its stream tells it: what it did, what it waits for, what people asked of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation
from annals.events import EventData
from annals.sagas.events import (
    CompensationRetried,
    EventRaised,
    SagaCancelRequested,
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaContinued,
    SagaError,
    SagaFailed,
    SagaRestarted,
    SagaResumed,
    SagaStarted,
    SagaSuspended,
    SagaTerminated,
    SagaWaiting,
    StepCompensated,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
)


class SagaStatus(StrEnum):
    """Where a saga stands. `pending`: its first step has not begun."""

    NONE = "none"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more by itself."""
        return self in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED)


class StepStatus(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    FAILED = "failed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


# How far a try has come: what is no further than what is known is not news.
_BEGUN, _OVER = 1, 2
# Where a step stands whose last try has begun, or has failed; and one that is being taken back.
_TRIED = (StepStatus.RUNNING, StepStatus.FAILED)
_UNDO_TRIED = (StepStatus.COMPENSATING, StepStatus.COMPENSATION_FAILED)


class StepState(BaseModel):
    """One step. `attempts` and `undo_attempts` count the tries of its action and its compensation.

    `uncertain`: a try of its action may have taken effect although it was not seen to. `deadline` is until
    when it waits, `waits_for` the events of which it does for one.
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
        """Whether this try was seen to come as far already."""
        known = (self.undo_attempts, self.undo_phase) if undo else (self.attempts, self.phase)
        return known >= (attempt, phase)

    def over(self, attempt: int, *, undo: bool) -> bool:
        """Whether it is known what came of this try, or of a later one."""
        return self.knows(attempt, _OVER, undo=undo)

    @property
    def tried(self) -> int:
        """The tries of its action of which it is known what came."""
        return self.attempts - (self.phase == _BEGUN)

    @property
    def undo_tried(self) -> int:
        """The same of its compensation."""
        return self.undo_attempts - (self.undo_phase == _BEGUN)

    def open_to_events(self, now: datetime | None) -> bool:
        """Whether it waits for an event, or will: after its deadline none counts that comes now."""
        late = now is not None and self.deadline is not None and self.deadline < now
        return self.status is StepStatus.PENDING or (self.status is StepStatus.WAITING and not late)

    @property
    def has_effect(self) -> bool:
        """Whether it did something, or may have, that was not taken back."""
        return self.status in (
            StepStatus.RUNNING,
            StepStatus.COMPLETED,
            StepStatus.COMPENSATING,
            StepStatus.COMPENSATION_FAILED,
        ) or (self.status is StepStatus.FAILED and self.uncertain)


class Raised(BaseModel):
    """An event that was raised and that no step has taken."""

    model_config = ConfigDict(frozen=True)

    event: str
    number: int
    data: Any = None
    user: str | None = None


class SagaState(Aggregate):
    """See the module."""

    aggregate_type: ClassVar[str] = "saga"
    state_schema: ClassVar[int] = 3

    status: SagaStatus = SagaStatus.NONE
    started_at: datetime | None = None
    caused_at: datetime | None = None
    user: str | None = None
    correlation_id: str | None = None
    saga_type: str = ""
    saga_version: int = 0
    business_key: str | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    parent: str | None = None
    steps: dict[str, StepState] = Field(default_factory=dict)
    undo_order: tuple[str, ...] = ()
    raised: tuple[Raised, ...] = ()
    raises: int = 0
    cancel_requested: bool = False
    cancel_reason: str | None = None
    terminated: bool = False
    suspended: bool = False
    run: int = 0
    reason: str | None = None
    left: tuple[str, ...] = ()
    output: Any = None

    def record(self, event: EventData) -> tuple[EventData, ...]:
        """What of a transition that the workflow went through is news: a repeat is not.

        The workflow of a saga that was ended by force is told so by `status` and records nothing. Nor does
        one of a saga that has not begun: all but its beginning would be in a stream that never did.
        """
        if self.status.ended or (self.status is SagaStatus.NONE) is not isinstance(event, SagaStarted):
            return ()
        match event:
            case SagaStarted():
                news = True
            case StepStarted():
                news = not self._knows(event.step, event.attempt, _BEGUN, undo=event.compensation)
            case StepFailed():
                news = not self._knows(event.step, event.attempt, _OVER, undo=event.compensation)
            # Of two calls for the same try that overlap one may fail and the other succeed: then it did. The
            # last step's tells of it by itself, and may do so when the next try has begun.
            case StepCompleted():
                known = self.step(event.step)
                failed = known.attempts >= event.attempt and known.status in _TRIED
                news = failed or not known.over(event.attempt, undo=False)
            case StepCompensated():
                known = self.step(event.step)
                failed = known.undo_attempts == event.attempt and known.status in _UNDO_TRIED
                news = failed or not known.over(event.attempt, undo=True)
            case SagaWaiting():
                news = not self._knows(event.step, 1, _BEGUN, undo=False)
            case SagaResumed():
                news = not self._knows(event.step, 1, _OVER, undo=False)
            case StepSkipped():
                news = self.step(event.step).status is StepStatus.PENDING
            case SagaCompensating() | SagaCompleted():
                news = self.status is not SagaStatus.COMPENSATING
            case _:
                news = True
        return (event,) if news else ()

    def begin_anew(self, started: SagaStarted, reason: str) -> tuple[EventData, ...]:
        """Begin it in another workflow than the one there is, unless that has begun it."""
        return () if self.status is not SagaStatus.NONE else (started, SagaRestarted(run=1, reason=reason))

    def cancel(self, reason: str) -> tuple[EventData, ...]:
        """Ask that it be taken back; once is enough."""
        self._require_active()
        return () if self.cancel_requested else (SagaCancelRequested(reason=reason),)

    def end_unbegun(self, reason: str) -> tuple[EventData, ...]:
        """End it where nothing is to be taken back, unless a step or another run has begun."""
        if self.status is not SagaStatus.PENDING or self.run:
            return ()
        return (SagaCompensating(reason=reason), SagaCompensated(reason=reason))

    def terminate(self, reason: str, undoable: frozenset[str]) -> tuple[EventData, ...]:
        """End it where it is. `undoable` names the steps that have a compensation."""
        self._require_there()
        if self.terminated:
            return ()
        self._require_active()
        left = tuple(name for name, step in self.steps.items() if name in undoable and step.has_effect)
        return (SagaTerminated(reason=reason, left=left),)

    def suspend(self) -> tuple[EventData, ...]:
        """Halt it."""
        self._require_active()
        return () if self.suspended else (SagaSuspended(),)

    def resume(self) -> tuple[EventData, ...]:
        """Let it go on."""
        self._require_active()
        return (SagaContinued(),) if self.suspended else ()

    def raise_event(
        self, event: str, data: Any, user: str | None, declared: dict[str, tuple[str, ...]], now: datetime
    ) -> tuple[EventData, ...]:
        """Raise an event. The same from the same user is a repeat until a step has taken the first.

        `declared`: step to its events. More than there are steps for is refused.
        """
        open_steps = self.require_raisable(event, declared, now)
        there = [one for one in self.raised if one.event == event]
        if any((one.data, one.user) == (data, user) for one in there):
            return ()
        if len(there) >= open_steps:
            raise RuleViolation("saga.already_raised", f"{event} was raised already, otherwise than now")
        return (EventRaised(event=event, number=self.raises + 1, data=data, user=user),)

    def restart(self, run: int, reason: str) -> tuple[EventData, ...]:
        """Have the workflow of run `run` go on in the place of the one there is. Once is enough."""
        self._require_active()
        return (SagaRestarted(run=run, reason=reason),) if self.run < run else ()

    def retry_compensation(self) -> tuple[EventData, ...]:
        """Try again what could not be taken back."""
        self._require_there()
        if self.status is SagaStatus.COMPENSATING and self.run:
            return ()
        if self.status is not SagaStatus.FAILED or not self.left:
            raise RuleViolation("saga.nothing_left", f"the saga is {self.status}, with nothing left to undo")
        return (CompensationRetried(run=self.run + 1, left=self.left),)

    def require_raisable(self, event: str, declared: dict[str, tuple[str, ...]], now: datetime) -> int:
        """How many steps wait for an event, now or later. Refuses one that none does."""
        self._require_active()
        steps = [step for step, events in declared.items() if event in events]
        if not steps:
            known = sorted({name for events in declared.values() for name in events})
            raise RuleViolation("saga.unknown_event", f"this saga waits for {known or 'no events'}")
        # What was raised in time counts, and so does its repeat.
        asked = None if any(one.event == event for one in self.raised) else now
        count = sum(self.step(step).open_to_events(asked) for step in steps)
        if self.status is SagaStatus.COMPENSATING or not count:
            raise RuleViolation("saga.not_waiting", f"nothing waits for {event} any more")
        return count

    def apply(self, event: EventData) -> Self:
        """See `Aggregate`."""
        match event:
            case SagaStarted():
                return self._with(
                    status=SagaStatus.PENDING,
                    started_at=event.started_at,
                    caused_at=event.caused_at,
                    user=event.user,
                    correlation_id=event.correlation_id,
                    saga_type=event.saga_type,
                    saga_version=event.saga_version,
                    business_key=event.business_key,
                    input=event.input,
                    parent=event.parent,
                    steps={name: StepState() for name in event.steps},
                )
            case StepStarted(compensation=True):
                return self._undo(
                    event.step, event.attempt, _BEGUN, status=StepStatus.COMPENSATING, error=None
                )
            case StepStarted():
                return self._try(event.step, event.attempt, _BEGUN, status=StepStatus.RUNNING, error=None)
            case StepCompleted():
                completed = StepStatus.COMPLETED
                changes = {"status": completed, "result": event.result, "error": None}
                state = self._try(event.step, event.attempt, _OVER, **changes)
                before = tuple(name for name in self.undo_order if name != event.step)
                return state.model_copy(update={"undo_order": (*before, event.step)})
            case StepFailed(compensation=True):
                status = StepStatus.COMPENSATION_FAILED if event.final else StepStatus.COMPENSATING
                return self._undo(event.step, event.attempt, _OVER, status=status, error=event.error)
            case StepFailed():
                uncertain = event.uncertain or self.step(event.step).uncertain
                state = self._try(
                    event.step,
                    event.attempt,
                    _OVER,
                    status=StepStatus.FAILED if event.final else StepStatus.RUNNING,
                    error=event.error,
                    uncertain=uncertain,
                )
                if event.final and uncertain:
                    return state.model_copy(update={"undo_order": (*self.undo_order, event.step)})
                return state
            case StepSkipped():
                return self._step_with(event.step, status=StepStatus.SKIPPED)
            case StepCompensated():
                return self._undo(event.step, event.attempt, _OVER, status=StepStatus.COMPENSATED, error=None)
            case SagaWaiting():
                waits = {"deadline": event.deadline, "waits_for": event.events}
                return self._try(event.step, 1, _BEGUN, status=StepStatus.WAITING, **waits)
            case SagaResumed():
                failed = event.event is None or event.refused
                result = {"event": event.event, "data": event.data}
                status = StepStatus.FAILED if failed else StepStatus.COMPLETED
                state = self._try(event.step, 1, _OVER, status=status, result=result, waits_for=())
                order = self.undo_order if failed else (*self.undo_order, event.step)
                left = tuple(one for one in self.raised if one.number != event.number)
                return state.model_copy(update={"undo_order": order, "raised": left})
            case EventRaised():
                raised = Raised.model_validate(event.model_dump())
                return self._with(raised=(*self.raised, raised), raises=event.number)
            case SagaCompensating():
                return self._with(status=SagaStatus.COMPENSATING, reason=event.reason)
            case SagaCompleted():
                return self._with(status=SagaStatus.COMPLETED, output=event.output)
            case SagaCompensated():
                return self._with(status=SagaStatus.COMPENSATED, left=())
            case SagaFailed():
                return self._with(status=SagaStatus.FAILED, left=event.left)
            case SagaCancelRequested():
                return self._with(cancel_requested=True, cancel_reason=event.reason)
            case SagaTerminated():
                return self._with(
                    status=SagaStatus.FAILED, terminated=True, reason=event.reason, left=event.left
                )
            case SagaSuspended():
                return self._with(suspended=True)
            case SagaContinued():
                return self._with(suspended=False)
            case SagaRestarted():
                return self._with(run=event.run, suspended=False)
            case CompensationRetried():
                return self._with(status=SagaStatus.COMPENSATING, run=event.run, terminated=False)
            case _:
                return self

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The events of which it waits for one, or for one for each of the steps that wait."""
        if self.status is not SagaStatus.RUNNING:
            return ()
        waiting = [step for step in self.steps.values() if step.status is StepStatus.WAITING]
        return tuple(event for step in waiting for event in step.waits_for)

    @property
    def results(self) -> dict[str, Any]:
        """What the steps came to that completed, also where that was None.

        An uncertain one that is being taken back may have failed: with None it is not among them.
        """
        return {
            name: step.result
            for name, step in self.steps.items()
            if step.result is not None
            or step.status is StepStatus.COMPLETED
            or (name in self.undo_order and not step.uncertain)
        }

    @property
    def active(self) -> bool:
        """Whether a workflow is to be at it."""
        return self.status is not SagaStatus.NONE and not self.status.ended

    @property
    def goes_on(self) -> bool:
        """Whether it is active for whatever started it: what people retry is theirs."""
        return self.active and not self.left

    def step(self, name: str) -> StepState:
        """How a step stands, also one that was not declared when the saga began."""
        return self.steps.get(name) or StepState()

    def runs_for(self, saga_type: str, business_key: str) -> bool:
        """Whether it is the saga of a type that runs for a business key.

        A claim may name one that is not: it was made for a start that was refused after all.
        """
        return self.active and (self.saga_type, self.business_key) == (saga_type, business_key)

    def as_started(self) -> SagaStarted:
        """The event that began the saga."""
        return SagaStarted(
            started_at=self.started_at or datetime.min.replace(tzinfo=UTC),
            caused_at=self.caused_at,
            user=self.user,
            correlation_id=self.correlation_id,
            saga_type=self.saga_type,
            saga_version=self.saga_version,
            business_key=self.business_key,
            input=self.input,
            steps=tuple(self.steps),
            parent=self.parent,
        )

    def require_ended(self) -> None:
        """Refuse what is only done to a saga that has ended."""
        self._require_there()
        if not self.status.ended:
            raise RuleViolation("saga.active", f"the saga is {self.status}; cancel or terminate it first")

    def to_undo(self) -> list[tuple[str, int]]:
        """What is left to take back, the first thing done first, and how often that was tried to the end.

        That is what an earlier run left, or what this one has not taken back yet.
        """
        done = dict.fromkeys(self.undo_order)
        done |= dict.fromkeys(name for name, step in self.steps.items() if step.uncertain)
        wanted = self.left or done
        steps = {name: self.step(name) for name in done | dict.fromkeys(self.left) if name in wanted}
        taken_back = StepStatus.COMPENSATED
        return [(name, step.undo_tried) for name, step in steps.items() if step.status is not taken_back]

    def _knows(self, step: str, attempt: int, phase: int, *, undo: bool) -> bool:
        return self.step(step).knows(attempt, phase, undo=undo)

    def _try(self, step: str, attempt: int, phase: int, **changes: object) -> Self:
        running = SagaStatus.RUNNING if self.status is SagaStatus.PENDING else self.status
        tried = self.step(step).model_copy(update={"attempts": attempt, "phase": phase, **changes})
        return self._with(status=running, steps=self.steps | {step: tried})

    def _undo(self, step: str, attempt: int, phase: int, **changes: object) -> Self:
        return self._step_with(step, undo_attempts=attempt, undo_phase=phase, **changes)

    def _step_with(self, name: str, **changes: object) -> Self:
        return self._with(steps=self.steps | {name: self.step(name).model_copy(update=changes)})

    def _with(self, **changes: object) -> Self:
        return self.model_copy(update=changes)

    def _require_there(self) -> None:
        if self.status is SagaStatus.NONE:
            raise NotFound("there is no such saga")

    def _require_active(self) -> None:
        self._require_there()
        if self.status.ended:
            raise RuleViolation("saga.ended", f"the saga has ended: it is {self.status}")
