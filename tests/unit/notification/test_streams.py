from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, WebSocketDisconnect
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from annals.events import Position, RecordedEvent, StreamId
from annals.store import ALL_LANES, StoreError, StoreUnavailable, Undecodable
from annals.store.protocol import Commit as StoredCommit
from annals.web import Problem
from annals.web.background import background
from annals_notification.streams import positions, routes
from annals_notification.streams.filters import Filter
from annals_notification.streams.hub import Client, Hub, TooMany, TooSlow
from annals_notification.streams.tail import Commit


def event(kind: str = "task.created", **fields: Any) -> RecordedEvent:
    envelope = {
        "event_type": kind,
        "source": "test",
        "aggregate_type": kind.partition(".")[0],
        "aggregate_id": "1",
        "version": 1,
        "lane": 0,
        "seq": 1,
        "data": {},
    }
    return RecordedEvent.model_validate(envelope | fields)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (Filter("default"), True),
        (Filter("others"), False),
        (Filter("default", types=("task.*",)), True),
        (Filter("default", types=("member.*", "task.deleted")), False),
        (Filter("default", types=("task",)), False),
        (Filter("default", types=("task.[bc]*",)), False),
        (Filter("default", types=("*",)), True),
        (Filter("default", streams=("task-1",)), True),
        (Filter("default", streams=("task-2",)), False),
        (Filter("default", topics=("domain-events",)), True),
        (Filter("default", topics=("saga-events",)), False),
        (Filter("default", users=("ada",)), True),
        (Filter("default", users=("bob",)), True),
        (Filter("default", users=("eve",)), False),
        (Filter("default", types=("task.*",), users=("eve",)), False),
    ],
)
def test_a_filter_lets_through_what_meets_all_its_conditions(wanted: Filter, seen: bool) -> None:
    assert wanted.matches(event(user_id="ada", data={"assignee": "bob"})) is seen


@pytest.mark.parametrize("assignee", [["ada"], {"name": "ada"}, None, 7])
def test_what_an_aggregate_of_ones_own_calls_its_assignee_may_be_anything(assignee: Any) -> None:
    wanted = Filter("default", users=("ada",))
    assert not wanted.matches(event("board.created", data={"assignee": assignee}))
    assert wanted.matches(event("board.created", user_id="ada", data={"assignee": assignee}))


def test_a_place_is_written_with_the_events_own_lane_first_and_read_again() -> None:
    assert positions.render({0: 17, 48: 3, 2: 9}, first=48) == "48-3,0-17,2-9"
    assert positions.parse("48-3,0-17,2-9") == {0: 17, 48: 3, 2: 9}
    assert positions.parse("0-5") == {0: 5}, "a command's position is one too"
    with pytest.raises(ValueError, match="a position is like"):
        positions.parse("yesterday")


def test_a_client_that_takes_nothing_is_cut_and_what_it_has_not_asked_for_does_not_count() -> None:
    client = Client(Filter("default", types=("task.*",)), buffer=50)
    other = Commit(0, 1, "0-1", ((event("member.left"), "{}"),))
    wanted = Commit(0, 2, "0-2", ((event(), "{}"),))
    for _ in range(100):
        client.offer(other, 0)
    assert client.queue.empty()
    for _ in range(50):
        client.offer(wanted, 0)
    assert not client.cut
    client.offer(wanted, 0)
    assert client.cut


def test_what_waits_for_all_clients_together_is_of_the_last_that_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.streams.hub._BEHIND_BYTES", 1_000)
    client = Client(Filter("default", types=("task.*",)), buffer=50)
    client.offer(Commit(0, 1, "0-1", ((event("member.left"), "{}"),)), 9_000)
    client.offer(Commit(0, 2, "0-2", ((event(), "{}"),)), 9_500)
    client.offer(Commit(0, 3, "0-3", ((event(), "{}"),)), 10_500)
    assert not client.cut and client.queue.qsize() == 2
    client.offer(Commit(0, 4, "0-4", ((event("member.left"), "{}"),)), 10_501)
    assert client.cut and client.queue.empty(), "it comes back for them, and holds none of them meanwhile"


class LongStore:
    """A lane with commits of another tenant, followed by one that `mine` must see."""

    def __init__(self, length: int) -> None:
        self.length = length

    async def reached(self, **_: bool) -> dict[int, int]:
        return {0: self.length}

    async def begun(self, _lanes: object) -> list[int]:
        return []

    async def moved(self, *_seen: object) -> list[int]:
        return []

    async def read_log(self, lane: int, first: int, last: int) -> list[StoredCommit]:
        await asyncio.sleep(0)
        return [
            StoredCommit(
                Position(lane, seq), self._stream(seq), 1, 1, ("task.created",), datetime.now(UTC), "c", "h"
            )
            for seq in range(first, min(last, self.length) + 1)
        ]

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        return [event(tenant_id=stream.tenant) for stream, _ in refs]

    def _stream(self, seq: int) -> StreamId:
        return StreamId.of("mine" if seq == self.length else "other", "task", "1")


def hub(store: LongStore, draining: Callable[[], bool] = lambda: False) -> Hub:
    return Hub(cast("Any", store), draining, max_clients=lambda: 9, buffer=9)


async def test_a_stream_that_reads_what_others_did_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.streams.hub.HEARTBEAT_SECONDS", 0.0)
    streams = hub(LongStore(1_000))
    told = []
    async with background(streams.run(), "hub"):
        async for seen, events in streams.listen(Filter("mine"), {0: 1}):
            told.append((seen, len(events)))
            if events:
                break
    assert told[-1] == ("0-1000", 1)
    between = [positions.parse(seen)[0] for seen, _ in told]
    assert between == sorted(between) and 1 < between[1] < 1_000


class GrowingStore(LongStore):
    """Contains as many commits as the test says."""

    async def moved(self, *asked: object) -> list[int]:
        seen = cast("dict[int, int]", asked[0])
        return [0] if self.length > seen.get(0, 0) else []


async def test_who_takes_what_they_are_sent_is_not_cut_by_a_page_and_who_does_not_goes_on_where_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.streams.hub._BEHIND_BYTES", 1_000)
    store = GrowingStore(1)
    streams = hub(store)
    async with background(streams.run(), "hub"), asyncio.timeout(20):
        slow, quick = (streams.listen(Filter("other"), None) for _ in range(2))
        assert [(await anext(one))[0] for one in (slow, quick)] == ["0-1", "0-1"]
        store.length = 150
        taken = [await anext(quick) for _ in range(2, 150)]
        assert [seen for seen, _ in taken] == [f"0-{seq}" for seq in range(2, 150)]
        with pytest.raises(TooSlow):
            await anext(slow)
        again = streams.listen(Filter("other"), {0: 1})
        await anext(again)
        assert [(await anext(again))[0] for _ in range(2, 150)] == [seen for seen, _ in taken]


class LaggingStore(GrowingStore):
    """Lanes 0 and 1, whose ends the replica's tail knows from earlier; two commits of lane 1 came since."""

    def __init__(self, length: int, known: int) -> None:
        super().__init__(length)
        self.known = known
        self.waits = asyncio.Event()

    async def reached(self, **_: bool) -> dict[int, int]:
        return {0: self.known, 1: 3}

    async def moved(self, *asked: object) -> list[int]:
        await self.waits.wait()
        seen = cast("dict[int, int]", asked[0])
        return [lane for lane, last in ((1, 5), (0, self.length)) if last > seen.get(lane, 0)]

    async def read_log(self, lane: int, first: int, last: int) -> list[StoredCommit]:
        return await super().read_log(lane, first, min(last, 5) if lane == 1 else last)


async def test_who_saw_more_than_this_replica_has_read_is_not_told_it_again() -> None:
    store = LaggingStore(9, known=3)
    streams = hub(store)
    async with background(streams.run(), "hub"), asyncio.timeout(10):
        listening = streams.listen(Filter("other"), {0: 5, 1: 3})
        assert await anext(listening) == ("0-5,1-3", [])
        told = asyncio.create_task(_some(listening, 5))
        await asyncio.sleep(0)
        store.waits.set()
        assert await told == ["1-4,0-5", "1-5,0-5", "0-6,1-5", "0-7,1-5", "0-8,1-5"]


async def test_who_saw_more_than_there_is_in_a_store_that_was_made_anew_is_told_what_comes() -> None:
    store = LaggingStore(9, known=3)
    streams = hub(store)
    async with background(streams.run(), "hub"), asyncio.timeout(10):
        listening = streams.listen(Filter("other"), {0: 5_000, 1: 3})
        assert await anext(listening) == ("0-5000,1-3", [])
        told = asyncio.create_task(_some(listening, 3))
        await asyncio.sleep(0)
        store.waits.set()
        assert await told == ["1-4,0-3", "1-5,0-3", "0-4,1-5"]


class DamagedStore(LongStore):
    """Two lanes of nine commits; in lane 0, one commit or its event cannot be decoded."""

    def __init__(self, damaged: str, known: int) -> None:
        super().__init__(9)
        self.damaged: str | None = damaged
        self.known = known
        self.looks = 0

    async def reached(self, **_: bool) -> dict[int, int]:
        return {0: self.known, 1: self.known}

    async def moved(self, *asked: object) -> list[int]:
        self.looks += 1
        seen = cast("dict[int, int]", asked[0])
        return [lane for lane in (0, 1) if self.length > seen[lane]]

    async def read_log(self, lane: int, first: int, last: int) -> list[StoredCommit]:
        commits = await super().read_log(lane, first, last)
        self._decode(f"log/{one.position}" for one in commits)
        return [replace(one, stream=StreamId.of("other", "task", str(one.position))) for one in commits]

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        self._decode(stream.name for stream, _ in refs)
        return await super().read_events(refs)

    def _decode(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key == self.damaged:
                raise Undecodable(key, ValueError("no JSON"))


@pytest.mark.parametrize("damaged", ["log/0-5", "task-0-5"])
async def test_a_lane_with_a_damaged_value_waits_by_itself(
    damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals_notification.streams.tail._POLL_SECONDS", 0.01)
    store = DamagedStore(damaged, known=3)
    streams = hub(store)
    with capture_logs() as logs:
        async with background(streams.run(), "hub"), asyncio.timeout(10):
            listening = streams.listen(Filter("other"), None)
            await anext(listening)
            assert await _some(listening, 7) == ["0-4,1-3", *(f"1-{seq},0-4" for seq in range(4, 10))]
            while store.looks < 5:
                await asyncio.sleep(0.01)
            store.damaged = None
            assert await _some(listening, 5) == [f"0-{seq},1-9" for seq in range(5, 10)]
    assert [(log["log_level"], log["lane"]) for log in logs] == [("error", 0)]


async def test_who_missed_a_damaged_value_is_told_what_else_it_missed() -> None:
    streams = hub(DamagedStore("task-0-5", known=9))
    async with background(streams.run(), "hub"), asyncio.timeout(10):
        listening = streams.listen(Filter("other"), {0: 3, 1: 7})
        await anext(listening)
        assert await _some(listening, 3) == ["0-4,1-7", "1-8,0-4", "1-9,0-4"]
        with pytest.raises(Undecodable, match="task-0-5"):
            await anext(listening)


class EmptyLanes(LongStore):
    """One commit, in lane 0. Reads of the other lanes return only after all of them have begun."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: set[int] = set()
        self.all_asked = asyncio.Event()

    async def read_log(self, lane: int, first: int, last: int) -> list[StoredCommit]:
        if lane == 0:
            return await super().read_log(lane, first, last)
        self.asked.add(lane)
        if len(self.asked) == len(ALL_LANES) - 1:
            self.all_asked.set()
        await self.all_asked.wait()
        return []


async def test_whatever_lanes_a_client_names_those_there_are_are_looked_at_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.streams.hub.HEARTBEAT_SECONDS", 0.0)
    store = EmptyLanes()
    streams = hub(store)
    async with background(streams.run(), "hub"), asyncio.timeout(10):
        listening = streams.listen(Filter("mine"), dict.fromkeys(range(1_000), 9) | {0: 1})
        await anext(listening)
        assert await anext(listening) == ("0-1", []), "it goes on as the store is"
    assert store.asked == set(ALL_LANES) - {0}


async def _some(listening: AsyncIterator[tuple[str, list[str]]], number: int) -> list[str]:
    return [(await anext(listening))[0] for _ in range(number)]


async def test_a_stream_that_reads_what_was_missed_ends_when_the_replica_does() -> None:
    ends = False
    streams = hub(LongStore(10**9), lambda: ends)
    async with background(streams.run(), "hub"), asyncio.timeout(10):
        listening = streams.listen(Filter("mine"), {0: 1})
        await anext(listening)
        ends = True
        assert [one async for one in listening] == []


async def test_a_heartbeat_is_an_event_with_a_type_an_id_and_data() -> None:
    async def listening() -> AsyncIterator[tuple[str, list[str]]]:
        yield "0-5", []
        yield "0-6", ['{"a": 1}', '{"b": 2}']

    sent = [text async for text in routes._sse(("0-4", []), listening())]
    assert sent == [
        "retry: 1000\nevent: alive\nid: 0-4\ndata: {}\n\n",
        "event: alive\nid: 0-5\ndata: {}\n\n",
        'data: {"a": 1}\n\n',
        'id: 0-6\ndata: {"b": 2}\n\n',
    ]


def test_a_websocket_is_closed_with_as_much_of_the_reason_as_a_close_frame_holds() -> None:
    class Failing:
        async def listen(self, *_asked: object) -> AsyncIterator[tuple[str, list[str]]]:
            raise StoreError("ä" * 300)
            yield "", []

    app = FastAPI()
    app.include_router(routes.routes(cast("Any", Failing())))
    with (
        TestClient(app) as client,
        client.websocket_connect("/ws") as socket,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        socket.receive_text()
    assert closed.value.code == 1013
    assert closed.value.reason == "ä" * 61


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("&".join(f"type=task.t{n}*" for n in range(21)), "20"),
        ("&".join(f"stream=task-{n}" for n in range(21)), "20"),
        ("&".join(f"user=u{n}" for n in range(21)), "20"),
        ("type=*.created", "only at the end"),
    ],
)
def test_a_stream_is_of_so_many_names_and_no_more_and_a_star_ends_one(query: str, expected: str) -> None:
    """Comparing an event with all names that its tenant's clients want blocks everything else."""
    app = FastAPI()
    app.include_router(routes.routes(hub(LongStore(0))))
    with TestClient(app) as client:
        with pytest.raises(Problem) as refused:
            client.get(f"/stream?{query}")
        assert refused.value.status == 400
        assert expected in refused.value.fields["errors"][0]["expected"]
        with client.websocket_connect(f"/ws?{query}") as socket, pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1008
        assert expected in closed.value.reason


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("after=foo", {}, "after"),
        ("", {"Last-Event-ID": "foo"}, "Last-Event-ID"),
        ("after=0-1", {"Last-Event-ID": "foo"}, "Last-Event-ID"),
    ],
)
def test_a_position_that_is_none_is_named_as_it_was_sent(
    query: str, headers: dict[str, str], field: str
) -> None:
    app = FastAPI()
    app.include_router(routes.routes(hub(LongStore(0))))
    with TestClient(app) as client:
        with pytest.raises(Problem) as refused:
            client.get(f"/stream?{query}", headers=headers)
        [error] = refused.value.fields["errors"]
        assert error["field"] == field
        with (
            client.websocket_connect("/ws?after=foo") as socket,
            pytest.raises(WebSocketDisconnect) as closed,
        ):
            socket.receive_text()
        assert closed.value.reason.startswith("after: an id of this stream")


class AwayStore(LongStore):
    async def reached(self, **_: bool) -> dict[int, int]:
        raise StoreUnavailable("the state store cannot be read")


async def test_who_comes_while_the_store_is_away_is_told_so_soon_and_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.streams.tail._BEGIN_SECONDS", 0.02)
    streams = hub(AwayStore(0))
    app = FastAPI()
    app.include_router(routes.routes(streams))
    transport = httpx.ASGITransport(app)
    async with (
        background(streams.run(), "hub"),
        httpx.AsyncClient(transport=transport, base_url="http://notification") as client,
        asyncio.timeout(10),
    ):
        for _ in range(12):
            with pytest.raises(Problem) as refused:
                await client.get("/stream")
            assert (refused.value.status, refused.value.type) == (503, "unavailable")
            assert refused.value.headers


async def test_who_waits_for_the_store_has_a_place_already() -> None:
    streams = hub(AwayStore(0))
    async with background(streams.run(), "hub"), asyncio.timeout(20):
        there = [streams.listen(Filter("mine"), None) for _ in range(9)]
        waiting = [asyncio.create_task(_some(one, 1)) for one in there]
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            await anext(streams.listen(Filter("mine"), None))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_is_gone_makes_room_for_others() -> None:
    streams = hub(LongStore(0))
    async with background(streams.run(), "hub"), asyncio.timeout(20):
        there = [streams.listen(Filter("mine"), None) for _ in range(9)]
        for one in there:
            await anext(one)
        with pytest.raises(TooMany):
            await anext(streams.listen(Filter("mine"), None))
        await there.pop().aclose()
        await anext(one := streams.listen(Filter("mine"), None))
        for left in (*there, one):
            await left.aclose()
