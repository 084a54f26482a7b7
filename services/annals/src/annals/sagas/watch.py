"""Finds sagas that stand still, and restarts them.

A workflow can be lost although its saga is not. If the reply to a save is lost, Dapr does not read back
whether the save was made, and what the workflow's turn had asked for is never done (docs/decisions/0018).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.dapr import DaprError, NotAnswered
from annals.sagas.asker import NOBODY
from annals.sagas.catalog import NotDeclared, SagaCatalog
from annals.sagas.declaration import Saga
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.step_state import StepStatus
from annals.store import StoreError, StreamUnreadable, Undecodable

_log = structlog.get_logger(__name__)

_MOST_DOUBLINGS = 6
_REASON = "it stood still"
_AWAY = (StoreError, DaprError, NotAnswered)  # errors that end the whole look
_ITS_OWN = (StreamUnreadable, Undecodable)  # errors that concern one saga alone

Unmoved = Callable[[], Awaitable[Sequence[SagaKey]]]
"""Returns the sagas that have had no event for a while. Their declarations may still allow for that."""

BeingImported = Callable[[], Awaitable[bool]]
"""Returns whether the store is being filled from a backup."""


class Watch:
    """Restarts sagas that have had no event for too long while it watched them.

    It counts only the time that it has watched a saga itself, by its own clock. So sagas that stood still
    only because their orchestrator was away get their time. Restarting a saga that does move does no harm.
    """

    def __init__(
        self,
        catalog: SagaCatalog,
        history: SagaHistory,
        orchestrator: Orchestrator,
        unmoved: Unmoved,
        being_imported: BeingImported,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._history = history
        self._orchestrator = orchestrator
        self._unmoved = unmoved
        self._being_imported = being_imported
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[SagaKey, tuple[int, float]] = {}
        self._looked = clock()
        # Sagas whose restart was broken off, as Dapr or the store did not answer, and their runs before it.
        self._to_replace: dict[SagaKey, int] = {}

    async def run(self) -> None:
        """Look at the sagas every `seconds / 2`, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds / 2)
            try:
                await self.look()
            except _AWAY as error:
                _log.warning("the search for sagas that stand still failed", error=str(error))

    async def look(self) -> None:
        """Look at the sagas once. Raises StoreError, DaprError and NotAnswered."""
        before, self._seen = self._seen, {}
        try:
            await self._look(before)
        except _AWAY:
            # The time since the last look does not count as watched; the time before it still does.
            unwatched = self._clock() - self._looked
            kept = {key: (version, since + unwatched) for key, (version, since) in before.items()}
            self._seen = kept | self._seen
            raise
        finally:
            self._looked = self._clock()

    async def _look(self, before: dict[SagaKey, tuple[int, float]]) -> None:
        to_replace = frozenset(self._to_replace)
        restarted = set(to_replace)
        unmoved = await self._unmoved()
        if (unmoved or to_replace) and await self._being_imported():
            # Their later events may still be imported, and would not fit behind a restart.
            _log.warning("no saga is restarted until the import into the store is complete")
            return
        for key in dict.fromkeys((*to_replace, *unmoved)):
            try:
                if key in to_replace:
                    await self._replace(key)
                else:
                    await self._look_at(key, before.get(key), restarted)
                before.pop(key, None)  # timed anew, even if this look fails at another saga
            except Exception as error:
                if isinstance(error, _AWAY) and not isinstance(error, _ITS_OWN):
                    raise
                # An error of one saga, such as a stream that a newer release wrote, stops neither the other
                # sagas nor the watch.
                _log.exception("a saga cannot be checked", saga=key.id, tenant=key.tenant)

    async def _look_at(self, key: SagaKey, seen: tuple[int, float] | None, restarted: set[SagaKey]) -> None:
        version, state = await self._history.load(key)
        if not state.active or state.suspended:
            return
        about = {
            "saga": key.id,
            "tenant": key.tenant,
            "saga_type": state.saga_type,
            "saga_version": state.saga_version,
        }
        try:
            saga = self._catalog.require(state)
        except NotDeclared as error:
            _log.warning("a saga that has not moved cannot be run here", reason=str(error), **about)
            return
        since = seen[1] if seen is not None and seen[0] == version else self._clock()
        if self._clock() - since < self._patience(saga, state):
            self._seen[key] = version, since
            return
        lineage = await self._orchestrator.lineage(key, state)
        if any(one.suspended for _, one in lineage):
            # Somebody suspended a saga of this lineage: a restart would resume all of them.
            return
        root, of_root = lineage[-1]
        if root not in restarted:
            restarted.add(root)
            await self._restart(root, of_root)

    async def _would_resume_a_child(self, root: SagaKey, state: SagaState) -> bool:
        """Return whether a restart would resume a child that somebody suspended."""
        suspended = await self._orchestrator.suspended_child(root, state)
        if suspended is not None:
            _log.warning(
                "a saga that stands still is not restarted, which would resume a suspended saga",
                saga=root.id,
                tenant=root.tenant,
                suspended=suspended.id,
            )
        return suspended is not None

    async def _restart(self, root: SagaKey, state: SagaState) -> None:
        try:
            if await self._orchestrator.end_with_parent(root, state, NOBODY):
                _log.warning(
                    "a saga stood still: it was terminated with its parent", saga=root.id, tenant=root.tenant
                )
                return
            if await self._would_resume_a_child(root, state):
                return
            await self._orchestrator.restart(root, _REASON, NOBODY)
            _log.warning("a saga stood still: it was restarted", saga=root.id, tenant=root.tenant)
        except RuleViolation as error:
            _log.info(
                "a saga ended before it could be restarted",
                saga=root.id,
                tenant=root.tenant,
                reason=str(error),
            )
        except NotDeclared as error:
            _log.warning(
                "a saga cannot be restarted here", saga=root.id, tenant=root.tenant, reason=str(error)
            )
        except DaprError as error:
            # The failure concerns this saga alone: go on with the others, and try it again at the next look.
            self._to_replace[root] = state.run
            _say_not_restarted(root, error)
        except StoreError as error:
            if not isinstance(error, _ITS_OWN):
                self._to_replace[root] = state.run
            raise

    async def _replace(self, root: SagaKey) -> None:
        """Finish a restart. If it is recorded already, recording another would only lengthen the wait."""
        _, state = await self._history.load(root)
        if not state.active:
            del self._to_replace[root]
            return
        if state.suspended:
            return
        if state.run == self._to_replace[root]:
            del self._to_replace[root]
            await self._restart(root, state)
            return
        if await self._would_resume_a_child(root, state):
            return
        try:
            await self._orchestrator.replace_workflow(root, state, NOBODY)
        except DaprError as error:
            _say_not_restarted(root, error)
            return
        del self._to_replace[root]

    def _patience(self, saga: Saga[Any], state: SagaState) -> float:
        """Return the seconds that a saga may stand still. They double with each restart that did not help."""
        doublings: int = 2 ** min(state.run, _MOST_DOUBLINGS)
        return self._seconds * doublings + allowed_silence(saga, state, datetime.now(UTC)).total_seconds()


def _say_not_restarted(root: SagaKey, error: DaprError) -> None:
    _log.error(
        "a saga that stands still cannot be restarted", saga=root.id, tenant=root.tenant, error=str(error)
    )


def allowed_silence(saga: Saga[Any], state: SagaState, now: datetime) -> timedelta:
    """Return how long a saga may rightly have no event: during an attempt, before a retry, or in a wait."""
    pauses = [timedelta(0)]
    answered = (
        state.cancel_requested
        or state.status is not SagaStatus.RUNNING
        or any(one.event in state.waits_for for one in state.raised)
    )
    for step in saga.flat():
        known = state.step(step.name)
        match known.status:
            case StepStatus.RUNNING:
                trying = known.finished_attempts < known.attempts
                pauses.append(step.timeout if trying else step.retry.wait(known.attempts))
            case StepStatus.COMPENSATING:
                trying = known.finished_undo_attempts < known.undo_attempts
                pauses.append(step.timeout if trying else step.compensation_retry.wait(known.undo_attempts))
            case StepStatus.WAITING if known.deadline is not None and not answered:
                pauses.append(known.deadline - now)
    return max(pauses)
