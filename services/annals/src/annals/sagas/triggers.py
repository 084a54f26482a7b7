"""Starts and cancels sagas on domain events, as the triggers of their declarations say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.events import RecordedEvent
from annals.sagas.asker import Asker
from annals.sagas.catalog import SagaCatalog
from annals.sagas.claims import Claims, SagaRuns
from annals.sagas.declaration import CancelOn, Saga, StartOn
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.start import triggered_id
from annals.sagas.state import SagaState
from annals.store import AppendTooLarge

_log = structlog.get_logger(__name__)

_CLOCKS_APART = timedelta(minutes=15)
"""How much older than a saga an event may seem although the saga was there when the event happened.

An event is timed by the clock of the replica that decided on it, before the event is in the store.
"""


class Triggers:
    """Applies the triggers of the sagas of a catalogue."""

    def __init__(self, catalog: SagaCatalog, claims: Claims, orchestrator: Orchestrator) -> None:
        self._catalog = catalog
        self._claims = claims
        self._orchestrator = orchestrator

    async def on_domain_event(self, event: RecordedEvent) -> None:
        """Start and cancel sagas whose triggers name this event, which may come late and more than once.

        Only the newest version's `StartOn` counts, and only the `CancelOn` of the version that a saga runs
        under. An event from before the saga was asked for does not cancel it: it meant an earlier saga.

        Raises what the triggers' functions raise, pydantic's ValidationError if a saga refuses its input,
        ClaimContended, DaprError and the errors of the store.
        """
        data, aggregate_id = event.data, event.aggregate_id
        for saga in self._catalog.all():
            for trigger in saga.triggers:
                if trigger.event_type != event.event_type:
                    continue
                match trigger:
                    case StartOn() if saga is self._catalog.newest(saga.type):
                        given = trigger.input(data, aggregate_id)
                        if given is not None:
                            saga_id = triggered_id(saga.type, event.event_id)
                            key = SagaKey(saga_id, event.tenant_id, event.user_id, event.correlation_id)
                            await self._start(key, saga, given, event)
                    case CancelOn():
                        business_key = trigger.business_key(data, aggregate_id)
                        if business_key is not None:
                            await self._cancel(saga, business_key, event)

    async def _start(
        self, key: SagaKey, saga: Saga[Any], given: Mapping[str, Any], event: RecordedEvent
    ) -> None:
        try:
            asker = Asker(event.user_id, traceparent=event.traceparent)
            await self._orchestrator.start(key, saga.type, given, asker, caused_at=event.timestamp)
        except (SagaRuns, RuleViolation, AppendTooLarge) as error:
            # Not raised: no declaration is at fault, and the event's stream would wait behind it.
            _log.warning(
                "a trigger started no saga",
                saga_type=saga.type,
                saga=key.id,
                tenant=key.tenant,
                reason=str(error),
            )

    async def _cancel(self, saga: Saga[Any], business_key: str, event: RecordedEvent) -> None:
        begin = self._orchestrator.begin_claimed
        held = await self._claims.holder(event.tenant_id, saga.type, business_key, begin)
        if held is None:
            return
        holder, state = held
        its_own = self._catalog.of(state) or self._catalog.newest(saga.type)
        if not state.runs_for(saga.type, business_key) or saga is not its_own:
            return
        if _is_older(event, state):
            _log.info(
                "an event older than a saga does not cancel it",
                saga=holder,
                tenant=event.tenant_id,
                event_id=event.event_id,
            )
            return
        try:
            key = SagaKey(holder, event.tenant_id)
            await self._orchestrator.cancel(key, event.event_type, Asker(traceparent=event.traceparent))
        except RuleViolation:
            _log.info("a saga ended before it could be cancelled", saga=holder, tenant=event.tenant_id)


def _is_older(event: RecordedEvent, state: SagaState) -> bool:
    """Return whether an event is from before the saga was asked for, by a caller or by a domain event."""
    asked = state.caused_at or state.started_at
    return asked is not None and asked - event.timestamp > _CLOCKS_APART
