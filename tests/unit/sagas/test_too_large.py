"""What is too large for a broker is refused when it is requested, and a history is recorded whole."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import BaseModel

from annals.dapr import Workflows
from annals.events import DomainEvent, RecordedEvent
from annals.sagas import CallActivity, Saga, SagaCatalog, StartOn, Step
from annals.sagas.asker import Asker
from annals.sagas.children import ChildSagas
from annals.sagas.claims import Claims
from annals.sagas.events import StepCompleted
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.start import entry
from annals.sagas.state import SagaStatus
from annals.sagas.triggers import Triggers
from annals.store import AppendTooLarge, MemoryEventStore
from annals.store.sizes import MAX_EVENT_BYTES

LARGE = "x" * MAX_EVENT_BYTES
KEY = SagaKey("s", "default")


class Input(BaseModel):
    text: str


SAGA = Saga(
    type="large",
    version=1,
    input=Input,
    steps=(Step("only", CallActivity("nothing", lambda _: None)),),
    triggers=(StartOn("thing.happened", lambda data, _: data),),
)


class Engine:
    def __init__(self) -> None:
        self.started: list[str] = []

    async def start(self, _name: str, instance: str, _given: Any, _traceparent: str | None) -> bool:
        self.started.append(instance)
        return True


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def history() -> SagaHistory:
    return SagaHistory(MemoryEventStore())


@pytest.fixture
def claims(history: SagaHistory) -> Claims:
    return Claims(cast("Any", None), "store", history)


@pytest.fixture
def orchestrator(engine: Engine, history: SagaHistory, claims: Claims) -> Orchestrator:
    return Orchestrator(SagaCatalog(SAGA), history, claims, cast("Workflows", engine))


async def test_an_input_that_is_too_large_starts_nothing(orchestrator: Orchestrator, engine: Engine) -> None:
    with pytest.raises(AppendTooLarge, match=r"saga\.started takes"):
        await orchestrator.start(KEY, "large", {"text": LARGE}, Asker())
    assert not engine.started


async def test_a_trigger_with_too_large_an_input_holds_up_nobody(
    orchestrator: Orchestrator, claims: Claims, engine: Engine
) -> None:
    triggers = Triggers(SagaCatalog(SAGA), claims, orchestrator)
    happened = DomainEvent(
        event_type="thing.happened",
        source="test",
        aggregate_type="thing",
        aggregate_id="x",
        data={"text": LARGE},
    )
    await triggers.on_domain_event(RecordedEvent.record(happened, version=1, lane=0, seq=1))
    assert not engine.started


async def test_a_saga_is_not_started_by_another_with_too_large_an_input(
    orchestrator: Orchestrator, history: SagaHistory, claims: Claims
) -> None:
    children = ChildSagas(orchestrator, history, claims)
    call = {"id": "p", "tenant": "default", "child": "c", "run": 0, "cancelled": None, "type": "large"}
    answer = await children.begin(call | {"input": {"text": LARGE}}, None)
    assert "saga.started takes" in answer["refused"]


async def test_what_a_step_came_to_is_recorded_however_large_it_is(
    orchestrator: Orchestrator, history: SagaHistory
) -> None:
    await orchestrator.start(KEY, "large", {"text": "x"}, Asker())
    done = StepCompleted(step="only", attempt=1, result=LARGE)
    state = await history.record(KEY, [entry(done, "2026-01-01T00:00:00+00:00")], None)
    assert state.status is not SagaStatus.NONE
    assert state.steps["only"].result == LARGE
