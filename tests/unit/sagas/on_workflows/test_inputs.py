"""What sagas are started with and send: stored as it is, read back, or refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field, PlainSerializer, ValidationError

from annals.dapr.invocation import Answer
from annals.sagas import (
    Saga,
    SagaCatalog,
    SagaInput,
    SagaStatus,
    SendCommand,
    Step,
)
from annals.sagas.asker import Asker
from annals.sagas.catalog import NotDeclared
from saga_machine import saga_machine
from small_sagas import KEY, WAIT, Answering, Numbered, command


async def test_what_is_sent_may_be_made_of_more_than_json() -> None:
    sent: list[Any] = []

    class Taken:
        async def invoke(self, _app: str, _method: str, _path: str, *, json: Any, **_: Any) -> Answer:
            sent.append(json)
            return Answer(200, {})

    due = Step("a", SendCommand("a", lambda saga: {"due": saga.started, "in": timedelta(hours=1)}))
    declared = Saga("test", Numbered, (due,), output=lambda saga: {"since": saga.started})
    async with saga_machine(SagaCatalog(declared), Taken()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.reason) == (SagaStatus.COMPLETED, None)
    assert sent == [{"due": ended.output["since"], "in": "PT1H"}]


async def test_a_saga_whose_input_is_refused_later_is_not_restarted_and_can_be_terminated() -> None:
    """As by a validator that looks at the clock, or that a release made stricter."""
    refused: set[int] = set()

    def in_time(n: int) -> int:
        if n in refused:
            raise ValueError("it is too late for this")
        return n

    class Timely(SagaInput):
        n: Annotated[int, AfterValidator(in_time)]

    apps = Answering()
    saga = Saga("test", Timely, (command("a"), WAIT), business_key=lambda _: "one")
    async with saga_machine(SagaCatalog(saga), apps) as machine:
        ask = machine.orchestrator
        await ask.start(KEY, "test", {"n": 1}, Asker())
        await machine.clock.settle()
        refused.add(1)
        await machine.clock.advance(timedelta(days=1))
        assert (await ask.load(KEY)).status is SagaStatus.RUNNING
        with pytest.raises(NotDeclared, match="it is too late for this"):
            await ask.restart(KEY, "it stood still", Asker())
        assert (await ask.load(KEY)).run == 0
        ended = await ask.terminate(KEY, "it is too late", Asker("boss"))
        assert (ended.status, ended.left) == (SagaStatus.FAILED, ("a",))
        assert (await ask.start(replace(KEY, id="q"), "test", {"n": 2}, Asker())).created
        refused.clear()
        await ask.retry(KEY, Asker("boss"))
        await machine.clock.settle()
        assert (await ask.load(KEY)).status is SagaStatus.COMPENSATED
    assert sorted(apps.did) == ["a", "a", "a_back"]


async def test_an_input_that_is_refused_as_it_is_stored_begins_nothing() -> None:
    """Each of its turns would be refused."""

    class Stored(SagaInput):
        n: Annotated[int, AfterValidator(lambda n: n), PlainSerializer(lambda n: f"number {n}")]

    saga = Saga("test", Stored, (WAIT,), business_key=lambda _: "one")
    async with saga_machine(SagaCatalog(saga)) as machine:
        with pytest.raises(ValidationError, match="unable to parse"):
            await machine.orchestrator.start(KEY, "test", {"n": 1}, Asker())
        assert (await machine.orchestrator.load(KEY)).status is SagaStatus.NONE
        assert (
            await machine.claims.holder("default", "test", "one", machine.orchestrator.begin_claimed) is None
        )


async def test_an_input_with_an_alias_is_read_as_it_is_stored() -> None:
    """By the names of its fields, as the data of an event is."""

    class Aliased(SagaInput):
        n: int = Field(alias="number")

    saga = Saga("test", Aliased, (command("a"),), output=lambda context: context.input.n)
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        await machine.orchestrator.start(KEY, "test", {"number": 1}, Asker())
        await machine.clock.settle()
        assert (await machine.orchestrator.load(KEY)).output == 1
