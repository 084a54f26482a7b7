"""The engine of a declared saga: a generator that asks a workflow for one task after another. Pure.

It runs on Dapr Workflow (`annals.sagas.workflow`) and in tests (`annals.testing`). A workflow is replayed
from its history, so this code and the declaration must ask for the same tasks in the same order each time. A
change of that order here breaks the sagas that are running.

Activities record the transitions of a saga in its stream. Each activity takes along the transitions since the
last one, so the history costs no activity of its own while action follows action. There is one exception,
because a wait may take days: once parallel steps do nothing but wait, an activity records what came before.

If a workflow is lost, the saga is run again from its stream (see `run`). Completed steps are not asked for
again; a step that had begun is asked for once more, under the same key; a wait goes on to its deadline; and
an event that was raised and not taken is delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pydantic_core import to_jsonable_python

from annals.events import EventData
from annals.sagas.branches import Branch, run_branch, run_concurrently
from annals.sagas.calls import describe
from annals.sagas.declaration import (
    CANCEL,
    Action,
    AwaitEvent,
    Parallel,
    Retry,
    Saga,
    StartSaga,
    StartSagas,
    Step,
)
from annals.sagas.events import (
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaError,
    SagaFailed,
    SagaResumed,
    SagaWaiting,
    StepCompensated,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    recordable,
)
from annals.sagas.start import child_id, context_of, entry
from annals.sagas.step_state import StepState, StepStatus
from annals.sagas.tasks import AnyOf, Raised, Task, Workflow


class _Stop(Exception):
    """The saga will not complete, and has to be compensated. The message is the reason."""


class _Ended(BaseException):
    """An activity has found that the workflow has nothing more to do. `how` is the saga's end, if known.

    This is no `Exception`, so that no handler for the errors of declarations and activities catches it.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__()
        self.how = {"status": told.get("status", "ended"), "reason": told.get("reason")}


def run(
    saga: Saga[Any], workflow: Workflow, start: Mapping[str, Any]
) -> Generator[Task, Any, dict[str, Any]]:
    """Run a saga, or compensate the steps that `start["undo"]` names. Return its status and output or reason.

    `start` comes from `start_of`. For a saga that is run again, `known` has the states of its steps,
    `undo_order` the steps that a compensation would undo, `raised` the events that no step has taken, and
    `cancel` the reason for a cancellation, if one was requested.
    """
    ended: dict[str, Any] = yield from run_branch(_Run(saga, workflow, start).run(), workflow)
    return ended


def _text_of(error: Exception) -> str:
    """Return an unforeseen error as text for a saga's history."""
    return recordable(f"{type(error).__name__}: {error}")


def _reason_of(failed: StepState) -> str:
    """Return why a step failed, from what an earlier run recorded."""
    if failed.error is not None:
        return failed.error.message
    return (failed.result or {}).get("event") or "nobody answered in time"


class _Run:
    def __init__(self, saga: Saga[Any], workflow: Workflow, start: Mapping[str, Any]) -> None:
        self._saga = saga
        self._workflow = workflow
        self._start = start
        self._context = context_of(saga, start)
        self._results = self._context.results
        self._common = {name: start.get(name) for name in ("id", "tenant", "user", "correlation_id")}
        self._common["run"] = start.get("run", 0)
        self._unrecorded: list[dict[str, Any]] = []
        self._undo: deque[tuple[Step, int]] = deque()
        self._events: dict[str, Task] = {}
        self._completion_recorded = False
        self._cancel_reason: str | None = None
        if "begun" in start:
            self._unrecorded.append(start["begun"])
        self._steps = {step.name: step for step in saga.flat()}
        known = start.get("known") or {}
        self._known = {name: StepState.model_validate(known.get(name, {})) for name in self._steps}
        self._results |= {
            name: step.result for name, step in self._known.items() if step.status is StepStatus.COMPLETED
        }
        self._undo.extend((self._steps[name], 0) for name in start.get("undo_order") or ())
        self._raised = deque(start.get("raised") or ())
        self._taken: set[int] = set()
        if start.get("cancel") is not None:
            self._events[CANCEL] = Raised({"reason": start["cancel"]})

    def run(self) -> Branch:
        try:
            if (undo := self._start.get("undo")) is not None:
                self._undo.extend((self._steps[name], tried) for name, tried in undo)
                return (yield from self._compensate(self._start["reason"]))
            try:
                output = yield from self._forward()
            except _Stop as stop:
                return (yield from self._compensate(str(stop)))
            except Exception as error:  # noqa: BLE001 - a declaration's function may fail in any way
                return (yield from self._compensate(_text_of(error)))
            else:
                return {"status": "completed", "output": output}
        except _Ended as ended:
            return ended.how

    # --- forward ---

    def _forward(self) -> Branch:
        for index, block in enumerate(self._saga.steps):
            steps = block.steps if isinstance(block, Parallel) else (block,)
            if all(self._known[step.name].status is StepStatus.PENDING for step in steps):
                # A block that an earlier run began is entered even after a cancel: what it began may have to
                # be compensated.
                self._stop_if_cancelled()
            needed = []
            for step in steps:
                if step.when is None or step.when(self._context):
                    needed.append(step)
                else:
                    self._note(StepSkipped(step=step.name))
            last = index == len(self._saga.steps) - 1 and self._saga.output is None
            if len(needed) == 1:
                yield from self._step(needed[0], last=last)
            elif needed:
                stops = yield from self._concurrently([self._branch(step) for step in needed], len(needed))
                for stop in stops:
                    if stop is not None:
                        raise stop
        output = to_jsonable_python(self._saga.output(self._context)) if self._saga.output else None
        if not self._completion_recorded:
            yield from self._record(SagaCompleted(output=output))
        return output

    def _branch(self, step: Step) -> Branch:
        """Run a parallel step. Return its failure, whatever it is: it is raised once all steps are over."""
        try:
            yield from self._step(step, last=False)
        except _Stop as stop:
            return stop
        except Exception as error:  # noqa: BLE001 - a declaration's function may fail in any way
            return _Stop(f"{step.name}: {_text_of(error)}")
        return None

    def _step(self, step: Step, *, last: bool) -> Branch:
        known = self._known[step.name]
        if known.status is StepStatus.COMPLETED:
            return
        if known.status is StepStatus.FAILED:
            raise _Stop(f"{step.name}: {_reason_of(known)}")
        match step.action:
            case AwaitEvent():
                yield from self._await(step, step.action)
            case StartSaga():
                yield from self._run_child(step, step.action)
            case StartSagas():
                yield from self._run_children(step, step.action)
            case action:
                yield from self._act(step, action, last=last)

    def _act(self, step: Step, action: Action, *, last: bool) -> Branch:
        call = describe(action, self._context)
        known = self._known[step.name]
        uncertain, attempt = known.uncertain, known.finished_attempts
        if attempt and attempt == known.attempts:
            yield from self._until_the_next_try(step, attempt, uncertain=uncertain)
        while True:
            attempt += 1
            final = attempt > step.retry.max_retries
            # The completion of the saga is recorded together with the success of its last step.
            then = [entry(SagaCompleted())] if last else []
            try:
                done = yield from self._perform(step, call, attempt, final=final, then=then, undo=False)
            except Exception as error:
                # The activity itself failed, and its action may have taken effect: it is compensated.
                message = _text_of(error)
                why = SagaError(kind="failed", message=message)
                self._note(StepFailed(step=step.name, attempt=attempt, error=why, final=True, uncertain=True))
                self._undo.append((step, 0))
                raise _Stop(f"{step.name}: {message}") from error
            if done["outcome"] == "done":
                self._results[step.name] = done["result"]
                self._undo.append((step, 0))
                self._completion_recorded = last
                if not last:
                    completed = StepCompleted(step=step.name, attempt=attempt, result=done["result"])
                    self._unrecorded.append(entry(completed, done["at"]))
                return
            uncertain = uncertain or done["uncertain"]
            if final or done["outcome"] == "rejected":
                if uncertain:
                    # The step may have taken effect. If it has not, compensating it does no harm.
                    self._undo.append((step, 0))
                raise _Stop(f"{step.name}: {done['message']}")
            yield from self._until_the_next_try(step, attempt, uncertain=uncertain)

    def _perform(
        self,
        step: Step,
        call: Mapping[str, Any],
        attempt: int,
        *,
        final: bool,
        then: Sequence[Mapping[str, Any]],
        undo: bool,
    ) -> Branch:
        before = self._take_unrecorded()
        asked = {
            "before": before,
            "step": step.name,
            "undo": undo,
            "attempt": attempt,
            "final": final,
            "timeout": step.timeout.total_seconds(),
            "call": call,
            "then": list(then),
        }
        done = yield from self._call_and_record(before, "perform", asked)
        if done["outcome"] == "ended":
            raise _Ended(done)
        self._cancel_reason = self._cancel_reason or done["cancel"]
        return done

    def _until_the_next_try(self, step: Step, attempt: int, *, uncertain: bool) -> Branch:
        try:
            self._stop_if_cancelled()
            yield AnyOf((self._workflow.timer(step.retry.wait(attempt)), self._event(CANCEL)))
            self._stop_if_cancelled()
        except _Stop:
            if uncertain:
                self._undo.append((step, 0))
            raise

    def _await(self, step: Step, action: AwaitEvent) -> Branch:
        cancel = self._event(CANCEL)
        names = action.names
        deadline = self._known[step.name].deadline
        if deadline is None:
            delay = action.deadline(self._context)
            yield from self._record(
                SagaWaiting(step=step.name, events=names, deadline=self._workflow.now + delay)
            )
        else:
            delay = max(deadline - self._workflow.now, timedelta(0))
        self._stop_if_cancelled()
        timer = self._workflow.timer(delay)
        raised, payload = None, dict[str, Any]()
        while True:
            waited = {name: self._event(name) for name in names}
            yield AnyOf((*waited.values(), cancel, timer))
            raised = next((name for name in names if waited[name].is_complete), None)
            if raised is None:
                self._stop_if_cancelled()
                payload = yield from self._answer_at_the_deadline(step)
                raised = payload["event"]
                break
            payload = self._consume(raised)
            if payload.get("number") not in self._taken:
                break
        data, user, number = payload.get("data"), payload.get("user"), payload.get("number")
        if number is not None:
            self._taken.add(number)
        refused = raised in action.refusals
        self._note(
            SagaResumed(step=step.name, event=raised, number=number, refused=refused, data=data, user=user)
        )
        if refused:
            raise _Stop(f"{step.name}: {raised}")
        self._results[step.name] = {"event": raised, "data": data}
        self._undo.append((step, 0))

    def _answer_at_the_deadline(self, step: Step) -> Branch:
        """Return the answer that is in the saga's history, but has not come here by the deadline.

        If there is none, record that the wait is over, so that no answer is accepted any more. Raises _Stop.
        """
        over = SagaResumed(step=step.name, event=None)
        if self._workflow.asks_at_the_deadline:
            try:
                done = yield from self._record(over, deadline_of=step.name)
            except Exception:  # noqa: BLE001 - what the history does not take now, the compensation records
                self._note(over)
            else:
                if done["answer"] is not None:
                    return done["answer"]
        else:
            self._note(over)
        raise _Stop(f"{step.name}: nobody answered in time")

    # --- other sagas ---

    def _run_child(self, step: Step, action: StartSaga) -> Branch:
        [ended] = yield from self._children(step, action.saga, [action.input(self._context)], 1)
        if ended["status"] != "completed":
            message = ended.get("reason") or f"saga {ended['id']} ended {ended['status']}"
            error = SagaError(kind="rejected", message=message)
            self._note(StepFailed(step=step.name, attempt=1, error=error, final=True))
            raise _Stop(f"{step.name}: {message}")
        self._step_done(step, ended)

    def _run_children(self, step: Step, action: StartSagas) -> Branch:
        inputs = list(action.inputs(self._context))
        ended = yield from self._children(step, action.saga, inputs, action.concurrency)
        counts: dict[str, int] = {}
        for one in ended:
            counts[one["status"]] = counts.get(one["status"], 0) + 1
        failed = [one for one in ended if one["status"] != "completed"]
        self._step_done(step, {"total": len(ended), "by_status": counts, "not_completed": failed})

    def _step_done(self, step: Step, result: Any) -> None:
        self._results[step.name] = result
        self._undo.append((step, 0))
        self._note(StepCompleted(step=step.name, attempt=1, result=result))

    def _children(
        self, step: Step, saga: str, inputs: Sequence[Mapping[str, Any]], concurrency: int
    ) -> Branch:
        plain = to_jsonable_python(list(inputs))
        yield from self._record_started(step)
        branches = [self._child(step, saga, index, given) for index, given in enumerate(plain)]
        ended = yield from self._concurrently(branches, concurrency)
        if self._event(CANCEL).is_complete:
            self._step_done(step, {"total": len(inputs), "cancelled": True})
            self._stop_if_cancelled()
        return ended

    def _record_started(self, step: Step) -> Branch:
        yield from self._record(StepStarted(step=step.name, attempt=1))

    def _child(self, step: Step, saga: str, index: int, given: Mapping[str, Any]) -> Branch:
        """Run a child saga, and return how it ended. Failures are returned, too, so that others go on."""
        saga_id = child_id(self._start["id"], step.name, index)
        try:
            ended = yield from self._child_to_its_end(step, saga, saga_id, given)
        except Exception as error:  # noqa: BLE001 - an activity may fail in any way
            ended = {"status": "failed", "reason": _text_of(error)}
        return {"id": saga_id, "status": ended["status"], "reason": ended.get("reason")}

    def _child_to_its_end(self, step: Step, saga: str, saga_id: str, given: Mapping[str, Any]) -> Branch:
        cancel = self._event(CANCEL)
        may_have_begun = self._known[step.name].status is StepStatus.RUNNING
        if cancel.is_complete and not may_have_begun:
            return {"status": "not_started", "reason": "cancelled"}
        call = {"child": saga_id, "type": saga, "input": dict(given), "cancelled": cancel.is_complete}
        begun = yield self._workflow.activity("begin_child", self._common | call)
        if begun["refused"] is not None:
            return {"status": "not_started", "reason": begun["refused"]}
        if begun["start"] is None:
            return begun
        child = self._workflow.child(begun["start"])
        yield AnyOf((child, cancel))
        if not child.is_complete:
            yield self._workflow.activity("cancel_child", self._common | {"child": saga_id})
            yield AnyOf((child,))
        try:
            return child.get_result()
        except Exception:
            # The child's workflow was terminated, or it failed. The child's stream says how it ended and why.
            found = yield self._workflow.activity("begin_child", self._common | call | {"begun": True})
            if found["start"] is not None:
                raise
            return found

    def _concurrently(self, branches: Sequence[Branch], limit: int) -> Branch:
        return (yield from run_concurrently(branches, limit, self._record_before_waiting))

    # --- back ---

    def _compensate(self, reason: str) -> Branch:
        self._note(SagaCompensating(reason=reason))
        left: list[str] = []
        while self._undo:
            step, tried = self._undo.pop()
            if step.compensation is None:
                continue
            if not (yield from self._take_back(step, step.compensation, tried)):
                left.append(step.name)
        if left:
            yield from self._record(SagaFailed(reason=reason, left=tuple(left)))
        else:
            yield from self._record(SagaCompensated(reason=reason))
        return {"status": "failed" if left else "compensated", "reason": reason}

    def _take_back(self, step: Step, compensation: Action, tried: int) -> Branch:
        def failed(error: Exception, attempt: int, *, final: bool) -> None:
            why = SagaError(kind="failed", message=_text_of(error))
            self._note(StepFailed(step=step.name, attempt=attempt, error=why, final=final, compensation=True))

        try:
            call = describe(compensation, self._context)
        except Exception as error:  # noqa: BLE001 - a declaration's function may fail in any way
            failed(error, tried + 1, final=True)
            return False
        retry: Retry = step.compensation_retry
        for attempt in range(1, retry.max_retries + 2):
            final = attempt > retry.max_retries
            number = tried + attempt
            try:
                done = yield from self._perform(step, call, number, final=final, then=(), undo=True)
            except Exception as error:  # noqa: BLE001 - the other steps are still to be compensated
                failed(error, number, final=final)
                done = {"outcome": "failed"}
            if done["outcome"] == "done":
                undone = StepCompensated(step=step.name, attempt=number)
                self._unrecorded.append(entry(undone, done["at"]))
                return True
            if done["outcome"] == "rejected":
                return False
            if not final:
                yield self._workflow.timer(retry.wait(attempt))
        return False

    # --- what is recorded, and what is waited for ---

    def _note(self, event: EventData) -> None:
        self._unrecorded.append(entry(event, self._workflow.now.isoformat()))

    def _take_unrecorded(self) -> list[dict[str, Any]]:
        taken, self._unrecorded = self._unrecorded, []
        return taken

    def _call_and_record(self, before: list[dict[str, Any]], name: str, call: dict[str, Any]) -> Branch:
        """Call an activity that records the transitions in `before`. If it fails, the next one does."""
        try:
            return (yield self._workflow.activity(name, self._common | call))
        except Exception:
            # The entries may be recorded already; recording them again does no harm. They go before those
            # that parallel steps may have added by now.
            self._unrecorded[:0] = before
            raise

    def _record_before_waiting(self) -> Branch:
        """Record the transitions so far, while there is no other activity to take them along."""
        if not self._unrecorded or not self._workflow.records_before_waiting:
            return
        with suppress(Exception):  # the next activity records them, or fails visibly
            yield from self._record()

    def _record(self, *events: EventData, deadline_of: str | None = None) -> Branch:
        """Record the transitions so far and `events`. If that fails, only the transitions are tried again.

        `deadline_of` names a step whose wait is to be over, unless it has an answer: see
        `SagaActivities.record`, whose answer this returns.
        """
        before = self._take_unrecorded()
        entries = [*before, *(entry(event, self._workflow.now.isoformat()) for event in events)]
        call = {"entries": entries} | ({"deadline_of": deadline_of} if deadline_of else {})
        done = yield from self._call_and_record(before, "record", call)
        if done["over"]:
            raise _Ended(done)
        self._cancel_reason = self._cancel_reason or done["cancel"]
        return done

    def _stop_if_cancelled(self) -> None:
        if CANCEL not in self._events and (raised := self._workflow.raised(CANCEL)) is not None:
            self._events[CANCEL] = raised
        cancel = self._events.get(CANCEL)
        if cancel is not None and cancel.is_complete:
            self._cancel_reason = cancel.get_result()["reason"]
        if self._cancel_reason is not None:
            raise _Stop(self._cancel_reason)

    def _event(self, name: str) -> Task:
        """Return the only wait for events of a name: two waits would take turns at the raised events."""
        if name not in self._events:
            before = next((one for one in self._raised if one["event"] == name), None)
            if before is not None:
                self._raised.remove(before)
            self._events[name] = self._workflow.event(name) if before is None else Raised(before)
        return self._events[name]

    def _consume(self, name: str) -> dict[str, Any]:
        payload: dict[str, Any] = self._events.pop(name).get_result()
        return payload
