"""Begins and cancels the sagas that another saga starts, for the workflow of that saga, their parent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.dapr import DaprError
from annals.sagas.asker import Asker
from annals.sagas.catalog import UnknownSaga
from annals.sagas.claims import ClaimContended, Claims, SagaRuns
from annals.sagas.history import Decide, SagaHistory, SagaKey
from annals.sagas.orchestrator import ID_TAKEN, Orchestrator
from annals.sagas.runs import workflow_input
from annals.sagas.start import beginning
from annals.sagas.state import SagaState, SagaStatus
from annals.store import AppendTooLarge, StoreError
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_INSIST_SECONDS = 1.0  # between the attempts of `_insist`
_UNWANTED = "the saga that started it had ended, or was cancelled"
_LOST = "its workflow was lost, and the saga that started it went on"


class ChildSagas:
    """The activities of a workflow that concern child sagas; each answers with JSON."""

    def __init__(self, orchestrator: Orchestrator, history: SagaHistory, claims: Claims) -> None:
        self._orchestrator = orchestrator
        self._history = history
        self._claims = claims

    async def begin(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Begin a child saga for its parent's workflow, or go on with it if the parent is run again.

        `start` in the answer is the input of the child's workflow. Without it, the child was `refused`, or it
        has ended. A call with `begun` comes after the child's workflow failed: if the child has not ended, it
        is given up (see `_give_up`).
        """
        key = replace(SagaKey.of(call), id=call["child"])
        return await _insist(key, lambda: self._begin(key, call, traceparent))

    async def _begin(self, key: SagaKey, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        run = call["run"]
        state = await self._orchestrator.load(key) if run or call.get("begun") else SagaState()
        try:
            if state.status is SagaStatus.NONE:
                if call["cancelled"]:
                    return {"refused": "cancelled", "start": None}
                started = self._orchestrator.first_event(key, call["type"], call["input"], parent=call["id"])
                asker = Asker(key.user, traceparent=traceparent)
                await self._claims.take(key, started, asker, self._orchestrator.begin_claimed)
                state = await self._history.record(key, [beginning(started, asker)], traceparent)
        except (UnknownSaga, ValueError, SagaRuns, RuleViolation, AppendTooLarge) as error:
            return {"refused": str(error), "start": None}
        if state.parent != call["id"]:
            # Its id can be known before it is there: somebody else began another under it.
            return {"refused": ID_TAKEN, "start": None}
        if state.status is SagaStatus.PENDING and not await self._is_wanted(SagaKey.of(call), run):
            await self._decide(key, lambda now: now.end_unbegun(_UNWANTED), traceparent)
            return {"refused": _UNWANTED, "start": None}
        if state.run < run:
            why = "the saga that started it was restarted"
            state = await self._decide(
                key, lambda now: now.restart(run, why) if now.awaited_by_parent else (), traceparent
            )
        if state.awaited_by_parent:
            if run:
                await self._claims.keep(key, state.as_started())
            if call.get("begun"):
                await self._give_up(key, SagaKey.of(call), run, traceparent)
            return {"refused": None, "start": workflow_input(key, state)}
        status = state.status if state.status.ended else SagaStatus.FAILED
        return {"refused": None, "start": None, "status": status, "reason": state.reason}

    async def _is_wanted(self, parent: SagaKey, run: int) -> bool:
        """Return whether a parent will see its new child through, in run `run` or in its next run.

        The child is in the store before this is asked. So whoever ends or cancels the parent either finds the
        child there, or is noticed here.
        """
        above = await self._orchestrator.load(parent)
        return above.awaited_by_parent and (above.run == run or not above.cancel_requested)

    async def _give_up(self, key: SagaKey, parent: SagaKey, run: int, traceparent: str | None) -> None:
        """Cancel a child saga whose workflow is lost, and which its parent counts as failed.

        The watch restarts the child when it finds it standing still, and so has it compensated. If the parent
        was restarted itself, its new run goes on with the child, which is not cancelled.
        """
        above = await self._orchestrator.load(parent)
        if above.awaited_by_parent and above.run == run:
            await self._decide(
                key,
                lambda now: now.cancel(_LOST) if now.awaited_by_parent and now.run == run else (),
                traceparent,
            )

    async def cancel(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Cancel a child saga, because its parent was cancelled."""
        key = replace(SagaKey.of(call), id=call["child"])
        why, asker = "the saga that started it was cancelled", Asker(key.user, traceparent=traceparent)
        try:
            await _insist(key, lambda: self._orchestrator.cancel(key, why, asker))
        except RuleViolation as error:
            _log.info(
                "a saga ended before it could be cancelled", saga=key.id, tenant=key.tenant, reason=str(error)
            )
        return {}

    async def _decide(self, key: SagaKey, decide: Decide, traceparent: str | None) -> SagaState:
        return await self._history.decide(key, decide, Asker(key.user, traceparent=traceparent))


async def _insist(key: SagaKey, work: Callable[[], Awaitable[T]]) -> T:
    """Repeat `work` for as long as the store is away: an error would fail the saga that asks for it."""
    said = Said()
    while True:
        try:
            return await work()
        except (StoreError, DaprError, ClaimContended) as error:
            if said.is_news(error):
                _log.warning("a child saga has to wait", saga=key.id, tenant=key.tenant, error=str(error))
            await asyncio.sleep(_INSIST_SECONDS)
