"""The orchestrator's answers contain what its document says, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from annals.sagas import AskQuery, AwaitEvent, Saga, SagaCatalog, SagaInput, Step
from annals.sagas.events import SagaStarted, SagaWaiting, StepCompleted, StepStarted
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


@asynccontextmanager
async def asking(history: SagaHistory, catalog: SagaCatalog = CATALOG) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an orchestrator without a sidecar, which checks each answer against the document."""
    unused: Any = None
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.include_router(api.routes(Orchestrator(catalog, history, unused, unused), catalog, unused, unused))
    transport, hooks = httpx.ASGITransport(app=app), {"response": [as_documented]}
    base = "http://saga-orchestrator:8003"
    async with httpx.AsyncClient(transport=transport, base_url=base, event_hooks=hooks) as client:
        yield client


async def test_a_saga_is_answered_as_documented() -> None:
    history = SagaHistory(MemoryEventStore())
    started = SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("w", "b"))
    waiting = SagaWaiting(step="w", events=("yes",), deadline=AT)
    await history.record(SagaKey("one", "default"), [beginning(started), entry(waiting)], None)
    async with asking(history) as client:
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
    store = MemoryEventStore()
    history, key = SagaHistory(store), SagaKey("one", "default")
    started = SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("w",))
    await history.record(key, [beginning(started)], None)
    await suspended_by_a_newer_release(store, key)
    async with asking(SagaHistory(store)) as client:
        given = {"task_id": "t1", "assignee": "bob"} if path.startswith("task") else None
        answer = await client.request(method, f"/sagas/{path}", json=given)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:unavailable")
    assert "this release cannot read" in answer.json()["detail"]


class Nothing(SagaInput):
    pass


FOUND_FIRST = Saga(
    "found-first",
    Nothing,
    (
        Step("find", AskQuery(lambda _: "queries/tasks/t1", ("assignee",))),
        Step(
            "w",
            AwaitEvent(
                ("yes",),
                deadline=lambda _: timedelta(days=1),
                by=lambda saga: saga.results["find"]["assignee"],
            ),
        ),
    ),
)


async def test_nobody_may_answer_before_it_is_known_who_may() -> None:
    history, key = SagaHistory(MemoryEventStore()), SagaKey("one", "default")
    started = SagaStarted(
        started_at=AT, saga_type="found-first", saga_version=1, input={}, steps=("find", "w")
    )
    begun = StepStarted(step="find", attempt=1)
    await history.record(key, [beginning(started), entry(begun)], None)
    async with asking(history, SagaCatalog(FOUND_FIRST)) as client:
        answer = await client.post("/sagas/one/events/yes", headers={"x-user-id": "ada"})
        assert (answer.status_code, answer.json()["rule"]) == (422, "saga.not_waiting")
        found = StepCompleted(step="find", attempt=1, result={"assignee": "ada"})
        later = datetime.now(UTC) + timedelta(days=1)
        waiting = SagaWaiting(step="w", events=("yes",), deadline=later)
        await history.record(key, [entry(found), entry(waiting)], None)
        answer = await client.post("/sagas/one/events/yes", headers={"x-user-id": "bob"})
        assert answer.status_code == 403


async def test_a_wait_that_cannot_say_who_may_answer_it_is_a_failure() -> None:
    history, key = SagaHistory(MemoryEventStore()), SagaKey("one", "default")
    started = SagaStarted(
        started_at=AT, saga_type="found-first", saga_version=1, input={}, steps=("find", "w")
    )
    found = StepCompleted(step="find", attempt=1, result={})
    waiting = SagaWaiting(step="w", events=("yes",), deadline=datetime.now(UTC) + timedelta(days=1))
    await history.record(key, [beginning(started), entry(found), entry(waiting)], None)
    async with asking(history, SagaCatalog(FOUND_FIRST)) as client:
        with pytest.raises(KeyError, match="assignee"):
            await client.post("/sagas/one/events/yes")
