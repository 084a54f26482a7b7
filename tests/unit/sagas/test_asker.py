"""The events that a request on a saga appends say who made it, in which session and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import orjson
import pytest
from fastapi import FastAPI

from annals.dapr import SidecarUnavailable, Write
from annals.events import DomainEvent
from annals.sagas import Saga, SagaCatalog, SagaStatus, claims
from annals.sagas.events import SagaStarted
from annals.sagas.history import SagaKey
from annals.sagas.runs import instance_id, workflow_input
from annals.sagas.state import SagaState
from annals.web import Problem
from annals.web.problems import on_problem
from annals_saga_orchestrator import api
from saga_machine import SagaMachine, saga_machine
from small_sagas import CHILD, CHILDREN, KEY, ONE, WAIT, Answering, Numbered, command

TEST = Saga("test", Numbered, (command("a"), WAIT))
ONE_AT_A_TIME = replace(CHILD, business_key=lambda _: "all")
FROM = "203.0.113.7"

Post = Callable[..., Awaitable[httpx.Response]]


class Recorded:
    """Stands for the audit trail, which records every operation."""

    async def requested(self, *_: Any) -> None:
        pass


@asynccontextmanager
async def served(*sagas: Saga[Any]) -> AsyncIterator[tuple[SagaMachine, Post]]:
    """Run an orchestrator with its API. What is posted comes from `FROM`, in the session that is given."""
    unused: Any = None
    recorded: Any = Recorded()
    catalog = SagaCatalog(*sagas)
    async with saga_machine(catalog, Answering()) as machine:
        app = FastAPI()
        app.add_exception_handler(Problem, on_problem)
        app.include_router(api.routes(machine.orchestrator, catalog, unused, recorded))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://o") as client:

            async def post(path: str, session: str, body: Any = None) -> httpx.Response:
                headers = {"x-user-id": "grace", "x-session-id": session, "x-forwarded-for": FROM}
                answer = await client.post(f"/sagas/{path}", json=body or {}, headers=headers)
                await machine.clock.settle()
                return answer

            yield machine, post


async def told(machine: SagaMachine, key: SagaKey) -> list[DomainEvent]:
    return [event async for event in machine.store.read_stream(key.stream)]


async def sessions(machine: SagaMachine, key: SagaKey = KEY) -> dict[str, str | None]:
    """Return the session of each event that came from somewhere."""
    events = [one for one in await told(machine, key) if one.client is not None or one.session_id is not None]
    assert {one.client for one in events} <= {FROM}
    return {one.event_type: one.session_id for one in events}


@pytest.mark.parametrize(
    ("requests", "recorded"),
    [
        (
            ["suspend", "resume", "restart", "terminate", "retry"],
            [
                "saga.suspended",
                "saga.continued",
                "saga.restarted",
                "saga.terminated",
                "saga.compensation_retried",
            ],
        ),
        (["events/yes"], ["saga.event_raised"]),
        (["cancel"], ["saga.cancel_requested"]),
    ],
)
async def test_what_a_request_appends_has_its_session_and_address_and_what_follows_has_none(
    requests: list[str], recorded: list[str]
) -> None:
    async with served(TEST) as (machine, post):
        assert (await post("test?id=p", "start")).status_code == 202
        for request in requests:
            assert (await post(f"p/{request}", request)).status_code == 202
        assert (await machine.orchestrator.load(KEY)).status.ended
        assert await sessions(machine) == {"saga.started": "start"} | dict(
            zip(recorded, requests, strict=True)
        )
        assert {one.user_id for one in await told(machine, KEY)} == {"grace"}


async def test_what_a_request_does_to_the_children_has_its_session_too() -> None:
    async with served(ONE, CHILD) as (machine, post):
        await post("parent?id=p", "start")
        await post("p/terminate", "terminate")
        assert await sessions(machine, CHILDREN[0]) == {"saga.terminated": "terminate"}


async def test_a_repeat_changes_nothing_about_who_was_first() -> None:
    async with served(TEST) as (machine, post):
        for session in ("first", "second"):
            await post("test?id=p", session)
            await post("p/suspend", session)
        assert await sessions(machine) == {"saga.started": "first", "saga.suspended": "first"}


async def test_a_start_that_the_workflow_records_has_the_session_of_who_asked_for_it() -> None:
    """As when who asked died between the two: the workflow then has only its input to go by."""
    async with served(TEST) as (machine, post):
        begin = machine.workflows.start

        async def without_an_answer(*given: Any) -> bool:
            await begin(*given)
            await machine.clock.settle()
            raise SidecarUnavailable(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")

        machine.workflows.start = without_an_answer  # type: ignore[method-assign]
        assert (await post("test?id=p", "start")).status_code == 503
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.RUNNING
        assert await sessions(machine) == {"saga.started": "start"}


async def claimed(machine: SagaMachine, post: Post) -> None:
    """Claim the business key for a saga, and start no workflow for it."""
    begin = machine.workflows.start

    async def unreached(*_: Any) -> bool:
        raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")

    machine.workflows.start = unreached  # type: ignore[method-assign]
    assert (await post("child?id=p", "first", {"n": 1})).status_code == 503
    machine.workflows.start = begin  # type: ignore[method-assign]


async def test_a_start_that_another_start_begins_has_the_session_of_who_asked_for_it() -> None:
    async with served(ONE_AT_A_TIME) as (machine, post):
        await claimed(machine, post)
        assert (await post("child?id=other", "second", {"n": 2})).status_code == 409
        assert await sessions(machine) == {"saga.started": "first"}


async def test_a_claim_of_an_older_release_does_not_say_in_which_session_it_was_made() -> None:
    async with served(ONE_AT_A_TIME) as (machine, post):
        await claimed(machine, post)
        sidecar = machine.claims._sidecar
        place = claims._key("default", "child", "all")
        found = await sidecar.get("eventstore", place)
        assert found is not None
        older = orjson.loads(found.data)
        older.pop("asker", None)
        await sidecar.save("eventstore", Write.replacing(place, orjson.dumps(older), found))
        assert (await post("child?id=other", "second", {"n": 2})).status_code == 409
        assert await sessions(machine) == {}
        assert (await machine.orchestrator.load(KEY)).user == "grace"


async def test_a_workflow_that_an_older_release_began_goes_on() -> None:
    async with served(TEST) as (machine, post):
        started = SagaStarted(
            started_at=datetime(2030, 1, 1, tzinfo=UTC),
            saga_type="test",
            saga_version=1,
            input={"n": 1},
            steps=("a", "w"),
        )
        given = workflow_input(KEY, SagaState().apply(started))
        given["begun"].pop("asker", None)
        await machine.workflows.start("test", instance_id(KEY), given, None)
        await machine.clock.settle()
        await post("p/events/yes", "answer")
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.COMPLETED
        assert await sessions(machine) == {"saga.event_raised": "answer"}
