"""What domain events ask of sagas: that one be started, or taken back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.events import RecordedEvent
from annals.sagas.claims import Claims, SagaRuns
from annals.sagas.declaration import CancelOn, Saga, SagaCatalog, StartOn
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Asker, Orchestrator
from annals.sagas.state import SagaState
from annals.store import AppendTooLarge

_log = structlog.get_logger(__name__)

# In no id: neither Dapr takes it in a workflow's, nor the API in a saga's.
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

_CLOCKS_APART = timedelta(minutes=15)
"""By how much an event may seem to be from before a saga that was there when it happened.

Its time is by the clock of the replica that decided on it, and from before it was in the store.
"""


class Triggers:
    """See the module."""

    def __init__(self, catalog: SagaCatalog, claims: Claims, orchestrator: Orchestrator) -> None:
        self._catalog = catalog
        self._claims = claims
        self._orchestrator = orchestrator

    async def on_domain_event(self, event: RecordedEvent) -> None:
        """Do what sagas declare for a domain event. It may be told of one more than once, and late.

        The newest version of a saga is started; what runs is cancelled by what its own says, unless that
        happened before it was asked for: what then was to be cancelled was another.
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
                            saga_id = _UNFIT.sub("-", f"{saga.type}-{event.event_id}")
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
            await self._orchestrator.start(
                key, saga.type, given, event.traceparent, caused_at=event.timestamp
            )
        except (ValueError, SagaRuns, RuleViolation, AppendTooLarge) as error:
            # Told again it would be refused again.
            _log.warning("a trigger started no saga", saga_type=saga.type, saga=key.id, reason=str(error))

    async def _cancel(self, saga: Saga[Any], business_key: str, event: RecordedEvent) -> None:
        begin = self._orchestrator.begin_claimed
        held = await self._claims.holder(event.tenant_id, saga.type, business_key, begin)
        if held is None:
            return
        holder, state = held
        its_own = self._catalog.find(state.saga_type, state.saga_version) or self._catalog.newest(saga.type)
        if not state.runs_for(saga.type, business_key) or saga is not its_own:
            return
        if _is_older(event, state):
            _log.info(
                "a saga is not cancelled by what happened before it", saga=holder, event_id=event.event_id
            )
            return
        try:
            key = SagaKey(holder, event.tenant_id)
            await self._orchestrator.cancel(key, event.event_type, Asker(None, event.traceparent))
        except RuleViolation:
            _log.info("a saga ended before it could be cancelled", saga=holder)


def _is_older(event: RecordedEvent, state: SagaState) -> bool:
    """Whether an event is from before a saga was asked for: by somebody, or by what happened then."""
    asked = state.caused_at or state.started_at
    return asked is not None and asked - event.timestamp > _CLOCKS_APART
