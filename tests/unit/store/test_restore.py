"""What an import that is broken off leaves, and who keeps off it until it is through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import pytest

from annals.aggregates import Aggregate, Command, Handler, folding
from annals.dapr import DaprSidecar, Workflows
from annals.events import DomainEvent, EventData, EventRegistry, StreamId
from annals.sagas import Saga, SagaCatalog, SagaInput, SendCommand, Step
from annals.sagas.claims import Claims
from annals.sagas.events import SagaCompleted, SagaStarted, StepCompleted, StepStarted
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.state import SagaStatus
from annals.sagas.watch import Watch
from annals.store import ALL_LANES, SAGA_LANES, Append, DaprEventReader, Export, Restore
from annals.store import keys as store_keys
from annals.testing.fake import FakeSidecar
from event_store_conformance import new_stream, to_append
from event_stores import BrokenOff, opened

NOTHING = folding(EventRegistry([]), [])


@asynccontextmanager
async def empty() -> AsyncIterator[tuple[int, BrokenOff]]:
    """A sidecar whose store is empty: its port, and a client."""
    async with FakeSidecar() as sidecar:
        client = BrokenOff(sidecar.grpc_port)
        yield sidecar.grpc_port, client
        await client.close()


async def lines_of(client: DaprSidecar) -> list[bytes]:
    pages = Export(client, "eventstore", with_keys=False).pages()
    return b"".join([page async for page in pages]).splitlines(keepends=True)[:-1]


async def test_a_lane_is_being_imported_until_its_last_commit_is_there() -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            for _ in range(3):
                await store.append(to_append(new_stream(), 0))
            lane = store.lane or 0
        lines = await lines_of(source)
    async with empty() as (_, into):
        reader, restore = DaprEventReader(into), Restore(into, "eventstore", NOTHING)
        # What a bulk leaves out is there all the same.
        into.left_out = frozenset({store_keys.imported(lane), store_keys.log(lane, 3)})
        assert not await reader.being_imported()
        await restore.apply(b"".join(lines[:-1]))
        assert await reader.being_imported()
        assert await reader.being_imported([lane])
        assert not await reader.being_imported(one for one in ALL_LANES if one != lane)
        await restore.apply(lines[-1])
        assert not await reader.being_imported()


class Nothing(SagaInput):
    pass


SAGA = Saga("test", Nothing, (Step("a", SendCommand("a", lambda _: {})),))
KEY = SagaKey("s1", "default")


class NoWorkflows:
    """The workflow engine, which has lost them all."""

    def __init__(self) -> None:
        self.started: list[str] = []

    async def terminate(self, _instance: str) -> None:
        pass

    async def start(self, _name: str, instance: str, _given: Any, _traceparent: str | None) -> None:
        self.started.append(instance)


async def test_a_saga_whose_end_is_still_to_be_imported_is_not_restarted() -> None:
    started = SagaStarted(
        started_at=datetime(2030, 1, 1, tzinfo=UTC), saga_type="test", saga_version=1, input={}, steps=("a",)
    )
    story = (started, StepStarted(step="a", attempt=1), StepCompleted(step="a", attempt=1))
    async with empty() as (port, source):
        async with opened(port, lanes=SAGA_LANES) as store:
            history = SagaHistory(store)
            for event in (*story, SagaCompleted(output=None)):
                await history.decide(KEY, lambda _, event=event: [event])
        lines = await lines_of(source)

    async with empty() as (port, into), opened(port, lanes=SAGA_LANES) as store:
        restore = Restore(into, "eventstore", NOTHING)
        await restore.apply(b"".join(lines[:-1]))
        history, workflows, time = SagaHistory(store), NoWorkflows(), [0.0]
        catalog = SagaCatalog(SAGA)
        orchestrator = Orchestrator(
            catalog, history, Claims(into, "eventstore", history), cast("Workflows", workflows)
        )

        async def unmoved() -> list[SagaKey]:
            return [KEY]

        watch = Watch(
            catalog,
            history,
            orchestrator,
            unmoved,
            store.being_imported,
            seconds=60,
            clock=lambda: time[0],
        )
        for _ in range(3):
            await watch.look()
            time[0] += 100
        assert not workflows.started
        assert await restore.apply(b"".join(lines)) == 1, "it goes on where it was broken off"
        _, state = await history.load(KEY)
        assert state.status is SagaStatus.COMPLETED


class Put(EventData, type="box.put"):
    weight: int


class PutIn(Command):
    command_type: ClassVar[str] = "box.put"


class Box(Aggregate):
    aggregate_type: ClassVar[str] = "box"

    count: int = 0

    def apply(self, event: EventData) -> Box:  # noqa: ARG002 - it only counts them
        return self.model_copy(update={"count": self.count + 1})


class WeighedBox(Box):
    state_schema: ClassVar[int] = 2

    weight: int = 0

    def apply(self, event: EventData) -> WeighedBox:
        weight = self.weight + cast("Put", event).weight
        return self.model_copy(update={"count": self.count + 1, "weight": weight})


def release(box: type[Box]) -> Any:
    return folding(EventRegistry([Put]), [Handler(PutIn, box, lambda _: "x", lambda _, __: ())])


@pytest.mark.parametrize("pieces", [(4, 3), (4, 1, 1, 1)])
async def test_an_import_that_another_release_goes_on_with_has_the_states_of_that_one(
    pieces: tuple[int, ...],
) -> None:
    stream = StreamId.of("default", "box", "x")
    async with empty() as (port, source):
        async with opened(port) as store:
            for version, weight in enumerate((10, 20, 30, 40, 50, 60)):
                put = DomainEvent(
                    event_type="box.put",
                    source="test",
                    aggregate_type="box",
                    aggregate_id="x",
                    data={"weight": weight},
                )
                await store.append(Append(stream, (put,), version, {}))
        lines = await lines_of(source)
    async with empty() as (_, into):
        releases = [release(Box), *[release(WeighedBox)] * (len(pieces) - 1)]
        for fold, piece in zip(releases, pieces, strict=True):
            await Restore(into, "eventstore", fold).apply(b"".join(lines[:piece]))
            del lines[:piece]
        head, _ = await DaprEventReader(into).load(stream)
        assert head is not None
        assert (head.version, head.state_schema) == (6, 2)
        assert head.state == {"count": 6, "weight": 210}
