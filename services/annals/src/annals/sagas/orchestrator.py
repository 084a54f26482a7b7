"""What may be asked of sagas.

A start schedules the workflow first, which from then on happens whatever dies; its first record is
that it was started. Everything else is an event of the saga's stream first, which says what is
wanted, and then the workflow is made to follow. Nothing is acknowledged before both are done, and
each may be asked for again: a repeat does what is left to do.
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
from annals.sagas.state import SagaState, SagaStatus, StepStatus
from annals.store import MAX_EVENT_BYTES, AppendTooLarge, StoreError, require_publishable
from annals.telemetry import metrics

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_NOT_YET_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_INSIST_SECONDS = 1.0
_UNWANTED = "the saga that started it had ended, or was cancelled"
_UNBEGUN = "its workflow did not begin"
_HELD = "it was cancelled while its workflow was held"
_TAKEN = "another saga has this id"
_LOST = "its workflow was lost, and the saga that started it went on"


class UnknownSaga(Exception):
    """No saga has this type; `known` lists those there are."""

    def __init__(self, saga_type: str, known: list[str]) -> None:
        super().__init__(f"no saga is called {saga_type!r}")
        self.known = known


class NotBegun(Exception):
    """A saga's workflow is not there yet; it will be."""

    def __init__(self, key: SagaKey) -> None:
        super().__init__(f"the workflow of saga {key.id} has not begun yet")


class NotDeclared(Exception):
    """A saga was started with a version, or with an input, that this replica does not know.

    Not yet, or not any more: what needs what it declares is refused. A workflow of it would be held by Dapr
    until somebody knows the version, or fail at its first turn.
    """


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks something of a saga, in which trace."""

    user: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a start came to. `created`: this request began the saga, and no earlier one."""

    id: str
    created: bool


class Orchestrator:
    """See the module."""

    def __init__(
        self,
        catalog: SagaCatalog,
        history: SagaHistory,
        claims: Claims,
        workflows: Workflows,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """What is asked with more than `max_event_bytes` is refused.

        What has happened to a saga is recorded however large it is: a history with a hole is worse than an
        event that only the store has.
        """
        self._catalog = catalog
        self._history = history
        self._claims = claims
        self._workflows = workflows
        self._max_event_bytes = max_event_bytes
        for saga_type in catalog.types:
            # Born at its first failure the counter would show no increase, and alert nobody.
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
        """Start a saga. A repeat, by id or by business key with the same input, finds the first.

        `new` says that the id was made up just now, `caused_at` when that happened which asks for it, if a
        domain event does. Raises UnknownSaga, pydantic's ValidationError,
        SagaRuns, RuleViolation, ClaimContended, DaprError and the errors of the store.
        """
        started = self._started(key, saga_type, given, caused_at=caused_at)
        if not new:
            # Before anything is claimed: what is refused claims nothing, and what has ended holds nothing.
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
        """Begin the saga of somebody else's claim, if it has no workflow of its parent's to come."""
        if started.parent is None:
            return await self._begin(key, started, None)
        return await self._history.record(key, [beginning(started)], None)

    async def begin_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Begin a saga that the workflow of another will run, or go on with it where that runs again.

        Of one that has `begun` it is only told how it is. `start` of the answer is for the workflow. Without
        it the saga was `refused`, or had ended before.
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
                key, lambda now: now.restart(run, why) if now.goes_on else (), Asker(key.user, traceparent)
            )
        if state.goes_on:
            if run:
                await self._claims.keep(key, state.as_started())
            if call.get("begun"):
                await self._give_up(key, SagaKey.of(call), run, traceparent)
            return {"refused": None, "start": _start(key, state)}
        status = state.status if state.status.ended else SagaStatus.FAILED
        return {"refused": None, "start": None, "status": status, "reason": state.reason}

    async def _is_wanted(self, parent: SagaKey, run: int) -> bool:
        """Whether the saga whose run `run` begins another will see it through, or its next run will.

        Asked when the other is in the store: who ends this one, or goes back with it, has seen it there, or
        is seen here.
        """
        above = await self.load(parent)
        return above.goes_on and (above.run == run or not above.cancel_requested)

    async def _give_up(self, key: SagaKey, parent: SagaKey, run: int, traceparent: str | None) -> None:
        """Have a saga taken back whose workflow is lost, and which counts as failed where it was started.

        Who finds that it stands still restarts it. Not so when what started it was itself restarted, and
        goes on with it.
        """
        above = await self.load(parent)
        if above.goes_on and above.run == run:
            asker = Asker(key.user, traceparent)
            await self._decide(
                key, lambda now: now.cancel(_LOST) if now.goes_on and now.run == run else (), asker
            )

    async def cancel_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Have a saga taken back, when the one that runs it is."""
        key = replace(SagaKey.of(call), id=call["child"])
        why, asker = "the saga that started it was cancelled", Asker(key.user, traceparent)
        try:
            await _insist(lambda: self.cancel(key, why, asker))
        except RuleViolation as error:
            _log.info("a saga ended before it could be cancelled", saga=key.id, reason=str(error))
        return {}

    async def load(self, key: SagaKey) -> SagaState:
        """A saga as it is now; its status is `none` when there is none."""
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
            # It may be for a step to find out that is not over yet.
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
        """Ask that a saga be taken back. Raises NotFound, RuleViolation and DaprError, as do the others."""
        state = await self._decide(key, lambda state: state.cancel(reason), asker)
        if state.status is not SagaStatus.COMPENSATING:
            # Where there is none to tell it was lost: the one that goes on in its place reads of it.
            try:
                await self._raised(key, state, CANCEL, {"reason": state.cancel_reason})
            except WorkflowStalled:
                # Dapr may hold it for ever, and what tells of all events would wait for it. Nor would it
                # read of this when it goes on: it is replaced, unless nobody here may carry it on. One that
                # another runs, which may be who asks, or that somebody halted is left to the watch.
                if len(await self.lineage(key, state)) == 1 and not state.suspended:
                    with suppress(NotDeclared):
                        return await self.restart(key, _HELD, asker)
        return state

    async def _raised(self, key: SagaKey, state: SagaState, event: str, payload: dict[str, Any]) -> bool:
        """Raise an event to the workflow of a saga's run; False when that is not there."""
        return await self._told(
            key, state, lambda instance: self._workflows.raise_event(instance, event, payload)
        )

    async def _told(self, key: SagaKey, state: SagaState, tell: Callable[[str], Awaitable[bool]]) -> bool:
        """Tell the workflow of a saga's run something; False when that is not there."""
        for wait in _NOT_YET_SECONDS:
            # One that another saga runs, or that is restarted, is in its stream before it has a workflow.
            await asyncio.sleep(wait)
            if await tell(instance_id(key, state.run)):
                return True
        return False

    async def terminate(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """End a saga, and those it runs, where they are, with nothing taken back.

        Of one whose version is not declared here nobody knows what could be taken back: whatever it did is
        left. Nor, as of one whose input is refused here, which sagas it runs: see `end_with_parent`.
        """
        state = await self._decide(key, lambda state: state.terminate(reason, self._undoable(state)), asker)
        await self._end_workflows(key, state.run + 1)
        # Dapr ends the workflows of the sagas that this one runs; their streams are to say so too.
        for child in self._running_children(key, state) or ():
            child_state = await self.load(child)
            if child_state.active and child_state.parent == key.id:
                await self.terminate(child, _terminated(key), asker)
        return state

    async def end_with_parent(self, key: SagaKey, state: SagaState, asker: Asker) -> bool:
        """Terminate a saga whose parent was terminated where nobody knew what that ran; False for any other.

        Dapr ended its workflow with the parent's. One that is cancelled may be one that its parent went on
        without: it is to be taken back.
        """
        if state.parent is None or not state.goes_on or state.cancel_requested:
            return False
        parent = replace(key, id=state.parent)
        if not (await self.load(parent)).terminated:
            return False
        await self.terminate(key, _terminated(parent), asker)
        return True

    async def suspend(self, key: SagaKey, asker: Asker) -> SagaState:
        """Halt a saga. Raises NotBegun, beside the others: one that is not halted yet would go on."""
        state = await self._decide(key, lambda state: state.suspend(), asker)
        if not await self._told(key, state, self._workflows.pause):
            raise NotBegun(key)
        return state

    async def resume(self, key: SagaKey, asker: Asker) -> SagaState:
        """Let a halted saga go on."""
        state = await self._decide(key, lambda state: state.resume(), asker)
        await self._workflows.resume(instance_id(key, state.run))
        return state

    async def restart(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """Have a saga that stands still go on from where its history is, in a workflow of its own.

        What the one before it does from then on counts for nothing. A saga that another runs is restarted
        with that one, for as long as that one waits for it. Raises NotDeclared, before anything is recorded,
        where nobody may ever carry it on.
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
        """Have the workflow of a saga's last run go on in the place of those before it.

        This is what a restart that failed behind its record has left to do; it may be done again.
        """
        await self._end_workflows(key, state.run)
        await self._claims.keep(key, state.as_started())
        await self._start_workflow(key, state, asker.traceparent)

    async def _end_workflows(self, key: SagaKey, runs: int) -> None:
        """End those of its first runs: a restart may have failed before it ended the one that it replaced."""
        for run in range(runs):
            await self._workflows.terminate(instance_id(key, run))

    async def lineage(self, key: SagaKey, state: SagaState) -> list[tuple[SagaKey, SagaState]]:
        """A saga, the one that it runs for, and so on to the one that nothing else runs.

        One whose workflow was lost runs for none any more once the saga that started it went on without it,
        nor does one that people retry.
        """
        line = [(key, state)]
        while state.goes_on and state.parent is not None:
            child, key = key, replace(key, id=state.parent)
            state = await self.load(key)
            if not state.goes_on:
                break
            running = self._running_children(key, state)
            if running is not None and child not in running:
                break
            line.append((key, state))
        return line

    async def retry(self, key: SagaKey, asker: Asker) -> SagaState:
        """Try again what could not be taken back. Raises NotDeclared, as does `restart`."""
        state = await self._decide_here(key, SagaState.retry_compensation, asker)
        await self._start_workflow(key, state, asker.traceparent)
        return state

    async def purge(self, key: SagaKey) -> None:
        """Forget the workflow of a saga that has ended; its own history stays. Raises RuleViolation."""
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
        saga.input.model_validate(stored)  # each of its turns begins with this
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

        Where there is a workflow already, it may have been given something else: what that records is the
        saga. One that records nothing is replaced, so that what is acknowledged is what happens.

        Should the saga have run and ended after all, it runs again over what it has recorded, and finds each
        of its steps done.
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
        """Decide what a workflow is to carry out. Raises NotDeclared, unless the saga itself refuses it."""

        def decided(state: SagaState) -> Decided:
            events = decide(state)
            self.require_declared(state)
            return events

        return await self._decide(key, decided, asker)

    def _running_children(self, key: SagaKey, state: SagaState) -> list[SagaKey] | None:
        """The sagas that one runs; None where its declaration is not here, or refuses its input now."""
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
        """Refuse to start a saga under the id of another."""
        if not self._is_same(known, started, given):
            raise RuleViolation("saga.exists", _TAKEN)

    def _is_same(self, known: SagaState, started: SagaStarted, given: Mapping[str, Any]) -> bool:
        """Whether a saga is the one that is to start: a newer version may make more of what it was given."""
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
        """The declaration of a saga. Raises NotDeclared."""
        saga = self._declared(state)
        if saga is None:
            raise NotDeclared(f"version {state.saga_version} of {state.saga_type} is not declared here")
        try:
            saga.input.model_validate(state.input)
        except ValidationError as error:
            raise NotDeclared(f"what it was started with is refused here: {error}") from error
        return saga

    def _declared(self, state: SagaState) -> Saga[Any] | None:
        return self._catalog.find(state.saga_type, state.saga_version)


def _terminated(parent: SagaKey) -> str:
    return f"saga {parent.id}, which started it, was terminated"


async def _insist(work: Callable[[], Awaitable[T]]) -> T:
    """Do what may be repeated, however long the store is away: the saga that asks for it would fail by it."""
    while True:
        try:
            return await work()
        except (StoreError, DaprError, ClaimContended) as error:
            _log.warning("a saga that another runs has to wait", error=str(error))
            await asyncio.sleep(_INSIST_SECONDS)


# Together they stay within the 64 characters that Dapr's workflow API takes.
_ID_SHOWN, _DIGEST = 30, 32


def instance_id(key: SagaKey, run: int = 0) -> str:
    """The workflow of a saga: of its tenant's and of nobody else's, whatever ids others choose.

    It begins with the saga's id, for people; what tells it from others is the rest.
    """
    digest = hashlib.sha256(f"{key.tenant}/{key.id}/{run}".encode()).hexdigest()
    return f"{key.id[:_ID_SHOWN]}-{digest[:_DIGEST]}"


def _start(key: SagaKey, state: SagaState) -> dict[str, Any]:
    return start_of(key.id, key.tenant, state) | {"instance": instance_id(key, state.run)}
