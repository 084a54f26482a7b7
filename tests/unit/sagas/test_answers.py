"""What the orchestrator answers is what its document says, and no more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI

from annals.sagas.events import SagaStarted, SagaWaiting
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.start import beginning, entry
from annals.store import MemoryEventStore
from annals_saga_orchestrator import api
from annals_saga_orchestrator.sagas import CATALOG
from documented import as_documented

AT = datetime(2030, 1, 1, tzinfo=UTC)


async def test_a_saga_is_answered_as_documented() -> None:
    unused: Any = None
    history = SagaHistory(MemoryEventStore())
    started = SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("w", "b"))
    waiting = SagaWaiting(step="w", events=("yes",), deadline=AT)
    await history.record(SagaKey("one", "default"), [beginning(started), entry(waiting)], None)
    app = FastAPI()
    app.include_router(api.routes(Orchestrator(CATALOG, history, unused, unused), CATALOG, unused, unused))
    transport, hooks = httpx.ASGITransport(app=app), {"response": [as_documented]}
    base = "http://saga-orchestrator:8003"
    async with httpx.AsyncClient(transport=transport, base_url=base, event_hooks=hooks) as client:
        answer = await client.get("/sagas/one")
    assert answer.json()["waits_for"] == ["yes"]
