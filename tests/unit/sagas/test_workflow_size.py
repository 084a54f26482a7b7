"""A workflow is sent to its worker whole, so it must fit into a sidecar's message and never stop others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from annals.dapr.invocation import Answer
from annals.sagas import AwaitEvent, Saga, SagaCatalog, SagaInput, SagaStatus, Step
from annals.sagas.asker import Asker
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.web import Problem
from annals.web.problems import on_problem
from annals_saga_orchestrator import api
from annals_saga_orchestrator.activities import MOST_TASKS, functions
from annals_saga_orchestrator.sagas import CATALOG
from saga_machine import saga_machine

# By default a sidecar takes 4 MiB, and it halts a workflow that reaches 95 % of that.
_SIDECAR = 4 * 1024 * 1024 * 95 // 100


class Nothing(SagaInput):
    pass


WAITING = Saga("waiting", Nothing, (Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1))),))


async def test_a_workflow_larger_than_a_message_usually_is_stops_no_other() -> None:
    async with saga_machine(SagaCatalog(WAITING)) as machine:
        large, other = SagaKey("large", "default", "ada"), SagaKey("other", "default", "bob")
        for key in (large, other):
            await machine.orchestrator.start(key, "waiting", {}, Asker())
        await machine.clock.settle()
        await machine.orchestrator.raise_event(large, "yes", "x" * 5_000_000, Asker("ada"))
        await machine.clock.settle()
        await machine.orchestrator.raise_event(other, "yes", None, Asker("bob"))
        await machine.clock.settle()
        for key in (large, other):
            assert (await machine.orchestrator.load(key)).status is SagaStatus.COMPLETED


class Suite:
    """The services, as they answer an off-boarding whose tasks, with the longest ids, are all refused.

    The first `retries` queries are refused too.
    """

    def __init__(self, tasks: int, retries: int) -> None:
        self.items = [{"id": str(number).rjust(128, "k")} for number in range(tasks)]
        self.retries = retries

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        if path.startswith("queries/tasks"):
            if self.retries == 0:
                return Answer(200, {"items": self.items, "next": None})
            self.retries -= 1
            return Answer(503, {"type": "urn:annals:problem:unavailable", "detail": "n" * 300})
        return Answer(422, {"type": "urn:annals:problem:rule", "rule": "no", "detail": "n" * 300})


async def _offboarding_bytes(tasks: int, retries: int = 0) -> int:
    suite: Any = Suite(tasks, retries)
    async with saga_machine(CATALOG, suite, functions(suite)) as machine:
        key = SagaKey("s" * 100, "t" * 63, "u" * 256, "c" * 256)
        given = {"member": "m" * 128, "successors": ["a" * 128]}
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        asker = Asker("u" * 256, "s" * 256, "a" * 256, traceparent)
        await machine.orchestrator.start(key, "member-offboarding", given, asker)
        await machine.clock.advance(timedelta(minutes=1))
        assert (await machine.orchestrator.load(key)).output["not_handed_over"]
        return machine.history_bytes(key)


async def test_the_largest_off_boarding_stays_within_what_a_sidecar_takes() -> None:
    few, more = await _offboarding_bytes(5), await _offboarding_bytes(15)
    each = (more - few) / 10
    retry = (await _offboarding_bytes(5, retries=4) - few) / 4
    retries = sum(step.retry.max_retries for step in CATALOG.newest("member-offboarding").flat())
    assert few + each * (MOST_TASKS - 5) + retry * retries < _SIDECAR


class Told(Orchestrator):
    """Records the events that are raised, and does nothing else."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def raise_event(self, _key: SagaKey, _event: str, data: Any, _asker: Asker) -> None:
        self.events.append(data)


async def test_what_is_raised_may_not_be_huge() -> None:
    unused: Any = None
    told = Told()
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.include_router(api.routes(told, CATALOG, unused, unused))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://saga-orchestrator") as client:
        for size, status in ((65_534, 202), (65_535, 413)):
            answer = await client.post("/sagas/one/events/yes", json="x" * size)
            assert answer.status_code == status
    assert answer.json()["type"] == "urn:annals:problem:too-large"
    assert [len(data) for data in told.events] == [65_534]
