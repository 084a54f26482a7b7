"""What domain events ask of sagas: that one be started, or taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from annals.aggregates.aggregate import RuleViolation
from annals.events import RecordedEvent
from annals.sagas.claims import Claims, SagaRuns
from annals.sagas.declaration import CancelOn, Saga, SagaCatalog, StartOn
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Asker, Orchestrator
from annals.store import AppendTooLarge

_log = structlog.get_logger(__name__)


class Triggers:
    """See the module."""

    def __init__(self, catalog: SagaCatalog, claims: Claims, orchestrator: Orchestrator) -> None:
        self._catalog = catalog
        self._claims = claims
        self._orchestrator = orchestrator

    async def on_domain_event(self, event: RecordedEvent) -> None:
        """Do what sagas declare for a domain event. It may be told of one more than once.

        The newest version of a saga is started; what runs is cancelled by what its own says.
        """
        tenant, traceparent = event.tenant_id, event.traceparent
        data, aggregate_id = event.data, event.aggregate_id
        for saga in self._catalog.all():
            for trigger in saga.triggers:
                if trigger.event_type != event.event_type:
                    continue
                match trigger:
                    case StartOn() if saga is self._catalog.newest(saga.type):
                        given = trigger.input(data, aggregate_id)
                        if given is not None:
                            saga_id = f"{saga.type}-{event.event_id}"
                            key = SagaKey(saga_id, tenant, event.user_id, event.correlation_id)
                            await self._start(key, saga, given, traceparent)
                    case CancelOn():
                        business_key = trigger.business_key(data, aggregate_id)
                        if business_key is not None:
                            await self._cancel(saga, tenant, business_key, event.event_type, traceparent)

    async def _start(
        self, key: SagaKey, saga: Saga[Any], given: Mapping[str, Any], traceparent: str | None
    ) -> None:
        try:
            await self._orchestrator.start(key, saga.type, given, traceparent)
        except (ValueError, SagaRuns, RuleViolation, AppendTooLarge) as error:
            # Told again it would be refused again.
            _log.warning("a trigger started no saga", saga_type=saga.type, saga=key.id, reason=str(error))

    async def _cancel(
        self, saga: Saga[Any], tenant: str, business_key: str, event_type: str, traceparent: str | None
    ) -> None:
        holder = await self._claims.holder(tenant, saga.type, business_key)
        if holder is None:
            return
        key = SagaKey(holder, tenant)
        state = await self._orchestrator.load(key)
        its_own = self._catalog.find(state.saga_type, state.saga_version) or self._catalog.newest(saga.type)
        if state.runs_for(saga.type, business_key) and saga is its_own:
            try:
                await self._orchestrator.cancel(key, event_type, Asker(None, traceparent))
            except RuleViolation:
                _log.info("a saga ended before it could be cancelled", saga=holder)
