"""Carries out requests on sagas: start one, raise an event, cancel, terminate, suspend, restart and others.

A start schedules the workflow first. From then on the workflow runs, whatever process dies, and its first
record is that the saga was started. Every other request first appends an event to the saga's stream, which
says what is wanted, and then makes the workflow follow. A request is acknowledged only when both are done. It
may be repeated: the repeat does what is left to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from annals.aggregates.aggregate import RuleViolation
from annals.dapr import Workflows, WorkflowStalled
from annals.sagas.asker import Asker
from annals.sagas.catalog import NotDeclared, SagaCatalog
from annals.sagas.claims import Claims, SagaRuns
from annals.sagas.declaration import CANCEL
from annals.sagas.events import SagaFailed, SagaStarted
from annals.sagas.history import Decide, Decided, SagaHistory, SagaKey
from annals.sagas.runs import PAUSES_SECONDS, SagaWorkflows, workflow_input
from annals.sagas.start import answerer, beginning, waits
from annals.sagas.state import SagaState, SagaStatus
from annals.store import MAX_EVENT_BYTES, StreamUnreadable, Undecodable, require_publishable
from annals.telemetry import metrics

ID_TAKEN = "another saga has this id"
_UNBEGUN = "its workflow did not begin"
_HELD = "it was cancelled while its workflow was held"


class NotBegun(Exception):
    """A saga's workflow does not exist yet, but will."""

    def __init__(self, key: SagaKey) -> None:
        super().__init__(
            f"the workflow of saga {key.id} has not begun yet, or was lost: then restart the saga"
        )


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of a start. `created` is false if an earlier request already started this saga."""

    id: str
    created: bool


class Orchestrator:
    """Carries out the requests on the sagas of a catalogue."""

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
        self._workflows = SagaWorkflows(workflows)
        self._max_event_bytes = max_event_bytes
        for saga_type in catalog.types:
            # A counter that appears with its first failure would show no increase, and alert nobody.
            metrics.SAGA_TRANSITIONS.labels(saga_type, SagaFailed.event_type)

    async def start(
        self,
        key: SagaKey,
        saga_type: str,
        given: Mapping[str, Any],
        asker: Asker,
        *,
        new: bool = False,
        caused_at: datetime | None = None,
    ) -> Started:
        """Start a saga. A repeat with the same input, under the same id or business key, finds the first.

        `new` says that the id was generated just now. `caused_at` is the time of the domain event that asks
        for the saga, if one does. Raises UnknownSaga, pydantic's ValidationError, SagaRuns, RuleViolation,
        ClaimContended, DaprError and the errors of the store.
        """
        started = self.first_event(key, saga_type, given, caused_at=caused_at)
        if not new:
            # Before the claim: neither a start that is refused nor a saga that has ended may claim a key.
            _, known = await self._history.load(key, certain=False)
            if known.status is not SagaStatus.NONE:
                self._require_same(known, started, given)
                return Started(key.id, created=False)
        try:
            await self._claims.take(key, started, asker, self.begin_claimed)
        except SagaRuns as running:
            if not self._is_same(running.state, started, given):
                raise
            return Started(running.key.id, created=False)
        self._require_same(await self._begin(key, started, asker), started, given)
        return Started(key.id, created=True)

    def first_event(
        self,
        key: SagaKey,
        saga_type: str,
        given: Mapping[str, Any],
        *,
        parent: str | None = None,
        caused_at: datetime | None = None,
    ) -> SagaStarted:
        """Return the first event of a saga that is to start. `parent` is the id of the saga that starts it.

        Raises UnknownSaga, AppendTooLarge and pydantic's ValidationError.
        """
        saga = self._catalog.newest(saga_type)
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
            steps=saga.step_names,
            parent=parent,
        )
        require_publishable(
            started.event_type, orjson.dumps(started.model_dump(mode="json")), self._max_event_bytes
        )
        return started

    async def begin_claimed(self, key: SagaKey, started: SagaStarted, asker: Asker) -> SagaState:
        """Begin a saga that another request has claimed. The workflow of a child is left to its parent."""
        if started.parent is None:
            return await self._begin(key, started, asker)
        return await self._history.record(key, [beginning(started, asker)], asker.traceparent)

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
            saga = self._catalog.require(state)
            declared = waits(saga)
        state.require_raisable(event, declared, asked_at)
        try:
            allowed = answerer(saga, event, workflow_input(key, state)) if saga else None
        except Exception as error:
            if event in state.waits_for:
                raise
            # `by` may need the result of a step that is not over yet.
            raise RuleViolation("saga.not_waiting", f"nobody can say yet who may raise {event}") from error
        if allowed is not None and user != allowed:
            raise PermissionError(f"only {allowed} may answer this")
        state = await self._history.decide(
            key, lambda now: now.raise_event(event, data, user, declared, asked_at), asker
        )
        mine = (event, data, user)
        [payload] = [one.model_dump() for one in state.raised if (one.event, one.data, one.user) == mine]
        if not await self._workflows.raise_event(key, state, event, payload):
            raise NotBegun(key)

    async def cancel(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """Cancel a saga, which is then compensated. Raises NotFound, RuleViolation and DaprError."""
        state = await self._history.decide(key, lambda state: state.cancel(reason), asker)
        if state.status is not SagaStatus.COMPENSATING:
            # A workflow that is missing was lost. The one that replaces it reads the cancel from the stream.
            try:
                await self._workflows.raise_event(key, state, CANCEL, {"reason": state.cancel_reason})
            except WorkflowStalled:
                # Dapr may hold the workflow for ever, and the follower of domain events would wait for it.
                # Nor would the workflow learn of the cancel once it goes on. So it is replaced, unless the
                # saga is not declared here. A suspended saga and the parent of one are left to `resume`, and
                # a child is left to the watch, as its parent may be the one that asks.
                alone = len(await self.lineage(key, state)) == 1 and not state.suspended
                if alone and await self.suspended_child(key, state) is None:
                    with suppress(NotDeclared):
                        return await self.restart(key, _HELD, asker)
        return state

    async def terminate(self, key: SagaKey, reason: str, asker: Asker) -> SagaState:
        """End a saga and its children where they stand, without compensation.

        If the saga's version is not declared here, nobody knows which steps have a compensation: all steps
        with an effect count as left. If its version is not declared or its input is refused, its children are
        not known either: see `end_with_parent`.
        """
        state = await self._history.decide(
            key, lambda state: state.terminate(reason, self._catalog.undoable(state)), asker
        )
        await self._workflows.end(key, state.run + 1)
        # Dapr ends the workflows of the children with this one. Their streams must say so, too.
        for child in self._children(key, state):
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
        state = await self._history.decide(key, lambda state: state.suspend(), asker)
        if not await self._workflows.pause(key, state):
            raise NotBegun(key)
        now = await self.load(key)
        if now.status.ended:
            # What was under way ended it. Its workflow can end only if it goes on, and so can its parent.
            await self._workflows.resume(key, now)
        return now

    async def resume(self, key: SagaKey, asker: Asker) -> SagaState:
        """Resume a suspended saga, or the workflow of one that ended while it was suspended."""
        state = await self._history.decide(key, lambda state: state.resume(), asker)
        root, above = (await self.lineage(key, state))[-1]
        cancelled = above.cancel_requested and not above.suspended
        try:
            await self._workflows.resume(key, state)
        except WorkflowStalled:
            if not cancelled:
                raise
        if cancelled:
            # If Dapr held the workflow when it was cancelled, `cancel` left it because of this suspension.
            with suppress(RuleViolation):
                await self.cancel(root, above.cancel_reason or "", asker)
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
        await self._workflows.end(key, state.run)
        await self._claims.keep(key, state.as_started())
        await self._workflows.start(key, state, asker)

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
            running = self._catalog.running_children(key.id, key.tenant, state)
            if running is not None and child.id not in running:
                break
            line.append((key, state))
        return line

    async def suspended_child(self, key: SagaKey, state: SagaState) -> SagaKey | None:
        """Return a suspended child, or a child's child, that a restart of the saga would resume, or None."""
        for child in self._children(key, state):
            try:
                child_state = await self.load(child)
            except (StreamUnreadable, Undecodable):
                continue  # It must not keep its parent and all other children from going on.
            if child_state.awaited_by_parent and child_state.parent == key.id:
                if child_state.suspended:
                    return child
                if (below := await self.suspended_child(child, child_state)) is not None:
                    return below
        return None

    async def retry(self, key: SagaKey, asker: Asker) -> SagaState:
        """Compensate the steps that are left, also beside another saga that runs for the business key.

        Raises NotDeclared, as `restart` does.
        """
        state = await self._decide_here(key, SagaState.retry_compensation, asker)
        await self._claims.keep(key, state.as_started())
        await self._workflows.start(key, state, asker)
        return state

    async def purge(self, key: SagaKey) -> None:
        """Purge the workflows of an ended saga; its stream stays. Raises NotFound and RuleViolation."""
        state = await self.load(key)
        state.require_ended()
        await self._workflows.purge(key, state)

    def _children(self, key: SagaKey, state: SagaState) -> list[SagaKey]:
        """Return the children that a saga runs, as far as they are known here. Some may not have begun."""
        ids = self._catalog.running_children(key.id, key.tenant, state) or ()
        return [replace(key, id=child_id) for child_id in ids]

    async def _begin(self, key: SagaKey, started: SagaStarted, asker: Asker) -> SagaState:
        """Schedule the workflow and record the start.

        If there is a workflow already, it may have another input: what it records is then the saga. If it
        records nothing, it is replaced, so that the start that is acknowledged is the one that happens.

        If the saga has run and ended after all, it runs again over its own records, and finds each step done.
        """
        if await self._workflows.start(key, SagaState().apply(started), asker):
            return await self._history.record(key, [beginning(started, asker)], asker.traceparent)
        for seconds in PAUSES_SECONDS:
            await asyncio.sleep(seconds)
            _, state = await self._history.load(key, certain=False)
            if state.status is not SagaStatus.NONE:
                return state
        state = await self._history.decide(key, lambda now: now.begin_anew(started, _UNBEGUN), asker)
        if state.run:
            await self.replace_workflow(key, state, asker)
        return state

    async def _decide_here(self, key: SagaKey, decide: Decide, asker: Asker) -> SagaState:
        """Decide on what a workflow will carry out. Raises NotDeclared, unless `decide` refuses before."""

        def decided(state: SagaState) -> Decided:
            events = decide(state)
            self._catalog.require(state)
            return events

        return await self._history.decide(key, decided, asker)

    def _require_same(self, known: SagaState, started: SagaStarted, given: Mapping[str, Any]) -> None:
        """Raise RuleViolation if the id of the saga to start belongs to another saga."""
        if not self._is_same(known, started, given):
            raise RuleViolation("saga.exists", ID_TAKEN)

    def _is_same(self, known: SagaState, started: SagaStarted, given: Mapping[str, Any]) -> bool:
        """Return whether `known` is the saga to start.

        A newer version may validate the same input to another value, so `given` is also compared as the
        version of `known` reads it.
        """
        return known.saga_type == started.saga_type and (
            known.input == started.input or self._catalog.same_input(known, given)
        )


def _terminated(parent: SagaKey) -> str:
    return f"saga {parent.id}, which started it, was terminated"
