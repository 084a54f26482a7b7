"""The state of a saga, folded from its stream, and the decisions on what may be appended to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from annals.sagas.step_state import BEGUN, OVER, StepState, StepStatus


class SagaStatus(StrEnum):
    """The status of a saga. `pending`: its first step has not begun; `none`: there is no such saga."""

    NONE = "none"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens unless somebody asks for it."""
        return self in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED)


# The statuses of a step whose last attempt has begun or has failed: at its action, and at its compensation.
_TRIED = (StepStatus.RUNNING, StepStatus.FAILED)
_UNDO_TRIED = (StepStatus.COMPENSATING, StepStatus.COMPENSATION_FAILED)


class Raised(BaseModel):
    """A raised event that no step has taken yet."""

    model_config = ConfigDict(frozen=True)

    event: str
    number: int
    data: Any = None
    user: str | None = None


class SagaState(Aggregate):
    """The state of a saga.

    `record` decides on a transition that a workflow reports; the other methods that return events decide on a
    request. `run` is the number of the workflow that runs the saga now. `left` names the steps of a failed
    saga that were not compensated.
    """

    aggregate_type: ClassVar[str] = "saga"
    state_schema: ClassVar[int] = 4

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
        """Return the event if its transition is new to the saga, and nothing if it is a repeat.

        A saga that has ended takes no transitions; its workflow learns of the end from `status`. A saga that
        has not begun takes only `saga.started`, because no stream may lack its beginning.
        """
        if self.status.ended or (self.status is SagaStatus.NONE) is not isinstance(event, SagaStarted):
            return ()
        match event:
            case SagaStarted():
                news = True
            case StepStarted():
                news = not self._knows(event.step, event.attempt, BEGUN, undo=event.compensation)
            case StepFailed():
                news = not self._knows(event.step, event.attempt, OVER, undo=event.compensation)
            # Two calls for the same attempt may overlap. If one fails and the other succeeds, the attempt
            # succeeded. The last step's call records its success itself, maybe after the next attempt began.
            case StepCompleted():
                known = self.step(event.step)
                failed = known.attempts >= event.attempt and known.status in _TRIED
                news = failed or not known.over(event.attempt, undo=False)
            case StepCompensated():
                known = self.step(event.step)
                failed = known.undo_attempts == event.attempt and known.status in _UNDO_TRIED
                news = failed or not known.over(event.attempt, undo=True)
            case SagaWaiting():
                news = not self._knows(event.step, 1, BEGUN, undo=False)
            case SagaResumed():
                over = self._knows(event.step, 1, OVER, undo=False)
                # What was raised before the deadline counts, however late the workflow learns of it.
                news = not over and (event.event is not None or self.answer_to(event.step) is None)
            case StepSkipped():
                news = self.step(event.step).status is StepStatus.PENDING
            case SagaCompensating() | SagaCompleted():
                news = self.status is not SagaStatus.COMPENSATING
            case _:
                news = True
        return (event,) if news else ()

    def begin_anew(self, started: SagaStarted, reason: str) -> tuple[EventData, ...]:
        """Begin the saga as run 1, in a new workflow, unless the workflow of run 0 has begun it."""
        return () if self.status is not SagaStatus.NONE else (started, SagaRestarted(run=1, reason=reason))

    def cancel(self, reason: str) -> tuple[EventData, ...]:
        """Cancel the saga. A repeat adds nothing."""
        self._require_active()
        return () if self.cancel_requested else (SagaCancelRequested(reason=reason),)

    def end_unbegun(self, reason: str) -> tuple[EventData, ...]:
        """End a saga that has done nothing yet. Once a step or another run has begun, this adds nothing."""
        if self.status is not SagaStatus.PENDING or self.run:
            return ()
        return (SagaCompensating(reason=reason), SagaCompensated(reason=reason))

    def terminate(self, reason: str, undoable: frozenset[str]) -> tuple[EventData, ...]:
        """End the saga where it stands. `undoable` names the steps that have a compensation."""
        self._require_there()
        if self.terminated:
            return ()
        self._require_active()
        left = tuple(name for name, step in self.steps.items() if name in undoable and step.has_effect)
        return (SagaTerminated(reason=reason, left=left),)

    def suspend(self) -> tuple[EventData, ...]:
        """Suspend the saga. A repeat adds nothing."""
        self._require_active()
        return () if self.suspended else (SagaSuspended(),)

    def resume(self) -> tuple[EventData, ...]:
        """Resume the saga. This adds nothing if it is not suspended, or if it has ended meanwhile."""
        if self.status.ended and self.suspended and not self.terminated:
            return ()
        self._require_active()
        return (SagaContinued(),) if self.suspended else ()

    def raise_event(
        self, event: str, data: Any, user: str | None, declared: dict[str, tuple[str, ...]], now: datetime
    ) -> tuple[EventData, ...]:
        """Raise an event. Until a step takes it, the same event with the same data and user is a repeat.

        `declared` maps the steps that wait to their events. An event is refused if every step that can still
        take it has one already, or if a step would take it in place of one that was raised before.
        """
        self.require_raisable(event, declared, now)
        if any((one.event, one.data, one.user) == (event, data, user) for one in self.raised):
            return ()
        waits = [events for step, events in declared.items() if self.step(step).open_to_events(None)]
        raised = [one.event for one in self.raised]
        before, after = _taken(raised, waits), _taken([*raised, event], waits)
        changes = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        if changes != [(None, event)]:
            rivals = dict.fromkeys(
                one for one, events in zip(before, waits, strict=True) if one and event in events
            )
            raise RuleViolation(
                "saga.already_raised", f"another answer was raised already: {', '.join(rivals)}"
            )
        return (EventRaised(event=event, number=self.raises + 1, data=data, user=user),)

    def restart(self, run: int, reason: str) -> tuple[EventData, ...]:
        """Let the workflow of `run` continue the saga in place of the earlier one. A repeat adds nothing."""
        self._require_active()
        return (SagaRestarted(run=run, reason=reason),) if self.run < run else ()

    def retry_compensation(self) -> tuple[EventData, ...]:
        """Compensate the steps that are `left`, in a new run. A repeat adds nothing."""
        self._require_there()
        if self.status is SagaStatus.COMPENSATING and self.run:
            return ()
        if self.status is not SagaStatus.FAILED:
            message = f"only a failed saga is retried; this one is {self.status}"
            raise RuleViolation("saga.nothing_left", message)
        if not self.left:
            raise RuleViolation("saga.nothing_left", "the saga is failed, with nothing left to undo")
        return (CompensationRetried(run=self.run + 1, left=self.left),)

    def require_raisable(self, event: str, declared: dict[str, tuple[str, ...]], now: datetime) -> None:
        """Raise NotFound or RuleViolation unless a step waits for an event, now or later."""
        self._require_active()
        steps = [step for step, events in declared.items() if event in events]
        if not steps:
            known = sorted({name for events in declared.values() for name in events})
            events = ", ".join(known) or "no events"
            message = f"no step waits for {event}; the steps of this saga wait for {events}"
            raise RuleViolation("saga.unknown_event", message)
        # If the event was raised in time, a repeat counts even after the deadline.
        asked = None if any(one.event == event for one in self.raised) else now
        waiting = any(self.step(step).open_to_events(asked) for step in steps)
        if self.status is SagaStatus.COMPENSATING or self.cancel_requested or not waiting:
            raise RuleViolation("saga.not_waiting", f"nothing waits for {event} any more")

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
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
                    event.step, event.attempt, BEGUN, status=StepStatus.COMPENSATING, error=None
                )
            case StepStarted():
                return self._try(event.step, event.attempt, BEGUN, status=StepStatus.RUNNING, error=None)
            case StepCompleted():
                completed = StepStatus.COMPLETED
                changes = {"status": completed, "result": event.result, "error": None}
                state = self._try(event.step, event.attempt, OVER, **changes)
                before = tuple(name for name in self.undo_order if name != event.step)
                return state.model_copy(update={"undo_order": (*before, event.step)})
            case StepFailed(compensation=True):
                status = StepStatus.COMPENSATION_FAILED if event.final else StepStatus.COMPENSATING
                return self._undo(event.step, event.attempt, OVER, status=status, error=event.error)
            case StepFailed():
                uncertain = event.uncertain or self.step(event.step).uncertain
                state = self._try(
                    event.step,
                    event.attempt,
                    OVER,
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
                return self._undo(event.step, event.attempt, OVER, status=StepStatus.COMPENSATED, error=None)
            case SagaWaiting():
                waits = {"deadline": event.deadline, "waits_for": event.events}
                return self._try(event.step, 1, BEGUN, status=StepStatus.WAITING, **waits)
            case SagaResumed():
                failed = event.event is None or event.refused
                result = {"event": event.event, "data": event.data}
                status = StepStatus.FAILED if failed else StepStatus.COMPLETED
                state = self._try(event.step, 1, OVER, status=status, result=result, waits_for=())
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
                return self._with(
                    status=SagaStatus.COMPENSATING, run=event.run, terminated=False, suspended=False
                )
            case _:
                return self

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The events that the saga's waiting steps wait for. Each step takes one."""
        if self.status is not SagaStatus.RUNNING:
            return ()
        waiting = [step for step in self.steps.values() if step.status is StepStatus.WAITING]
        return tuple(event for step in waiting for event in step.waits_for)

    @property
    def results(self) -> dict[str, Any]:
        """The results of the steps that completed, including results of None.

        An uncertain step that is being compensated may have failed: with None it is left out.
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
        """Whether a workflow has to run the saga: it has begun, and has not ended."""
        return self.status is not SagaStatus.NONE and not self.status.ended

    @property
    def awaited_by_parent(self) -> bool:
        """Whether the saga is active, and not only because people retry what was `left`.

        The saga that started this one does not wait for such a retry.
        """
        return self.active and not self.left

    def step(self, name: str) -> StepState:
        """Return the state of a step; a step that was not declared when the saga began is pending."""
        return self.steps.get(name) or StepState()

    def answer_to(self, step: str) -> Raised | None:
        """Return the raised event that a step waits for and has not taken yet; None if there is none.

        Steps that wait at the same time share no event. Of several, a step takes the first it declares.
        """
        names = self.step(step).waits_for
        return next((one for name in names for one in self.raised if one.event == name), None)

    def runs_for(self, saga_type: str, business_key: str) -> bool:
        """Return whether this is the active saga of a type for a business key.

        A claim may name a saga for which this is false, because its start was refused after the claim.
        """
        return self.active and (self.saga_type, self.business_key) == (saga_type, business_key)

    def as_started(self) -> SagaStarted:
        """Return the event that began the saga."""
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
        """Raise NotFound or RuleViolation unless the saga has ended."""
        self._require_there()
        if not self.status.ended:
            raise RuleViolation("saga.active", f"the saga is {self.status}; cancel or terminate it first")

    def to_undo(self) -> list[tuple[str, int]]:
        """Return the steps to compensate, the earliest first, each with its number of finished compensations.

        These are the steps that an earlier run left, or those that this run has not compensated yet. A
        compensation that failed counts as finished.
        """
        done = dict.fromkeys(self.undo_order)
        done |= dict.fromkeys(name for name, step in self.steps.items() if step.uncertain)
        wanted = self.left or done
        steps = {name: self.step(name) for name in done | dict.fromkeys(self.left) if name in wanted}
        taken_back = StepStatus.COMPENSATED
        return [
            (name, step.finished_undo_attempts)
            for name, step in steps.items()
            if step.status is not taken_back
        ]

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


def _taken(raised: Sequence[str], waits: Iterable[tuple[str, ...]]) -> list[str | None]:
    """Return the raised event that each wait takes, or None.

    The engine lets the waits take them in this way: one wait after the other, each by the order of its names.
    """
    left = list(raised)
    taken: list[str | None] = []
    for events in waits:
        taken.append(next((event for event in events if event in left), None))
        if (one := taken[-1]) is not None:
            left.remove(one)
    return taken
