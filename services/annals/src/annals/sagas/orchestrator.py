"""What may be asked of sagas. Each request is first an event of the saga's stream, then carried out.

The stream says what is wanted; `reconcile` makes the workflow follow. It is called right after the
event was appended, and again when the event is delivered from `saga-events`: so a process may die
between the two, and what was acknowledged still happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.dapr import DaprError, Workflows
from annals.sagas.claims import Claims, SagaRuns
from annals.sagas.declaration import AwaitEvent, CancelOn, Saga, SagaCatalog, StartOn
from annals.sagas.engine import CANCEL, children
from annals.sagas.events import SagaStarted
from annals.sagas.history import Decide, SagaHistory, SagaKey
from annals.sagas.state import SagaState, SagaStatus, StepStatus

_log = structlog.get_logger(__name__)

_RUNNING = frozenset({"RUNNING", "PENDING", "SUSPENDED", "STALLED"})


class UnknownSaga(Exception):
    """No saga has this type; `known` lists those there are."""

    def __init__(self, saga_type: str, known: list[str]) -> None:
        super().__init__(f"no saga is called {saga_type!r}")
        self.known = known


@dataclass(frozen=True, slots=True)
class Started:
    """What a start came to. `created`: this request began the saga, and no earlier one."""

    id: str
    created: bool


class Orchestrator:
    """See the module."""

    def __init__(
        self, catalog: SagaCatalog, history: SagaHistory, claims: Claims, workflows: Workflows
    ) -> None:
        self._catalog = catalog
        self._history = history
        self._claims = claims
        self._workflows = workflows

    async def start(
        self, key: SagaKey, saga_type: str, given: Mapping[str, Any], traceparent: str | None
    ) -> Started:
        """Start a saga. A repeat, by id or by business key with the same input, finds the first.

        Raises UnknownSaga, pydantic's ValidationError, SagaRuns, RuleViolation, ClaimContended and
        the errors of the store.
        """
        started = self._started(key, saga_type, given, parent=None)
        try:
            await self._claims.take(key, started, self._begin)
        except SagaRuns as running:
            if running.state.input != started.input:
                raise
            return Started(running.key.id, created=False)
        state, created = await self._begin_once(key, started, traceparent)
        await self._try_reconcile(key, state, traceparent)
        return Started(key.id, created)

    async def begin_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Begin a saga that the workflow of another will run."""
        key = replace(SagaKey.of(call), id=call["child"])
        try:
            started = self._started(key, call["type"], call["input"], parent=call["id"])
            await self._claims.take(key, started, self._begin)
            state, _ = await self._begin_once(key, started, traceparent)
        except (UnknownSaga, ValueError, SagaRuns, RuleViolation) as error:
            return {"refused": str(error), "start": None}
        return {"refused": None, "start": _start(key, state)}

    async def cancel_child(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Have a saga taken back, when the one that runs it is."""
        key = replace(SagaKey.of(call), id=call["child"])
        try:
            await self.cancel(key, "the saga that started it was cancelled", key.user, traceparent)
        except RuleViolation as error:
            _log.info("a saga ended before it could be cancelled", saga=key.id, reason=str(error))
        return {}

    async def load(self, key: SagaKey) -> SagaState:
        """A saga as it is now; its status is `none` when there is none."""
        _, state = await self._history.load(key)
        return state

    async def raise_event(self, key: SagaKey, event: str, data: Any, user: str | None) -> None:
        """Raise an event that a step of the saga waits for, now or later.

        Raises NotFound, RuleViolation and DaprError.
        """
        state = await self.load(key)
        if state.status is not SagaStatus.NONE:
            saga = self._catalog.get(state.saga_type, state.saga_version)
            declared = {
                step.name: (*step.action.events, *step.action.refusals)
                for step in saga.flat()
                if isinstance(step.action, AwaitEvent)
            }
        else:
            declared = {}
        state.require_raisable(event, declared)
        await self._workflows.raise_event(_instance(key, state), event, {"data": data, "user": user})

    async def cancel(self, key: SagaKey, reason: str, user: str | None, traceparent: str | None) -> SagaState:
        """Ask that a saga be taken back. Raises NotFound and RuleViolation."""
        return await self._ask(key, lambda state: state.cancel(reason), user, traceparent)

    async def terminate(
        self, key: SagaKey, reason: str, user: str | None, traceparent: str | None
    ) -> SagaState:
        """End a saga where it is, with nothing taken back. Raises NotFound and RuleViolation."""
        return await self._ask(
            key, lambda state: state.terminate(reason, self._undoable(state)), user, traceparent
        )

    async def suspend(self, key: SagaKey, user: str | None, traceparent: str | None) -> SagaState:
        """Halt a saga. Raises NotFound and RuleViolation."""
        return await self._ask(key, lambda state: state.suspend(), user, traceparent)

    async def resume(self, key: SagaKey, user: str | None, traceparent: str | None) -> SagaState:
        """Let a halted saga go on. Raises NotFound and RuleViolation."""
        return await self._ask(key, lambda state: state.resume(), user, traceparent)

    async def retry(self, key: SagaKey, user: str | None, traceparent: str | None) -> SagaState:
        """Try again what could not be taken back. Raises NotFound and RuleViolation."""
        return await self._ask(key, lambda state: state.retry_compensation(), user, traceparent)

    async def purge(self, key: SagaKey) -> None:
        """Forget the workflow of a saga that has ended; its own history stays. Raises RuleViolation."""
        state = await self.load(key)
        state.require_ended()
        for run in range(state.run + 1):
            await self._workflows.purge(_instance(key, state.model_copy(update={"run": run})))

    async def on_domain_event(
        self,
        tenant: str,
        event_type: str,
        event_id: str,
        data: Mapping[str, Any],
        aggregate_id: str,
        user: str | None,
        correlation_id: str | None,
        traceparent: str | None,
    ) -> None:
        """Do what sagas declare for a domain event. It may be told of one more than once."""
        for saga in map(self._catalog.newest, self._catalog.types):
            for trigger in saga.triggers:
                if trigger.event_type != event_type:
                    continue
                match trigger:
                    case StartOn():
                        given = trigger.input(data, aggregate_id)
                        if given is not None:
                            saga_id = f"{saga.type}-{event_id}"[:_ID_LENGTH]
                            key = SagaKey(saga_id, tenant, user, correlation_id)
                            await self._start_triggered(key, saga, given, traceparent)
                    case CancelOn():
                        business_key = trigger.business_key(data, aggregate_id)
                        if business_key is not None:
                            await self._cancel_triggered(saga, tenant, business_key, event_type, traceparent)

    async def reconcile(
        self, key: SagaKey, state: SagaState | None = None, traceparent: str | None = None
    ) -> None:
        """Make the workflow what the saga's stream wants. Raises DaprError."""
        if state is None:
            state = await self.load(key)
        if state.status is SagaStatus.NONE or (state.status.ended and not state.terminated):
            return
        instance = _instance(key, state)
        status = await self._workflows.status(instance)
        if state.terminated and state.status.ended:
            if status in _RUNNING:
                await self._workflows.terminate(instance)
            await self._terminate_children(key, state)
            return
        if status is None:
            if state.parent is not None and state.run == 0:
                return  # the workflow of its parent runs it
            await self._workflows.start(state.saga_type, instance, _start(key, state), traceparent)
            status = "RUNNING"
        if state.cancel_requested and state.status is not SagaStatus.COMPENSATING:
            await self._workflows.raise_event(
                instance, CANCEL, {"reason": state.cancel_reason or "cancelled"}
            )
        if state.suspended and status != "SUSPENDED":
            await self._workflows.pause(instance)
        if not state.suspended and status == "SUSPENDED":
            await self._workflows.resume(instance)

    def _started(
        self, key: SagaKey, saga_type: str, given: Mapping[str, Any], parent: str | None
    ) -> SagaStarted:
        try:
            saga = self._catalog.newest(saga_type)
        except KeyError:
            raise UnknownSaga(saga_type, self._catalog.types) from None
        validated = saga.input.model_validate(given)
        return SagaStarted(
            started_at=datetime.now(UTC),
            user=key.user,
            correlation_id=key.correlation_id,
            saga_type=saga.type,
            saga_version=saga.version,
            business_key=saga.business_key(validated) if saga.business_key else None,
            input=validated.model_dump(mode="json"),
            steps=tuple(step.name for step in saga.flat()),
            parent=parent,
        )

    async def _begin_once(
        self, key: SagaKey, started: SagaStarted, traceparent: str | None
    ) -> tuple[SagaState, bool]:
        created = False

        def begin(state: SagaState) -> tuple[SagaStarted, ...]:
            nonlocal created
            created = state.status is SagaStatus.NONE
            if created:
                return (started,)
            if (state.saga_type, state.input) != (started.saga_type, started.input):
                raise RuleViolation("saga.exists", "another saga has this id")
            return ()

        state = await self._history.decide(key, begin, traceparent=traceparent)
        return state, created

    async def _begin(self, key: SagaKey, started: SagaStarted) -> SagaState:
        state, _ = await self._begin_once(key, started, None)
        await self._try_reconcile(key, state, None)
        return state

    async def _ask(
        self, key: SagaKey, decide: Decide, user: str | None, traceparent: str | None
    ) -> SagaState:
        state = await self._history.decide(key, decide, traceparent=traceparent, user=user)
        await self._try_reconcile(key, state, traceparent)
        return state

    async def _try_reconcile(self, key: SagaKey, state: SagaState, traceparent: str | None) -> None:
        """Carry out now what the event's delivery would carry out a little later."""
        try:
            await self.reconcile(key, state, traceparent)
        except DaprError as error:
            _log.warning("the workflow follows when the event is delivered", saga=key.id, error=str(error))

    async def _start_triggered(
        self, key: SagaKey, saga: Saga[Any], given: Mapping[str, Any], traceparent: str | None
    ) -> None:
        try:
            await self.start(key, saga.type, given, traceparent)
        except (ValueError, SagaRuns, RuleViolation) as error:
            # Told again it would be refused again.
            _log.warning("a trigger started no saga", saga_type=saga.type, saga=key.id, reason=str(error))

    async def _cancel_triggered(
        self, saga: Saga[Any], tenant: str, business_key: str, event_type: str, traceparent: str | None
    ) -> None:
        holder = await self._claims.holder(tenant, saga.type, business_key)
        if holder is None:
            return
        key = SagaKey(holder, tenant)
        state = await self.load(key)
        if state.status is not SagaStatus.NONE and not state.status.ended:
            try:
                await self.cancel(key, event_type, None, traceparent)
            except RuleViolation:
                _log.info("a saga ended before it could be cancelled", saga=holder)

    async def _terminate_children(self, key: SagaKey, state: SagaState) -> None:
        """Dapr ends the workflows of the sagas that a terminated one runs; so they are terminated too."""
        saga = self._catalog.get(state.saga_type, state.saga_version)
        for step in saga.flat():
            if state.steps[step.name].status is StepStatus.RUNNING:
                for child in children(saga, step, _start(key, state)):
                    child_key = replace(key, id=child)
                    child_state = await self.load(child_key)
                    if child_state.status is not SagaStatus.NONE and not child_state.status.ended:
                        reason = f"saga {key.id}, which started it, was terminated"
                        await self.terminate(child_key, reason, None, None)

    def _undoable(self, state: SagaState) -> frozenset[str]:
        if state.status is SagaStatus.NONE:
            return frozenset()
        saga = self._catalog.get(state.saga_type, state.saga_version)
        return frozenset(step.name for step in saga.flat() if step.compensation is not None)


_ID_LENGTH = 64
"""The longest id that Dapr's workflow API takes."""


def _instance(key: SagaKey, state: SagaState) -> str:
    return key.id if state.run == 0 else f"{key.id}_{state.run}"


def _start(key: SagaKey, state: SagaState) -> dict[str, Any]:
    """What a saga's workflow is given; see `annals.sagas.engine.run`."""
    start: dict[str, Any] = {
        "id": key.id,
        "instance": _instance(key, state),
        "tenant": key.tenant,
        "user": state.user,
        "correlation_id": state.correlation_id,
        "type": state.saga_type,
        "version": state.saga_version,
        "input": state.input,
        "started": state.started_at.isoformat() if state.started_at else None,
    }
    start["results"] = {name: step.result for name, step in state.steps.items() if step.result is not None}
    if state.run:
        start |= {"undo": state.to_undo(), "reason": state.reason or "tried again"}
    return start
