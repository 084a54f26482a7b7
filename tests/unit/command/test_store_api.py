"""What the export and import of a store report when they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import orjson
from fastapi import FastAPI

from annals.aggregates import folding
from annals.dapr import DaprSidecar, Write
from annals.events import DomainEvent
from annals.store import Append, DaprEventReader, keys
from annals.testing.fake import FakeSidecar
from annals.web.problems import Problem, on_problem
from annals_command import store_api
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from event_stores import opened


def created(name: str, **data: str) -> DomainEvent:
    return DomainEvent(
        event_type="task.created",
        source="test",
        aggregate_type="task",
        aggregate_id=name,
        data={"title": "Write"} | data,
    )


@asynccontextmanager
async def a_store(*events: DomainEvent) -> AsyncIterator[tuple[DaprSidecar, httpx.AsyncClient]]:
    """Run a store with these events, one in each stream; yield clients of its sidecar and its service."""
    async with FakeSidecar() as fake:
        if events:
            async with opened(fake.grpc_port) as store:
                for event in events:
                    await store.append(Append(event.stream, (event,), 0, {}))
        sidecar = DaprSidecar(fake.grpc_port)
        app = FastAPI()
        app.include_router(store_api.routes(sidecar, "eventstore", folding(REGISTRY, HANDLERS)))
        app.add_exception_handler(Problem, on_problem)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://command") as client:
            yield sidecar, client
        await sidecar.close()


async def test_an_export_that_is_broken_off_ends_with_the_reason() -> None:
    bad = created("b")
    async with a_store(created("a"), bad, created("c")) as (sidecar, client):
        key = keys.event(bad.stream, 1)
        await sidecar.save("eventstore", Write(key, b"{damaged"))
        answer = await client.get("/store/export")
    *_, last = map(orjson.loads, answer.iter_lines())
    assert key in last["failed"]


async def test_a_task_that_this_release_cannot_read_is_imported_with_the_others() -> None:
    events = created("a"), created("b", priority="as a newer release has it"), created("c")
    async with a_store(*events) as (_, client):
        answer = await client.get("/store/export")
    lines = answer.content.splitlines(keepends=True)[:-1]
    async with a_store() as (sidecar, client):
        for chunk in (b"".join(lines[:2]), b"".join(lines[2:])):
            answer = await client.post("/store/import", content=chunk)
            assert answer.status_code == 200
        reader = DaprEventReader(sidecar)
        assert not await reader.being_imported()
        heads = [(await reader.load(event.stream))[0] for event in events]
        assert [bool(head and head.state) for head in heads] == [True, False, True]
        half = orjson.dumps(orjson.loads(lines[-1]) | {"events": ["{half"]})
        answer = await client.post("/store/import", content=half)
        assert answer.status_code == 409
        assert "0-3" in answer.json()["detail"]
