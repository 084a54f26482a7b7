from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from annals.dapr import DatabaseError, Message, SidecarUnavailable
from annals.events import IntegrationEvent, to_cloudevent_json
from annals.store import MAX_EVENT_BYTES
from annals.web.problems import Problem, on_problem, on_unavailable
from annals_notification import schedule_api
from annals_notification.due import NotNow
from annals_notification.held_events import HeldEvents
from annals_notification.recurrences import Recurrences
from annals_notification.subscription import Inbound


class Held:
    def __init__(self) -> None:
        self.events: list[Any] = []

    async def hold(self, event: Any, _asked: object) -> bool:
        self.events.append(event)
        return True


@asynccontextmanager
async def client_of(held: object) -> AsyncIterator[httpx.AsyncClient]:
    unused = cast("Any", None)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(schedule_api.routes(unused, unused, cast("Any", held)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:
        yield client


@pytest.mark.parametrize("field", ["event_id", "routing_key"])
@pytest.mark.parametrize("value", ["a\nb", "a\r\nx: y", "\x7f", "\x01"])
async def test_what_becomes_a_header_on_the_broker_has_no_control_characters(field: str, value: str) -> None:
    held = Held()
    body = {"event_type": "task.noted", "event_id": "e-1", "routing_key": "task/noted"}
    async with client_of(held) as client:
        refused = await client.post("/events", json=body | {field: value})
        assert refused.status_code == 400, refused.text
        assert [one["field"] for one in refused.json()["errors"]] == [field]
        assert held.events == []
        taken = await client.post("/events", json=body)
    assert taken.status_code == 202
    assert (held.events[0].event_id, held.events[0].routing_key) == ("e-1", "task/noted")


TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ASKED_BY = {"x-user-id": "ada", "x-correlation-id": "c-1", "traceparent": TRACEPARENT}


async def test_an_event_belongs_to_the_request_that_brought_it() -> None:
    held = Held()
    async with client_of(held) as client:
        taken = await client.post("/events", json={"event_type": "order.paid"}, headers=ASKED_BY)
    assert taken.status_code == 202
    [event] = held.events
    assert (event.user_id, event.correlation_id, event.traceparent) == ("ada", "c-1", TRACEPARENT)


async def test_an_event_that_says_what_it_belongs_to_is_taken_at_its_word() -> None:
    held, own = Held(), {"user_id": "eve", "correlation_id": "o-7", "traceparent": TRACEPARENT[:-1] + "0"}
    async with client_of(held) as client:
        await client.post("/events", json={"event_type": "order.paid"} | own, headers=ASKED_BY)
        wrong = await client.post("/events", json={"event_type": "order.paid"}, headers={"x-user-id": "\x01"})
    [event] = held.events
    assert {name: getattr(event, name) for name in own} == own
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "x-user-id")


async def test_an_event_under_the_id_of_another_is_refused() -> None:
    """To accept it would be wrong, because the first event stays."""
    tables = Tables()
    tables.others = True
    held = HeldEvents(cast("Any", tables), cast("Any", None), cast("Any", None))
    async with client_of(held) as client:
        refused = await client.post("/events", json={"event_type": "order.paid", "event_id": "e-1"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:annals:problem:id-reused")


class Tables:
    """Holds events; answers nothing else while `away`; with `others`, holds another under each id.

    While it is `silent`, it holds an event, and its reply is lost.
    """

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.away = False
        self.others = False
        self.silent = False

    async def fetch(self, sql: str, *params: str) -> Any:
        if "WITH held" in sql:
            self.held[params[1]] = json.loads(params[3])
            if self.silent:
                raise DatabaseError("no answer")
            return not self.others
        if self.away:
            raise DatabaseError("it is away")
        if "UPDATE notifications.held_events" in sql:
            return self.held.pop(params[1], None) and 1
        return {"event": self.held.get(params[1])}


class Broker:
    """Accepts nothing while it is `away`, and takes no entry while it `refuses`."""

    def __init__(self) -> None:
        self.away = True
        self.refuses = False
        self.published: list[str] = []

    async def publish(self, _topic: str, messages: Sequence[Message]) -> list[str]:
        if self.away:
            raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "the broker is away")
        if self.refuses:
            return [one.entry_id for one in messages]
        self.published += [one.entry_id for one in messages]
        return []


@pytest.mark.parametrize("away", ["broker", "database", "refusal"])
async def test_an_event_that_is_held_is_taken_whatever_is_away_then(away: str) -> None:
    """A caller that is told to send it again would have it published twice."""
    tables, broker, unused = Tables(), Broker(), cast("Any", None)
    tables.away, broker.away, broker.refuses = away == "database", away == "broker", away == "refusal"
    held = HeldEvents(cast("Any", tables), cast("Any", broker), unused)
    app = FastAPI()
    app.add_exception_handler(NotNow, cast("Any", on_unavailable))
    app.add_exception_handler(DatabaseError, cast("Any", on_unavailable))
    app.include_router(schedule_api.routes(unused, unused, held))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:
        with capture_logs() as logs:
            taken = await client.post("/events", json={"event_type": "order.paid"})
    assert taken.status_code == 202, taken.text
    assert list(tables.held) == [taken.json()["event_id"]]
    assert [(log["tenant"], log["id"]) for log in logs] == [("default", taken.json()["event_id"])]
    tables.away = broker.away = broker.refuses = False
    await held.fire("default", taken.json()["event_id"])
    assert broker.published == [taken.json()["event_id"]]
    assert tables.held == {}


async def test_who_does_not_learn_whether_an_event_is_held_is_told_its_id() -> None:
    """Sent again without the id, it would be another event, and be published twice."""
    tables = Tables()
    tables.silent = True
    body = {"event_type": "order.paid", "delay_until": "2040-01-01T00:00:00+00:00"}
    async with client_of(HeldEvents(cast("Any", tables), cast("Any", None), cast("Any", None))) as client:
        unknown = await client.post("/events", json=body)
    [event_id] = tables.held
    assert (unknown.status_code, unknown.json()["type"]) == (503, "urn:annals:problem:outcome-unknown")
    assert unknown.headers["retry-after"] == "2"
    assert unknown.json()["detail"] == (
        "it is not known whether the event is held: no answer; "
        f"send it again with the event_id {event_id}: it is published once"
    )


async def test_an_event_that_no_broker_would_take_is_refused_at_once() -> None:
    tables, broker, unused = Tables(), Broker(), cast("Any", None)
    broker.away = False
    held = HeldEvents(cast("Any", tables), cast("Any", broker), unused)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(schedule_api.routes(unused, unused, held))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:

        async def published(**fields: Any) -> httpx.Response:
            return await client.post("/events", json={"event_type": "order.paid", **fields})

        for large in ({"data": {"text": "x" * MAX_EVENT_BYTES}}, {"routing_key": "x" * MAX_EVENT_BYTES}):
            refused = await published(**large)
            assert (refused.status_code, refused.json()["type"]) == (413, "urn:annals:problem:too-large")
        assert (await published(data={"text": "x" * (MAX_EVENT_BYTES - 4_000)})).status_code == 202
    assert len(broker.published) == 1


async def test_a_command_that_recurs_is_refused_where_no_event_could_hold_it() -> None:
    class Empty:
        async def fetch(self, _sql: str, *_params: str) -> Any:
            return {"row": None}

    unused = cast("Any", None)
    recurrences = Recurrences(cast("Any", Empty()), unused, unused)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(schedule_api.routes(unused, recurrences, unused))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://n") as client:

        async def put(**fields: Any) -> httpx.Response:
            command = {"type": "task.create", "data": {"title": "x"} | fields}
            return await client.put("/recurrences/r", json={"rule": "FREQ=DAILY", "command": command})

        large = await put(description="<" * (MAX_EVENT_BYTES // 6))
        rounded = await put(priority=2**53)
    assert (large.status_code, large.json()["type"]) == (413, "urn:annals:problem:too-large")
    assert (rounded.status_code, rounded.json()["errors"][0]["field"]) == (400, "command.data")


COUNTED = {"rule": "FREQ=MINUTELY;COUNT=5000000", "start": "1900-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rule": "FREQ=OFTEN"}, "an RRULE such as FREQ=WEEKLY;BYDAY=MO: invalid 'FREQ': OFTEN"),
        ({"rule": "FREQ=SECONDLY"}, "occurrences at least a minute apart"),
        (COUNTED, "the rule must be evaluated faster: fewer occurrences or a later start"),
        (
            {"rule": "FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=30"},
            "the rule must be evaluated faster: fewer occurrences or a later start",
        ),
    ],
)
async def test_a_rule_that_is_refused_is_named_with_the_reason(given: dict[str, str], expected: str) -> None:
    class Empty:
        async def fetch(self, _sql: str, *_params: str) -> Any:
            return {"row": None}

    unused = cast("Any", None)
    recurrences = Recurrences(cast("Any", Empty()), unused, unused)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(schedule_api.routes(unused, recurrences, unused))
    command = {"type": "task.create", "data": {"title": "x"}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://n") as client:
        refused = await client.put("/recurrences/r", json=given | {"command": command})
    assert refused.status_code == 400
    assert refused.json()["errors"] == [{"field": "rule", "expected": expected}]


async def test_a_reminder_that_no_broker_would_take_is_kept_and_not_held() -> None:
    tables, unused, kept = Tables(), cast("Any", None), list[str]()

    class Letters:
        async def park(self, letter: Any, _detail: object) -> None:
            kept.append(letter.reason)

    held = HeldEvents(cast("Any", tables), unused, unused)
    inbound = Inbound(unused, unused, held, unused, cast("Any", Letters()))
    data = {"reminder_id": "7", "at": "2040-01-01T00:00:00+00:00", "text": "x" * MAX_EVENT_BYTES}
    asked = IntegrationEvent(event_type="reminder.requested", source="test", data=data)
    assert await inbound.delivered(json.loads(to_cloudevent_json(asked))) == "SUCCESS"
    [reason] = kept
    assert reason.startswith("notification.requested takes")
    assert tables.held == {}


async def test_a_reminder_under_an_id_that_was_used_is_dropped_and_the_log_says_so() -> None:
    """The id may belong to a reminder that was moved, or to one whose cancellation came first."""
    tables, unused = Tables(), cast("Any", None)
    tables.others = True
    inbound = Inbound(unused, unused, HeldEvents(cast("Any", tables), unused, unused), unused, unused)
    data = {"reminder_id": "7", "at": "2040-01-01T00:00:00+00:00"}
    asked = IntegrationEvent(
        event_id="e-2", event_type="reminder.requested", source="test", tenant_id="acme", data=data
    )
    with capture_logs() as logs:
        assert await inbound.delivered(json.loads(to_cloudevent_json(asked))) == "SUCCESS"
    [said] = logs
    assert (said["log_level"], said["tenant"], said["event_id"]) == ("warning", "acme", "e-2")
    assert said["reminder"] == "7"


async def test_an_event_is_of_the_tenant_of_the_request_and_one_of_another_is_refused() -> None:
    held, body, asked = Held(), {"event_type": "task.noted"}, {"x-tenant-id": "acme"}
    async with client_of(held) as client:
        for other in ("others", None, ""):
            refused = await client.post("/events", json=body | {"tenant_id": other}, headers=asked)
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "tenant_id")
        without = await client.post("/events", json=body, headers=asked)
        named = await client.post("/events", json=body | {"tenant_id": "acme"}, headers=asked)
    assert (without.status_code, named.status_code) == (202, 202)
    assert [event.tenant_id for event in held.events] == ["acme", "acme"]


async def test_an_event_of_a_tenant_is_refused_without_the_header() -> None:
    """It would be published for the tenant `default`."""
    held = Held()
    async with client_of(held) as client:
        refused = await client.post("/events", json={"event_type": "task.noted", "tenant_id": "acme"})
    assert refused.json()["errors"] == [
        {"field": "tenant_id", "expected": "the tenant of the request, which is default"}
    ]
    assert held.events == []
