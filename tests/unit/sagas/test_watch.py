"""Which sagas are watched, for how long, and which are left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import grpc
import pytest
from structlog.testing import capture_logs

from annals.aggregates.aggregate import NotFound
from annals.dapr import DaprError, NotAnswered, Workflows
from annals.sagas import (
    AwaitEvent,
    Parallel,
    Retry,
    Saga,
    SagaCatalog,
    SagaInput,
    SendCommand,
    StartSaga,
    StartSagas,
    Step,
)
from annals.sagas.asker import Asker
from annals.sagas.catalog import NotDeclared
from annals.sagas.claims import Claims
from annals.sagas.events import (
    EventRaised,
    SagaCancelRequested,
    SagaCompensating,
    SagaError,
    SagaFailed,
    SagaResumed,
    SagaStarted,
    SagaTerminated,
    SagaWaiting,
    StepCompleted,
    StepFailed,
    StepStarted,
)
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.runs import instance_id
from annals.sagas.start import child_id, entry
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.watch import Watch, allowed_silence
from annals.store import MemoryEventStore, StoreUnavailable, StreamUnreadable, Undecodable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY, OTHER = SagaKey("s1", "default"), SagaKey("s2", "default")


class Nothing(SagaInput):
    pass


SAGA = Saga(
    "test",
    Nothing,
    (
        Step(
            "a",
            SendCommand("a", lambda _: {}),
            retry=Retry(first=timedelta(minutes=2), cap=timedelta(minutes=2)),
            timeout=timedelta(seconds=20),
            compensation_retry=Retry(first=timedelta(minutes=3), cap=timedelta(minutes=3)),
        ),
        Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(hours=1))),
    ),
)
STARTED = SagaStarted(started_at=NOW, saga_type="test", saga_version=1, input={}, steps=("a", "w"))
BEGUN = StepStarted(step="a", attempt=1)
FAILED = StepFailed(step="a", attempt=1, error=SagaError(kind="failed", message="no"), final=False)
DONE = StepCompleted(step="a", attempt=1)
UNDOING = StepStarted(step="a", attempt=1, compensation=True)
NOT_UNDONE = FAILED.model_copy(update={"compensation": True})
WAITING = SagaWaiting(step="w", events=("yes",), deadline=NOW + timedelta(hours=1))
RAISED = EventRaised(event="yes", number=1)
CANCEL = SagaCancelRequested(reason="enough")


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ((), 0),
        ((BEGUN,), 20),
        ((BEGUN, FAILED), 120),
        ((BEGUN, DONE), 0),
        ((BEGUN, DONE, SagaCompensating(reason="no"), UNDOING), 20),
        ((BEGUN, DONE, SagaCompensating(reason="no"), UNDOING, NOT_UNDONE), 180),
        ((BEGUN, DONE, WAITING), 3600),
        ((BEGUN, DONE, WAITING, RAISED), 0),
        ((BEGUN, DONE, WAITING, CANCEL), 0),
    ],
)
def test_what_a_declaration_allows(events: tuple[Any, ...], seconds: float) -> None:
    state = SagaState().apply(STARTED)
    for event in events:
        state = state.apply(event)
    assert allowed_silence(SAGA, state, NOW).total_seconds() == seconds


def test_a_saga_waits_for_all_that_its_steps_wait_for() -> None:
    """A saga must move as soon as one of the answers comes, whichever step waits longest."""
    waits = [Step(name, AwaitEvent((f"yes-{name}",), deadline=lambda _: timedelta(hours=1))) for name in "vw"]
    saga = Saga("test", Nothing, (Parallel(*waits),))
    state = SagaState().apply(STARTED.model_copy(update={"steps": ("v", "w")}))
    for name in "vw":
        until = NOW + timedelta(hours=1)
        state = state.apply(SagaWaiting(step=name, events=(f"yes-{name}",), deadline=until))
    assert state.waits_for == ("yes-v", "yes-w")
    assert allowed_silence(saga, state, NOW) == timedelta(hours=1)
    state = state.apply(EventRaised(event="yes-v", number=1))
    assert allowed_silence(saga, state, NOW) == timedelta(0)
    state = state.apply(SagaResumed(step="v", event="yes-v", number=1))
    assert state.waits_for == ("yes-w",)
    assert allowed_silence(saga, state, NOW) == timedelta(hours=1)
    assert state.apply(SagaCompensating(reason="no")).waits_for == ()


class Told:
    """As much of the workflow engine as starts and ends workflows."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.refused = ""
        self.answers = True

    async def start(self, _name: str, instance: str, _given: Any, _traceparent: str | None) -> bool:
        if instance == self.refused:
            raise DaprError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
        self.started.append(instance)
        return True

    async def terminate(self, instance: str) -> None:
        if not self.answers:
            raise DaprError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
        self.ended.append(instance)


class World:
    def __init__(self, *sagas: Saga[Any]) -> None:
        self.time = 0.0
        self.told = Told()
        self.history = SagaHistory(MemoryEventStore())
        catalog = SagaCatalog(*sagas or (SAGA,))
        claims, workflows = Claims(cast("Any", None), "store", self.history), cast("Workflows", self.told)
        orchestrator = self.orchestrator = Orchestrator(catalog, self.history, claims, workflows)

        async def unmoved() -> list[SagaKey]:
            if not self.query_answers:
                raise NotAnswered("no answer")
            return self.unmoved

        async def being_imported() -> bool:
            return self.being_imported

        self.unmoved = [KEY, OTHER]
        self.query_answers = True
        self.being_imported = False
        self.watch = Watch(
            catalog,
            self.history,
            orchestrator,
            unmoved,
            being_imported,
            seconds=60,
            clock=lambda: self.time,
        )

    async def tell(self, *events: Any, key: SagaKey = KEY) -> None:
        _, state = await self.history.load(key)
        await self.history.record(key, [entry(event, NOW.isoformat()) for event in events], None, state.run)

    async def look(self, after: float) -> None:
        self.time += after
        await self.watch.look()


async def test_it_is_restarted_when_it_was_seen_to_stand_for_longer_than_it_may() -> None:
    world = World()
    await world.tell(STARTED, BEGUN)
    for seconds in (1_000, 79):
        await world.look(seconds)
        assert not world.told.started
    await world.look(1)
    assert world.told.started == [instance_id(KEY, 1)]


async def test_one_that_cannot_be_restarted_holds_up_no_other() -> None:
    world = World()
    for key in (KEY, OTHER):
        await world.tell(STARTED, BEGUN, key=key)
    world.told.refused = instance_id(KEY, 1)
    for _ in range(2):
        await world.look(80)
    assert world.told.started == [instance_id(OTHER, 1)]


async def test_a_workflow_that_could_not_be_ended_is_ended_by_the_next_restart() -> None:
    world = World()
    await world.tell(STARTED, BEGUN)
    world.told.answers = False
    with pytest.raises(DaprError):
        await world.orchestrator.restart(KEY, "it stood still", Asker())
    assert not world.told.started
    world.told.answers = True
    await world.orchestrator.restart(KEY, "it stood still", Asker())
    assert world.told.ended == [instance_id(KEY, 0), instance_id(KEY, 1)]
    assert world.told.started == [instance_id(KEY, 2)]


async def test_a_restart_that_the_workflow_engine_did_not_follow_is_seen_through_at_the_next_look() -> None:
    """However long the engine is down, no other run is recorded, and the recorded run keeps its full time."""
    world = World()
    await world.tell(STARTED, BEGUN)
    world.told.answers = False
    for _ in range(2):
        await world.look(80)
    version, state = await world.history.load(KEY)
    assert state.run == 1
    for _ in range(20):
        await world.look(200)
    assert await world.history.load(KEY) == (version, state)
    assert not world.told.started
    world.told.answers = True
    # The saga need not be among those that stand still, since its stream moved not long ago.
    world.unmoved = []
    await world.look(0)
    assert world.told.ended == [instance_id(KEY, 0)]
    assert world.told.started == [instance_id(KEY, 1)]
    world.unmoved = [KEY]
    for seconds in (200, 139):
        await world.look(seconds)
        assert world.told.started == [instance_id(KEY, 1)]
    await world.look(1)
    assert world.told.started == [instance_id(KEY, 1), instance_id(KEY, 2)]


async def test_a_restart_that_was_not_followed_waits_for_who_halted_the_saga_and_ends_with_it() -> None:
    world = World()
    for key in (KEY, OTHER):
        await world.tell(STARTED, BEGUN, key=key)
    world.told.answers = False
    for _ in range(2):
        await world.look(80)
    world.told.answers = True
    await world.history.decide(KEY, lambda state: state.suspend())
    await world.history.decide(OTHER, lambda state: state.terminate("enough", frozenset()))
    world.being_imported = True
    await world.look(0)
    world.being_imported = False
    await world.look(0)
    assert not world.told.started
    await world.history.decide(KEY, lambda state: state.resume())
    world.being_imported = True
    await world.look(0)
    assert not world.told.started
    world.being_imported = False
    for _ in range(2):
        await world.look(0)
    assert world.told.started == [instance_id(KEY, 1)]


async def test_a_look_that_fails_takes_from_no_saga_what_it_has_waited() -> None:
    """A failed look does not count, because it cannot tell how long sagas stood still."""
    world = World()
    await world.tell(STARTED, BEGUN)
    await world.look(0)
    await world.look(50)
    world.query_answers = False
    for _ in range(3):
        with pytest.raises(NotAnswered):
            await world.look(1_000)
    world.query_answers = True
    await world.look(29)
    assert not world.told.started
    await world.look(1)
    assert world.told.started == [instance_id(KEY, 1)]


async def test_one_that_moves_is_left_alone() -> None:
    world = World()
    await world.tell(STARTED, BEGUN)
    await world.look(0)
    await world.tell(FAILED)
    await world.look(100)
    await world.tell(StepStarted(step="a", attempt=2))
    for _ in range(2):
        await world.look(79)
    assert not world.told.started


async def test_the_more_often_it_did_not_help_the_longer_it_waits() -> None:
    world = World()
    await world.tell(STARTED, BEGUN, DONE)
    times: list[float] = []
    for _ in range(100):
        before = len(world.told.started)
        await world.look(30)
        if len(world.told.started) > before:
            times.append(world.time)
    assert [round(later - sooner) for sooner, later in pairwise(times)] == [
        150,
        270,
        510,
        990,
    ]


async def test_one_whose_end_may_be_still_to_be_imported_gets_its_time_from_then_on() -> None:
    world = World()
    await world.tell(STARTED, BEGUN)
    await world.look(0)
    world.being_imported = True
    for _ in range(3):
        await world.look(200)
    world.being_imported = False
    for seconds in (200, 79):
        await world.look(seconds)
        assert not world.told.started
    await world.look(1)
    assert world.told.started == [instance_id(KEY, 1)]


async def test_what_is_taken_back_once_more_is_restarted_by_itself_though_another_saga_started_it() -> None:
    """The parent of the saga has already counted it as failed."""
    world = World(SAGA, Saga("parent", Nothing, (Step("a", StartSaga("test", lambda _: {})),)))
    child = SagaKey(child_id(OTHER.id, "a", 0), "default")
    await world.tell(STARTED.model_copy(update={"saga_type": "parent", "steps": ("a",)}), BEGUN, key=OTHER)
    world.unmoved = [child]
    left = (SagaCompensating(reason="no"), SagaFailed(reason="no", left=("a",)))
    await world.tell(STARTED.model_copy(update={"parent": OTHER.id}), BEGUN, DONE, *left, key=child)
    await world.orchestrator.retry(child, Asker())
    world.told.answers = False
    for _ in range(2):
        await world.look(150)
    world.told.answers = True
    await world.look(0)
    assert world.told.started == [instance_id(child, run) for run in (1, 2)]
    assert (await world.orchestrator.load(OTHER)).run == 0


async def test_one_that_is_halted_or_over_is_left_alone() -> None:
    world = World()
    await world.tell(STARTED, BEGUN)
    await world.history.decide(KEY, lambda state: state.suspend())
    for _ in range(3):
        await world.look(200)
    await world.history.decide(KEY, lambda state: state.terminate("enough", frozenset()))
    for _ in range(3):
        await world.look(200)
    assert not world.told.started


async def test_one_that_stands_still_because_the_one_that_runs_it_is_halted_is_left_alone() -> None:
    world = World(SAGA, Saga("parent", Nothing, (Step("a", StartSaga("test", lambda _: {})),)))
    child = SagaKey(child_id(OTHER.id, "a", 0), "default")
    world.unmoved = [child, OTHER]
    await world.tell(STARTED.model_copy(update={"saga_type": "parent", "steps": ("a",)}), BEGUN, key=OTHER)
    await world.tell(STARTED.model_copy(update={"parent": OTHER.id}), key=child)
    await world.history.decide(OTHER, lambda state: state.suspend())
    for _ in range(3):
        await world.look(200)
    assert not world.told.started
    await world.history.decide(OTHER, lambda state: state.resume())
    for _ in range(3):
        await world.look(200)
    assert world.told.started[0] == instance_id(OTHER, 1)


@pytest.mark.parametrize(("at", "recorded"), [((Claims, "keep"), 1), ((SagaHistory, "decide"), 0)])
async def test_one_whose_restart_was_broken_off_by_the_store_is_restarted_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch, at: tuple[type, str], recorded: int
) -> None:
    world = World()
    world.unmoved = [KEY]
    await world.tell(STARTED, BEGUN)
    await world.look(200)

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(*at, away)
        with pytest.raises(StoreUnavailable):
            await world.look(200)
    assert (await world.orchestrator.load(KEY)).run == recorded
    await world.look(1)
    assert world.told.started == [instance_id(KEY, 1)]


async def with_two_children(world: World, saga_type: str, key: SagaKey, **began: Any) -> list[SagaKey]:
    """Tell of a saga that runs two children, and return the children."""
    children = [SagaKey(child_id(key.id, "a", index), "default") for index in range(2)]
    began |= {"saga_type": saga_type, "steps": ("a",)}
    await world.tell(STARTED.model_copy(update=began), BEGUN, key=key)
    for child in children:
        await world.tell(STARTED.model_copy(update={"parent": key.id}), BEGUN, key=child)
    return children


async def test_the_one_that_runs_two_that_stand_still_is_restarted_once() -> None:
    world = World(SAGA, Saga("parent", Nothing, (Step("a", StartSagas("test", lambda _: [{}, {}])),)))
    world.unmoved = await with_two_children(world, "parent", OTHER)
    for _ in range(2):
        await world.look(200)
    assert world.told.started == [instance_id(OTHER, 1)]


async def test_one_that_stands_still_beside_one_that_cannot_be_read_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(SAGA, Saga("parent", Nothing, (Step("a", StartSagas("test", lambda _: [{}, {}])),)))
    lost, damaged = await with_two_children(world, "parent", OTHER)
    load = world.history.load

    async def unreadable(key: SagaKey, *, certain: bool = True) -> tuple[int, SagaState]:
        if key.id == damaged.id:
            raise StreamUnreadable(key.stream, 1)
        return await load(key, certain=certain)

    monkeypatch.setattr(world.history, "load", unreadable)
    world.unmoved = [lost]
    for _ in range(2):
        await world.look(200)
    assert world.told.started == [instance_id(OTHER, 1)]


async def test_one_whose_parent_was_ended_by_force_is_ended_also_while_a_child_of_it_is_halted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    between = Saga("between", Nothing, (Step("a", StartSagas("test", lambda _: [{}, {}])),))
    world = World(SAGA, between, Saga("top", Nothing, (Step("a", StartSaga("between", lambda _: {})),)))
    orphan = SagaKey(child_id(OTHER.id, "a", 0), "default")
    ended = SagaTerminated(reason="enough", left=())
    await world.tell(
        STARTED.model_copy(update={"saga_type": "top", "steps": ("a",)}), BEGUN, ended, key=OTHER
    )
    lost, halted = await with_two_children(world, "between", orphan, parent=OTHER.id)
    await world.history.decide(halted, lambda state: state.suspend())
    world.unmoved = [lost]
    await world.look(200)

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(SagaHistory, "decide", away)
        with pytest.raises(StoreUnavailable):
            await world.look(200)
    await world.look(1)
    assert [(await world.orchestrator.load(key)).terminated for key in (orphan, lost, halted)] == [True] * 3
    assert not world.told.started


@pytest.mark.parametrize("depth", [1, 2])
async def test_one_that_stands_still_beside_one_that_is_halted_is_left_until_that_goes_on(depth: int) -> None:
    """A restart of what runs them both would let the other go on, which somebody suspended."""
    begun_by_it = Saga("between", Nothing, (Step("a", StartSaga("test", lambda _: {})),))
    of_many = {1: "test", 2: "between"}[depth]
    many = Saga("parent", Nothing, (Step("a", StartSagas(of_many, lambda _: [{}, {}])),))
    world = World(SAGA, begun_by_it, many)
    lost, beside = (SagaKey(child_id(OTHER.id, "a", index), "default") for index in range(2))
    await world.tell(STARTED.model_copy(update={"saga_type": "parent", "steps": ("a",)}), BEGUN, key=OTHER)
    for key in (lost, beside):
        begun = STARTED.model_copy(update={"parent": OTHER.id, "saga_type": of_many})
        await world.tell(begun.model_copy(update={"steps": ("a",)} if depth == 2 else {}), BEGUN, key=key)
    halted = beside
    if depth == 2:
        halted = SagaKey(child_id(beside.id, "a", 0), "default")
        await world.tell(STARTED.model_copy(update={"parent": beside.id}), BEGUN, key=halted)
    await world.history.decide(halted, lambda state: state.suspend())
    world.unmoved = [lost]
    with capture_logs() as logs:
        for _ in range(4):
            await world.look(200)
    assert not world.told.started
    assert (await world.orchestrator.load(halted)).suspended
    [(event, root, child)] = {(log["event"], log["saga"], log["suspended"]) for log in logs}
    told = "a saga that stands still is not restarted, which would resume a suspended saga"
    assert (event, root, child) == (told, OTHER.id, halted.id)
    await world.history.decide(halted, lambda state: state.resume())
    for _ in range(2):
        await world.look(200)
    assert world.told.started == [instance_id(OTHER, 1)]


async def test_one_that_runs_for_a_saga_whose_input_is_refused_is_not_restarted_without_it() -> None:
    many = StartSagas("test", lambda _: [{}])
    world = World(SAGA, Saga("parent", Nothing, (Step("a", many, compensation=SAGA.steps[0].action),)))
    child = SagaKey(child_id(OTHER.id, "a", 0), "default")
    world.unmoved = [child]
    parent = {"saga_type": "parent", "steps": ("a",), "input": {"of": "another release"}}
    await world.tell(STARTED.model_copy(update=parent), BEGUN, key=OTHER)
    await world.tell(STARTED.model_copy(update={"parent": OTHER.id}), key=child)
    for _ in range(2):
        await world.look(200)
    assert not world.told.started
    assert (await world.orchestrator.load(OTHER)).status is SagaStatus.RUNNING


@pytest.mark.parametrize(
    "parent", [{"input": {"of": "another release"}}, {"saga_version": 7}], ids=["input", "version"]
)
async def test_one_that_runs_for_a_saga_that_was_terminated_unknown_here_is_terminated_too(
    parent: dict[str, Any],
) -> None:
    many = StartSagas("test", lambda _: [{}, {}])
    world = World(SAGA, Saga("parent", Nothing, (Step("a", many),)))
    child, cancelled = (SagaKey(child_id(OTHER.id, "a", index), "default") for index in range(2))
    world.unmoved = [child, cancelled]
    parent = {"saga_type": "parent", "steps": ("a",)} | parent
    await world.tell(STARTED.model_copy(update=parent), BEGUN, key=OTHER)
    for key in (child, cancelled):
        await world.tell(STARTED.model_copy(update={"parent": OTHER.id}), BEGUN, DONE, key=key)
    await world.history.decide(cancelled, lambda state: state.cancel("enough"))
    await world.orchestrator.terminate(OTHER, "stop", Asker())
    for _ in range(2):
        await world.look(200)
    ended = await world.orchestrator.load(child)
    assert (ended.terminated, ended.reason) == (True, "saga s2, which started it, was terminated")
    # The parent may have gone on without the other child, which is then compensated.
    assert world.told.started == [instance_id(cancelled, 1)]


@pytest.mark.parametrize(
    "steps",
    [(*SAGA.steps, Step("added", SendCommand("b", lambda _: {}))), tuple(reversed(SAGA.steps))],
    ids=["added", "in another order"],
)
async def test_a_saga_that_was_changed_without_a_new_version_stands_still_and_can_be_ended(
    steps: tuple[Step, ...],
) -> None:
    world = World(Saga("test", Nothing, steps))
    await world.tell(STARTED, BEGUN)
    with capture_logs() as logs:
        for _ in range(2):
            await world.look(80)
    assert world.told.started == []
    assert {log["event"] for log in logs} == {"a saga that has not moved cannot be run here"}
    assert "version 1 of test has other steps in this replica" in logs[0]["reason"]
    with pytest.raises(NotDeclared, match="the changed saga as a new version"):
        await world.orchestrator.restart(KEY, "it stands still", Asker())
    ended = await world.orchestrator.terminate(KEY, "enough", Asker())
    assert (ended.status, ended.left) == (SagaStatus.FAILED, ("a",))


async def test_a_version_that_is_gone_is_told_of_and_its_saga_can_be_ended() -> None:
    world = World(Saga("test", Nothing, SAGA.steps, 2))
    await world.tell(STARTED, BEGUN, DONE, WAITING)
    with capture_logs() as logs:
        await world.look(80)
    assert [(log["event"], log["tenant"], log["reason"]) for log in logs] == [
        ("a saga that has not moved cannot be run here", "default", "this replica has no version 1 of test")
    ]
    before = await world.history.load(KEY)
    for ask in (
        world.orchestrator.raise_event(KEY, "yes", None, Asker()),
        world.orchestrator.restart(KEY, "it stands still", Asker()),
    ):
        with pytest.raises(NotDeclared, match="version 1 of test"):
            await ask
    assert await world.history.load(KEY) == before
    assert not world.told.ended
    ended = await world.orchestrator.terminate(KEY, "enough", Asker())
    assert (ended.status, ended.left) == (SagaStatus.FAILED, ("a",))


async def test_an_input_that_is_refused_is_told_of_at_each_look_and_no_restart_is() -> None:
    world = World(SAGA, Saga("parent", Nothing, (Step("a", StartSaga("test", lambda _: {})),)))
    child = SagaKey(child_id(OTHER.id, "a", 0), "default")
    parent = {"saga_type": "parent", "steps": ("a",), "input": {"of": "another release"}}
    await world.tell(STARTED.model_copy(update=parent), BEGUN, key=OTHER)
    world.unmoved = [OTHER]
    with capture_logs() as logs:
        for _ in range(4):
            await world.look(30)
    assert [log["event"] for log in logs] == ["a saga that has not moved cannot be run here"] * 4
    assert "this replica refuses the input of the saga" in logs[0]["reason"]
    await world.tell(STARTED.model_copy(update={"parent": OTHER.id}), BEGUN, DONE, key=child)
    world.unmoved = [child]
    with capture_logs() as logs:
        for _ in range(2):
            await world.look(80)
    assert [log["event"] for log in logs] == ["a saga cannot be restarted here"]


async def test_what_was_left_by_a_version_that_is_gone_is_not_said_to_be_tried_again() -> None:
    world = World(Saga("test", Nothing, SAGA.steps, 2))
    final = FAILED.model_copy(update={"final": True, "compensation": True})
    await world.tell(STARTED, BEGUN, DONE, SagaCompensating(reason="no"), final)
    await world.tell(SagaFailed(reason="no", left=("a",)))
    before = await world.history.load(KEY)
    with pytest.raises(NotDeclared, match="version 1 of test"):
        await world.orchestrator.retry(KEY, Asker())
    assert await world.history.load(KEY) == before
    assert not world.told.started
    with pytest.raises(NotFound):
        await world.orchestrator.retry(OTHER, Asker())


async def test_one_that_runs_for_a_saga_whose_version_is_gone_holds_up_no_other() -> None:
    gone = SagaKey("gone", "default")
    world = World()
    await world.tell(STARTED.model_copy(update={"saga_version": 7}), BEGUN, key=gone)
    await world.tell(STARTED.model_copy(update={"parent": gone.id}), BEGUN)
    await world.tell(STARTED, BEGUN, key=OTHER)
    with capture_logs() as logs:
        for _ in range(2):
            await world.look(80)
    assert world.told.started == [instance_id(OTHER, 1)]
    assert (await world.orchestrator.load(gone)).run == 0
    assert "a saga cannot be restarted here" in {log["event"] for log in logs}


@pytest.mark.parametrize(
    "error",
    [
        ValueError("nobody foresaw it"),
        StreamUnreadable(KEY.stream, 2),
        Undecodable("stream/default/saga-s1/head", KeyError("hash")),
    ],
    ids=["odd", "newer", "damaged"],
)
async def test_a_saga_that_cannot_be_looked_at_holds_up_no_other(error: Exception) -> None:
    world = World()
    await world.tell(STARTED, BEGUN, key=OTHER)
    load = world.history.load

    async def unreadable(key: SagaKey, **options: Any) -> tuple[int, SagaState]:
        if key == KEY:
            raise error
        return await load(key, **options)

    world.history.load = unreadable  # type: ignore[method-assign]
    with capture_logs():
        for _ in range(2):
            await world.look(80)
    assert world.told.started == [instance_id(OTHER, 1)]
