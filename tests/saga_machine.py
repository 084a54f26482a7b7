"""Sagas on real workflows: the SDK's worker, a fake sidecar with a virtual clock, a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from annals.dapr import DaprSidecar, ServiceInvocation, Workflows
from annals.sagas import SagaCatalog
from annals.sagas.activities import Activity, SagaActivities
from annals.sagas.children import ChildSagas
from annals.sagas.claims import Claims
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.runs import instance_id
from annals.sagas.triggers import Triggers
from annals.sagas.workflow import SagaWorker
from annals.store import MemoryEventStore
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock


@dataclass(frozen=True, slots=True)
class SagaMachine:
    """A running orchestrator and its parts."""

    orchestrator: Orchestrator
    children: ChildSagas
    triggers: Triggers
    claims: Claims
    history: SagaHistory
    workflows: Workflows
    store: MemoryEventStore
    dapr: FakeDapr
    clock: VirtualClock
    upgrade: Callable[[], Awaitable[None]]
    """Replace the first worker, which knows only `before`, with one that knows the whole catalogue."""

    def history_bytes(self, key: SagaKey) -> int:
        """Return the size of a saga's workflow history, which its worker receives at each turn, in bytes."""
        instance = self.dapr.workflows.find(instance_id(key))
        return sum(event.ByteSize() for event in [*instance.history, *instance.inbox])

    async def types(self, key: SagaKey) -> list[str]:
        """Return the types of a saga's events."""
        return [event.event_type async for event in self.store.read_stream(key.stream)]


@asynccontextmanager
async def saga_machine(
    catalog: SagaCatalog,
    invocation: Any = None,
    functions: Mapping[str, Activity] | None = None,
    before: SagaCatalog | None = None,
) -> AsyncIterator[SagaMachine]:
    """Run an orchestrator. `invocation` answers the sagas' calls to other services.

    Until `upgrade` is called, the worker knows only the sagas of `before`.
    """
    clock = VirtualClock(patience=60)
    dapr = FakeDapr(clock=clock)
    async with FakeSidecar(dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port, timeout=60)
        store = MemoryEventStore()
        history = SagaHistory(store)
        claims = Claims(client, "eventstore", history)
        workflows = Workflows(client)
        orchestrator = Orchestrator(catalog, history, claims, workflows)
        children = ChildSagas(orchestrator, history, claims)
        triggers = Triggers(catalog, claims, orchestrator)
        activities = SagaActivities(history, cast("ServiceInvocation", invocation), client, functions or {})
        performed = {
            "perform": activities.perform,
            "record": activities.record,
            "begin_child": children.begin,
            "cancel_child": children.cancel,
        }
        async with AsyncExitStack() as workers:

            async def work(known: SagaCatalog) -> None:
                worker = SagaWorker(sidecar.grpc_port, known, performed)
                await workers.enter_async_context(_working(worker, dapr.workflows._workers[sidecar.app_id]))

            async def upgrade() -> None:
                await workers.aclose()
                await work(catalog)

            await work(before or catalog)
            yield SagaMachine(
                orchestrator, children, triggers, claims, history, workflows, store, dapr, clock, upgrade
            )
        await client.close()


@asynccontextmanager
async def _working(worker: SagaWorker, known: list[Any]) -> AsyncIterator[None]:
    """Run a worker and yield once the sidecar has registered it.

    The SDK reports that the worker is connected before its call reaches the sidecar.
    """
    before = list(known)
    task = asyncio.create_task(worker.run())
    try:
        while not worker.connected or all(one in before for one in known):
            await asyncio.sleep(0.01)
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
