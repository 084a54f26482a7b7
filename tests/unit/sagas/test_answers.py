"""What the orchestrator answers is what its document says, and no more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from annals.sagas.events import SagaStarted, SagaWaiting
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.start import beginning, entry
from annals.store import MemoryEventStore
from annals.web.problems import Problem, on_problem
from annals_saga_orchestrator import api
from annals_saga_orchestrator.sagas import CATALOG
from documented import as_documented
from newer_release import suspended_by_a_newer_release

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


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "one"),
        ("POST", "one/events/yes"),
        ("POST", "one/cancel"),
        ("POST", "task-handover?id=one"),
    ],
)
async def test_a_saga_that_only_a_newer_release_can_read_is_for_now(method: str, path: str) -> None:
    unused: Any = None
    store = MemoryEventStore()
    history, key = SagaHistory(store), SagaKey("one", "default")
    started = SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("w",))
    await history.record(key, [beginning(started)], None)
    await suspended_by_a_newer_release(store, key)
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    orchestrator = Orchestrator(CATALOG, SagaHistory(store), unused, unused)
    app.include_router(api.routes(orchestrator, CATALOG, unused, unused))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://o") as client:
        given = {"task_id": "t1", "assignee": "bob"} if path.startswith("task") else None
        answer = await client.request(method, f"/sagas/{path}", json=given)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:unavailable")
    assert "this release cannot read" in answer.json()["detail"]
