"""Queries on events leave out no stored event, and a page holds fewer events when they are large."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from annals.deadletters import DeadLetters, of_event
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.store import Append, DaprEventStore, EventReader, MemoryEventStore, keys
from annals.testing.fake import FakeSidecar
from annals.web.problems import Problem, on_problem
from annals_projector.queries import events, streams
from annals_projector.read_models import PROJECTIONS
from event_stores import BrokenOff, lane_held

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
TASK = StreamId("default", "task-t")


def of_task(kind: str, seconds: int, **data: object) -> DomainEvent:
    return DomainEvent(
        event_type=kind,
        source="test",
        aggregate_type="task",
        aggregate_id="t",
        timestamp=NOON + timedelta(seconds=seconds),
        data=data,
    )


class Index:
    """An index of the events of one stream."""

    def __init__(self, *indexed: RecordedEvent) -> None:
        self.indexed = indexed

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "event_id = $2" in sql:
            return [[one.stream.name, one.version] for one in self.indexed if one.event_id == params[1]]
        after, size = params[8], int(params[9] or 0)
        ids = [one.event_id for one in self.indexed]
        start = ids.index(after) + 1 if after else 0
        return [
            {
                "stream": one.stream.name,
                "version": one.version,
                "time": one.timestamp.isoformat(),
                "event_id": one.event_id,
                "visible_at": None,
            }
            for one in self.indexed[start : start + size]
        ]


def asking(
    store: EventReader, *indexed: RecordedEvent, letters: DeadLetters | None = None
) -> httpx.AsyncClient:
    async def up_to_date() -> None:
        """Return at once: nothing is written meanwhile."""

    async def disclose(_tenant: str, value: Any) -> Any:
        return value

    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    waits = cast("Any", up_to_date)
    letters = letters or DeadLetters(cast("Any", None), "", "projector")
    app.include_router(streams.routes(store, PROJECTIONS, letters, disclose, waits))
    app.include_router(events.routes(Index(*indexed), store, disclose, waits))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://projector")


@pytest.fixture
async def client() -> AsyncIterator[BrokenOff]:
    async with FakeSidecar() as sidecar:
        client = BrokenOff(sidecar.grpc_port)
        yield client
        await client.close()


async def test_an_event_that_a_bulk_left_out_is_looked_for_again(client: BrokenOff) -> None:
    store = DaprEventStore(client, owner="test")
    running = asyncio.create_task(store.run())
    await lane_held(store)
    created, *changes = (of_task("task.created", 0, title="a"), of_task("task.completed", 1))
    await store.append(Append(TASK, (created, *changes), 0))
    stored = [event async for event in store.read_stream(TASK)]
    gone = stored[0].model_copy(update={"version": 3, "event_id": "gone"})
    client.left_out = frozenset({keys.event(TASK, 2)})

    async with asking(store, *stored, gone) as http:
        found = (await http.get("/queries/events")).json()["items"]
        one = await http.get(f"/queries/events/{stored[1].event_id}")
        none = await http.get("/queries/events/gone")

    assert [event["version"] for event in found] == [1, 2]
    assert one.json()["version"] == 2
    assert none.status_code == 404
    await store.drain()
    await running


async def test_a_state_at_a_time_is_one_that_was() -> None:
    store = MemoryEventStore()
    # The second event was written by a process whose clock is ahead.
    happened = (
        of_task("task.created", 0, title="a"),
        of_task("task.assigned", 90, assignee="ada"),
        of_task("task.completed", 10),
    )
    await store.append(Append(TASK, happened, 0))
    async with asking(store) as http:

        async def state(seconds: int) -> tuple[int, str, str | None]:
            moment = (NOON + timedelta(seconds=seconds)).isoformat()
            answer = (await http.get("/queries/streams/task-t/state", params={"time": moment})).json()
            return answer["version"], answer["status"], answer.get("assignee")

        assert await state(30) == (1, "todo", None)
        assert await state(90) == (3, "done", "ada")


@pytest.mark.parametrize(
    ("correction", "title"), [({"changes": {"title": "b"}}, "b"), (None, "a")], ids=["edited", "discarded"]
)
async def test_a_state_is_as_operators_corrected_it_and_until_then_says_what_cannot_be_projected(
    client: BrokenOff, correction: dict[str, Any] | None, title: str
) -> None:
    store = MemoryEventStore()
    happened = (
        of_task("task.created", 0, title="a"),
        of_task("task.updated", 1),
        of_task("task.completed", 2),
    )
    await store.append(Append(TASK, happened, 0))
    failing = [event async for event in store.read_stream(TASK)][1]
    letters = DeadLetters(client, "eventstore", "projector")
    parked, detail = of_event("tasks", failing, KeyError("changes"), attempts=1)
    async with asking(store, letters=letters) as http:

        async def state(version: int) -> httpx.Response:
            return await http.get("/queries/streams/task-t/state", params={"version": version})

        assert (await state(1)).json()["title"] == "a"
        await letters.park(parked, detail)
        for version in (2, 3):
            refused = await state(version)
            assert (refused.status_code, refused.json()["version"]) == (409, 2)
        await letters.correct(parked, correction, "op", "a test")
        shown = [(await state(version)).json() for version in (2, 3)]
    assert [(one["version"], one["status"], one["title"]) for one in shown] == [
        (2, "todo", title),
        (3, "done", title),
    ]


class Asked(MemoryEventStore):
    """Records the largest number of events asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        self.most = max(self.most, len(refs))
        return await super().read_events(refs)


async def with_large_events(count: int) -> tuple[Asked, list[RecordedEvent]]:
    store = Asked()
    large = tuple(of_task("task.updated", at, changes={"description": "x" * 50_000}) for at in range(count))
    await store.append(Append(TASK, (of_task("task.created", 0, title="a"), *large), 0))
    return store, [event async for event in store.read_stream(TASK)]


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_history_of_large_events_comes_in_parts(backwards: bool) -> None:
    store, _ = await with_large_events(200)
    versions: list[int] = []
    bound: dict[str, int] = {}
    async with asking(store) as http:
        while True:
            asked: dict[str, Any] = {"limit": 500, "backwards": backwards} | bound
            answer = await http.get("/queries/streams/task-t/events", params=asked)
            assert len(answer.content) < 5_000_000, "of 10,000,000"
            versions += [event["version"] for event in answer.json()["items"]]
            following = answer.json()["next"]
            if following is None:
                break
            bound = {"to" if backwards else "from": following}
    assert versions == sorted(range(1, 202), reverse=backwards)


@pytest.mark.parametrize(
    ("asked", "following"),
    [
        ({}, 101),
        ({"from": 151}, 251),  # whether another event follows is not known yet
        ({"from": 101, "to": 200}, None),
        ({"from": 201}, None),
        ({"to": 150, "limit": 20}, 21),
        ({"backwards": True}, 150),
        ({"backwards": True, "to": 100}, None),
        ({"backwards": True, "from": 101, "to": 200}, None),
        ({"backwards": True, "from": 100, "to": 200}, 100),
        ({"from": 300}, None),
    ],
)
async def test_a_history_says_where_it_goes_on(asked: dict[str, Any], following: int | None) -> None:
    store = MemoryEventStore()
    await store.append(Append(TASK, tuple(of_task("task.updated", at, changes={}) for at in range(250)), 0))
    async with asking(store) as http:
        answer = (await http.get("/queries/streams/task-t/events", params=asked)).json()
    assert answer["next"] == following


async def test_found_events_that_are_large_come_in_parts() -> None:
    store, indexed = await with_large_events(200)
    versions: list[int] = []
    cursor: dict[str, str] = {}
    async with asking(store, *indexed) as http:
        while True:
            answer = await http.get("/queries/events", params={"limit": 500} | cursor)
            assert len(answer.content) < 10_000_000, "the first is as large as they all were"
            versions += [event["version"] for event in answer.json()["items"]]
            if (following := answer.json()["next"]) is None:
                break
            cursor = {"cursor": following}
    assert versions == list(range(1, 202))
    assert store.most <= 128


class Fleeting(MemoryEventStore):
    """Returns new events at each read, and records how many of them are held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[RecordedEvent]] = []
        self.most = 0

    async def read_stream(self, stream: StreamId, **bounds: Any) -> AsyncIterator[RecordedEvent]:
        async for event in super().read_stream(stream, **bounds):
            given = event.model_copy()
            self.given.append(weakref.ref(given))
            self.most = max(self.most, sum(one() is not None for one in self.given))
            yield given


async def test_a_state_is_folded_while_its_events_are_read() -> None:
    store = Fleeting()
    changes = tuple(of_task("task.updated", at, changes={"title": str(at)}) for at in range(50))
    await store.append(Append(TASK, (of_task("task.created", 0, title="a"), *changes), 0))
    async with asking(store) as http:
        answer = (await http.get("/queries/streams/task-t/state")).json()
    assert (answer["version"], answer["title"]) == (51, "49")
    assert store.most < 5
