"""Appends to a saga's stream what a newer release would write, as happens during an upgrade."""

from __future__ import annotations

from annals.events import DomainEvent
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.state import SagaState
from annals.store import Append, MemoryEventStore


async def suspended_by_a_newer_release(store: MemoryEventStore, key: SagaKey) -> None:
    """Append an event version and a state schema that this release does not know."""
    version, state = await SagaHistory(store).load(key)
    event = DomainEvent(
        event_type="saga.suspended",
        event_version="2.0",
        source="saga-orchestrator",
        tenant_id=key.tenant,
        aggregate_type=SagaState.aggregate_type,
        aggregate_id=key.id,
        data={},
    )
    schema = SagaState.state_schema + 1
    await store.append(Append(key.stream, (event,), version, state.model_dump(mode="json"), schema))
