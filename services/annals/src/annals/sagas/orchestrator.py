"""Carries out requests on sagas: start one, raise an event, cancel, terminate, suspend, restart and others.

A start schedules the workflow first. From then on the workflow runs, whatever process dies, and its first
record is that the saga was started. Every other request first appends an event to the saga's stream, which
says what is wanted, and then makes the workflow follow. A request is acknowledged only when both are done. It
may be repeated: the repeat does what is left to do.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import ValidationError

from annals.aggregates.aggregate import RuleViolation
from annals.dapr import DaprError, Workflows, WorkflowStalled
from annals.sagas.claims import ClaimContended, Claims, SagaRuns
from annals.sagas.declaration import Saga, SagaCatalog
from annals.sagas.engine import CANCEL
from annals.sagas.events import SagaFailed, SagaStarted
from annals.sagas.history import Decide, Decided, SagaHistory, SagaKey
from annals.sagas.start import answerer, beginning, children, start_of, waits
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.step_state import StepStatus
from annals.store import MAX_EVENT_BYTES, AppendTooLarge, StoreError, require_publishable
from annals.telemetry import metrics

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_NOT_YET_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # pauses before each look for a workflow
_INSIST_SECONDS = 1.0  # between the attempts of `_insist`
_UNWANTED = "the saga that started it had ended, or was cancelled"
_UNBEGUN = "its workflow did not begin"
_HELD = "it was cancelled while its workflow was held"
_TAKEN = "another saga has this id"
_LOST = "its workflow was lost, and the saga that started it went on"


class UnknownSaga(Exception):
    """No saga of this type is declared; `known` lists the types that are."""

    def __init__(self, saga_type: str, known: list[str]) -> None:
        super().__init__(f"no saga is called {saga_type!r}")
        self.known = known


class NotBegun(Exception):
    """A saga's workflow does not exist yet, but will."""

    def __init__(self, key: SagaKey) -> None:
        super().__init__(f"the workflow of saga {key.id} has not begun yet")


class NotDeclared(Exception):
    """This replica does not declare the version of a saga, or refuses its input: not yet, or not any more.

    A request that needs the declaration is refused. A workflow for it would be held by Dapr until a worker
    knows the version, or would fail at its first turn.
    """


@dataclass(frozen=True, slots=True)
class Asker:
    """The user who makes a request on a saga, and the trace of the request."""

    user: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of a start. `created` is false if an earlier request already started this saga."""

    id: str
    created: bool


class Orchestrator:
    """Carries out the requests on the sagas of a catalogue, and begins and cancels children for workflows."""

    def __init__(
        self,
        catalog: SagaCatalog,
        history: SagaHistory,
        claims: Claims,
        workflows: Workflows,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """A start is refused if its event takes more than `max_event_bytes`.

        Later events of a saga are recorded however large they are: a hole in the history would be worse than
        an event that only the store has.
        """
        self._catalog = catalog
        self._history = history
        self._claims = claims
        self._workflows = workflows
        self._max_event_bytes = max_event_bytes
        for saga_type in catalog.types:
            # A counter that appears with its first failure would show no increase, and alert nobody.
            metrics.SAGA_TRANSITIONS.labels(saga_type, SagaFailed.event_type)

    async def start(
        self,
        key: SagaKey,
        saga_type: str,
        given: Mapping[str, Any],
        traceparent: str | None,
        *,
        new: bool = False,
        caused_at: datetime | None = None,
    ) -> Started:
        """Start a saga. A repeat with the same input, under the same id or business key, finds the first.

        `new` says that the id was generated just now. `caused_at` is the time of the domain event that asks
        for the saga, if one does. Raises UnknownSaga, pydantic's ValidationError, SagaRuns, RuleViolation,
        ClaimContended, DaprError and the errors of the store.
        """
        started = self._started(key, saga_type, given, caused_at=caused_at)
        if not new:
            # Before the claim: neither a start that is refused nor a saga that has ended may claim a key.
            _, known = await self._history.load(key, certain=False)
            if known.status is not SagaStatus.NONE:
                self._require_same(known, started, given)
                return Started(key.id, created=False)
        try:
            await self._claims.take(key, started, self.begin_claimed)
        except SagaRuns as running:
            if not self._is_same(running.state, started, given):
                raise
            return Started(running.key.id, created=False)
        self._require_same(await self._begin(key, started, traceparent), started, given)
        return Started(key.id, created=True)

    async def begin_claimed(self, key: SagaKey, started: SagaStarted) -> SagaState:
        """Begin a saga that another request has claimed. The workflow of a child is left to its parent."""
        if started.parent is None:
            return await self._begin(key, started, None)
        return await self._history.record(key, [beginning(started)], None)

    async def begin_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Begin a child saga for its parent's workflow, or go on with it if the parent is run again.

        `start` in the answer is the input of the child's workflow. Without it, the child was `refused`, or it
        has ended. A call with `begun` comes after the child's workflow failed: if the child has not ended, it
        is given up (see `_give_up`).
        """
        return await _insist(lambda: self._begin_child(call, traceparent))

    async def _begin_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        key, run = replace(SagaKey.of(call), id=call["child"]), call["run"]
        state = await self.load(key) if run or call.get("begun") else SagaState()
        try:
            if state.status is SagaStatus.NONE:
                if call["cancelled"]:
                    return {"refused": "cancelled", "start": None}
                started = self._started(key, call["type"], call["input"], parent=call["id"])
                await self._claims.take(key, started, self.begin_claimed)
                state = await self._history.record(key, [beginning(started)], traceparent)
        except (UnknownSaga, ValueError, SagaRuns, RuleViolation, AppendTooLarge) as error:
            return {"refused": str(error), "start": None}
        if state.parent != call["id"]:
            # Its id can be known before it is there: somebody else began another under it.
            return {"refused": _TAKEN, "start": None}
        if state.status is SagaStatus.PENDING and not await self._is_wanted(SagaKey.of(call), run):
            await self._decide(key, lambda now: now.end_unbegun(_UNWANTED), Asker(key.user, traceparent))
            return {"refused": _UNWANTED, "start": None}
        if state.run < run:
            why = "the saga that started it was restarted"
            state = await self._decide(
                key,
                lambda now: now.restart(run, why) if now.awaited_by_parent else (),
                Asker(key.user, traceparent),
            )
        if state.awaited_by_parent:
            if run:
                await self._claims.keep(key, state.as_started())
            if call.get("begun"):
                await self._give_up(key, SagaKey.of(call), run, traceparent)
            return {"refused": None, "start": _start(key, state)}
        status = state.status if state.status.ended else SagaStatus.FAILED
        return {"refused": None, "start": None, "status": status, "reason": state.reason}

    async def _is_wanted(self, parent: SagaKey, run: int) -> bool:
        """Return whether a parent will see its new child through, in run `run` or in its next run.

        The child is in the store before this is asked. So whoever ends or cancels the parent either finds the
        child there, or is noticed here.
        """
        above = await self.load(parent)
        return above.awaited_by_parent and (above.run == run or not above.cancel_requested)

    async def _give_up(self, key: SagaKey, parent: SagaKey, run: int, traceparent: str | None) -> None:
        """Cancel a child saga whose workflow is lost, and which its parent counts as failed.

        The watch restarts the child when it finds it standing still, and so has it compensated. If the parent
        was restarted itself, its new run goes on with the child, which is not cancelled.
        """
        above = await self.load(parent)
        if above.awaited_by_parent and above.run == run:
            asker = Asker(key.user, traceparent)
            await self._decide(
                key, lambda now: now.cancel(_LOST) if now.awaited_by_parent and now.run == run else (), asker
            )

    async def cancel_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Cancel a child saga, because its parent was cancelled."""
        key = replace(SagaKey.of(call), id=call["child"])
        why, asker = "the saga that started it was cancelled", Asker(key.user, traceparent)
        try:
            await _insist(lambda: self.cancel(key, why, asker))
        except RuleViolation as error:
            _log.info("a saga ended before it could be cancelled", saga=key.id, reason=str(error))
        return {}

    async def load(self, key: SagaKey) -> SagaState:
        """Return the current state of a saga; its status is `none` if there is no such saga."""
        _, state = await self._history.load(key)
        return state

    async def raise_event(self, key: SagaKey, event: str, data: Any, asker: Asker) -> None:
        """Raise an event that a step of the saga waits for, now or later.

        Raises NotFound, RuleViolation, PermissionError, NotDeclared, NotBegun, DaprError and the errors of
        the store.
        """
        state, user, asked_at = await self.load(key), asker.user, datetime.now(UTC)
        saga = None
        declared: dict[str, tuple[str, ...]] = {}
        if state.status is not SagaStatus.NONE:
            saga = self.require_declared(state)
            declared = waits(saga)
        state.require_raisable(event, declared, asked_at)
        try:
            allowed = answerer(saga, event, _start(key, state)) if saga else None
        except Exception as error:
            if event in state.waits_for:
                raise
            # `by` may need the result of a step that is not over yet.
            raise RuleViolation("saga.not_waiting", f"nobody can say yet who may raise {event}") from error
        if allowed is not None and user != allowed:
            raise PermissionError(f"only {allowed} may answer this")
        state = await self._decide(
            key, lambda now: now.raise_event(event, data, user, declared, asked_at), asker
        )
        mine = (event, data, user)
        [payload] = [one.model_dump() for one in state.raised if (one.event, one.data, one.user) == mine]
        if not await self._raised(key, state, event, payload):
            raise NotBegun(key)

    async def cancel(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """Cancel a saga, which is then compensated. Raises NotFound, RuleViolation and DaprError."""
        state = await self._decide(key, lambda state: state.cancel(reason), asker)
        if state.status is not SagaStatus.COMPENSATING:
            # A workflow that is missing was lost. The one that replaces it reads the cancel from the stream.
            try:
                await self._raised(key, state, CANCEL, {"reason": state.cancel_reason})
            except WorkflowStalled:
                # Dapr may hold the workflow for ever, and the follower of domain events would wait for it.
                # Nor would the workflow learn of the cancel once it goes on. So it is replaced, unless the
                # saga is not declared here. A suspended saga is left to the watch, and so is a child, whose
                # parent may be the one that asks.
                if len(await self.lineage(key, state)) == 1 and not state.suspended:
                    with suppress(NotDeclared):
                        return await self.restart(key, _HELD, asker)
        return state

    async def _raised(self, key: SagaKey, state: SagaState, event: str, payload: dict[str, Any]) -> bool:
        """Raise an event to the workflow of a saga's current run; return False if there is none."""
        return await self._with_workflow(
            key, state, lambda instance: self._workflows.raise_event(instance, event, payload)
        )

    async def _with_workflow(
        self, key: SagaKey, state: SagaState, tell: Callable[[str], Awaitable[bool]]
    ) -> bool:
        """Call `tell` for the workflow of a saga's current run; return False if there is none."""
        for wait in _NOT_YET_SECONDS:
            # A child saga, or one that is restarted, is in its stream before it has a workflow.
            await asyncio.sleep(wait)
            if await tell(instance_id(key, state.run)):
                return True
        return False

    async def terminate(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """End a saga and its children where they stand, without compensation.

        If the saga's version is not declared here, nobody knows which steps have a compensation: all steps
        with an effect count as left. If its version is not declared or its input is refused, its children are
        not known either: see `end_with_parent`.
        """
        state = await self._decide(key, lambda state: state.terminate(reason, self._undoable(state)), asker)
        await self._end_workflows(key, state.run + 1)
        # Dapr ends the workflows of the children with this one. Their streams must say so, too.
        for child in self._running_children(key, state) or ():
            child_state = await self.load(child)
            if child_state.active and child_state.parent == key.id:
                await self.terminate(child, _terminated(key), asker)
        return state

    async def end_with_parent(self, key: SagaKey, state: SagaState, asker: Asker) -> bool:
        """Terminate a child that was not known when its parent was terminated; return False for other sagas.

        Dapr ended the child's workflow together with the parent's. A cancelled child is not terminated: its
        parent may have gone on without it, and it has to be compensated.
        """
        if state.parent is None or not state.awaited_by_parent or state.cancel_requested:
            return False
        parent = replace(key, id=state.parent)
        if not (await self.load(parent)).terminated:
            return False
        await self.terminate(key, _terminated(parent), asker)
        return True

    async def suspend(self, key: SagaKey, asker: Asker) -> SagaState:
        """Suspend a saga. Also raises NotBegun: a workflow that begins later would not be suspended."""
        state = await self._decide(key, lambda state: state.suspend(), asker)
        if not await self._with_workflow(key, state, self._workflows.pause):
            raise NotBegun(key)
        return state

    async def resume(self, key: SagaKey, asker: Asker) -> SagaState:
        """Resume a suspended saga."""
        state = await self._decide(key, lambda state: state.resume(), asker)
        await self._workflows.resume(instance_id(key, state.run))
        return state

    async def restart(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """Let a saga that stands still go on from its history, in a new workflow.

        What the earlier workflow does from then on has no effect. A child is restarted with its parent, for
        as long as the parent waits for it. Raises NotDeclared, before anything is recorded, if this replica
        cannot run the saga.
        """
        state = await self.load(key)
        root, _ = (await self.lineage(key, state))[-1]
        if root != key:
            await self.restart(root, reason, asker)
            return await self.load(key)
        before = state.run
        state = await self._decide_here(key, lambda now: now.restart(before + 1, reason), asker)
        await self.replace_workflow(key, state, asker)
        return state

    async def replace_workflow(self, key: SagaKey, state: SagaState, asker: Asker) -> None:
        """End the workflows of a saga's earlier runs, and start that of its current run.

        This is what a restart still has to do if it fails after its record. It may be repeated.
        """
        await self._end_workflows(key, state.run)
        await self._claims.keep(key, state.as_started())
        await self._start_workflow(key, state, asker.traceparent)

    async def _end_workflows(self, key: SagaKey, runs: int) -> None:
        """End the workflows of the first `runs` runs: an earlier restart may have failed before it did so."""
        for run in range(runs):
            await self._workflows.terminate(instance_id(key, run))

    async def lineage(self, key: SagaKey, state: SagaState) -> list[tuple[SagaKey, SagaState]]:
        """Return a saga, its parent, and so on to the saga that no other waits for.

        A parent no longer waits if it has ended, or if it went on without a child whose workflow was lost.
        Nor does it wait for a saga that people retry.
        """
        line = [(key, state)]
        while state.awaited_by_parent and state.parent is not None:
            child, key = key, replace(key, id=state.parent)
            state = await self.load(key)
            if not state.awaited_by_parent:
                break
            running = self._running_children(key, state)
            if running is not None and child not in running:
                break
            line.append((key, state))
        return line

    async def retry(self, key: SagaKey, asker: Asker) -> SagaState:
        """Compensate the steps that are left. Raises NotDeclared, as `restart` does."""
        state = await self._decide_here(key, SagaState.retry_compensation, asker)
        await self._start_workflow(key, state, asker.traceparent)
        return state

    async def purge(self, key: SagaKey) -> None:
        """Purge the workflows of an ended saga; its stream stays. Raises NotFound and RuleViolation."""
        state = await self.load(key)
        state.require_ended()
        for run in range(state.run + 1):
            await self._workflows.purge(instance_id(key, run))

    def _started(
        self,
        key: SagaKey,
        saga_type: str,
        given: Mapping[str, Any],
        *,
        parent: str | None = None,
        caused_at: datetime | None = None,
    ) -> SagaStarted:
        try:
            saga = self._catalog.newest(saga_type)
        except KeyError:
            raise UnknownSaga(saga_type, self._catalog.types) from None
        validated = saga.input.model_validate(given)
        stored = validated.model_dump(mode="json")
        saga.input.model_validate(stored)  # each turn of the workflow begins with this
        started = SagaStarted(
            started_at=datetime.now(UTC),
            caused_at=caused_at,
            user=key.user,
            correlation_id=key.correlation_id,
            saga_type=saga.type,
            saga_version=saga.version,
            business_key=saga.business_key(validated) if saga.business_key else None,
            input=stored,
            steps=tuple(step.name for step in saga.flat()),
            parent=parent,
        )
        require_publishable(
            started.event_type, orjson.dumps(started.model_dump(mode="json")), self._max_event_bytes
        )
        return started

    async def _begin(self, key: SagaKey, started: SagaStarted, traceparent: str | None) -> SagaState:
        """Schedule the workflow and record the start.

        If there is a workflow already, it may have another input: what it records is then the saga. If it
        records nothing, it is replaced, so that the start that is acknowledged is the one that happens.

        If the saga has run and ended after all, it runs again over its own records, and finds each step done.
        """
        if await self._start_workflow(key, SagaState().apply(started), traceparent):
            return await self._history.record(key, [beginning(started)], traceparent)
        for wait in _NOT_YET_SECONDS:
            await asyncio.sleep(wait)
            _, state = await self._history.load(key, certain=False)
            if state.status is not SagaStatus.NONE:
                return state
        asker = Asker(key.user, traceparent)
        state = await self._decide(key, lambda now: now.begin_anew(started, _UNBEGUN), asker)
        if state.run:
            await self.replace_workflow(key, state, asker)
        return state

    async def _start_workflow(self, key: SagaKey, state: SagaState, traceparent: str | None) -> bool:
        return await self._workflows.start(
            state.saga_type, instance_id(key, state.run), _start(key, state), traceparent
        )

    async def _decide(self, key: SagaKey, decide: Decide, asker: Asker) -> SagaState:
        return await self._history.decide(key, decide, traceparent=asker.traceparent, user=asker.user)

    async def _decide_here(self, key: SagaKey, decide: Decide, asker: Asker) -> SagaState:
        """Decide on what a workflow will carry out. Raises NotDeclared, unless `decide` refuses before."""

        def decided(state: SagaState) -> Decided:
            events = decide(state)
            self.require_declared(state)
            return events

        return await self._decide(key, decided, asker)

    def _running_children(self, key: SagaKey, state: SagaState) -> list[SagaKey] | None:
        """Return the children that a saga runs; None if its version is not declared or refuses its input."""
        saga = self._declared(state)
        if saga is None:
            return None
        try:
            return [
                replace(key, id=child)
                for step in saga.flat()
                if state.step(step.name).status is StepStatus.RUNNING
                for child in children(saga, step, _start(key, state))
            ]
        except ValidationError:
            return None

    def _undoable(self, state: SagaState) -> frozenset[str]:
        saga = self._declared(state)
        if saga is None:
            return frozenset(state.steps)
        return frozenset(step.name for step in saga.flat() if step.compensation is not None)

    def _require_same(self, known: SagaState, started: SagaStarted, given: Mapping[str, Any]) -> None:
        """Raise RuleViolation if the id of the saga to start belongs to another saga."""
        if not self._is_same(known, started, given):
            raise RuleViolation("saga.exists", _TAKEN)

    def _is_same(self, known: SagaState, started: SagaStarted, given: Mapping[str, Any]) -> bool:
        """Return whether `known` is the saga to start.

        A newer version may validate the same input to another value, so `given` is also compared as the
        version of `known` reads it.
        """
        if known.saga_type != started.saga_type:
            return False
        if known.input == started.input:
            return True
        saga = self._declared(known)
        try:
            asked = saga.input.model_validate(given) if saga is not None else None
        except ValidationError:
            return False
        return asked is not None and asked.model_dump(mode="json") == known.input

    def require_declared(self, state: SagaState) -> Saga[Any]:
        """Return the declaration of a saga. Raises NotDeclared if it is not here, or refuses the input."""
        saga = self._declared(state)
        if saga is None:
            raise NotDeclared(f"this replica has no version {state.saga_version} of {state.saga_type}")
        try:
            saga.input.model_validate(state.input)
        except ValidationError as error:
            raise NotDeclared(f"this replica refuses the input of the saga: {error}") from error
        return saga

    def _declared(self, state: SagaState) -> Saga[Any] | None:
        return self._catalog.find(state.saga_type, state.saga_version)


def _terminated(parent: SagaKey) -> str:
    return f"saga {parent.id}, which started it, was terminated"


async def _insist(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat `work` for as long as the store is away: an error would fail the saga that asks for it."""
    while True:
        try:
            return await work()
        except (StoreError, DaprError, ClaimContended) as error:
            _log.warning("a child saga has to wait", error=str(error))
            await asyncio.sleep(_INSIST_SECONDS)


# In characters. With the hyphen, they stay within the 64 that Dapr's workflow API takes.
_ID_SHOWN, _DIGEST = 30, 32


def instance_id(key: SagaKey, run: int = 0) -> str:
    """Return the id of the workflow of a saga's run. No saga of another tenant has it, whatever its own id.

    It begins with the saga's id, for people to read; the digest makes it unique.
    """
    digest = hashlib.sha256(f"{key.tenant}/{key.id}/{run}".encode()).hexdigest()
    return f"{key.id[:_ID_SHOWN]}-{digest[:_DIGEST]}"


def _start(key: SagaKey, state: SagaState) -> dict[str, Any]:
    return start_of(key.id, key.tenant, state) | {"instance": instance_id(key, state.run)}
