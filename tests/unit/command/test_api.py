"""The HTTP API over the store in memory: what callers get for what they send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar, NoReturn

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY as COUNTED
from structlog.testing import capture_logs

from annals.aggregates import Command, CommandBus, CommandRequest, Handler
from annals.aggregates.middleware import count_commands, log_commands, trace_commands
from annals.events import CommandEvent, DomainEvent, StreamId
from annals.store import (
    Append,
    Appended,
    AppendTooLarge,
    Backpressure,
    ConflictError,
    MemoryEventStore,
    OutcomeUnknown,
    StoreUnavailable,
    StreamUnreadable,
    Undecodable,
)
from annals.web.problems import Problem, on_problem
from annals_command.api import routes
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from annals_command.domain.task import Task
from sealing import sealed


class FlakyStore(MemoryEventStore):
    """Fails the next appends with `errors`, and records the keys of all appends."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.keys: list[str | None] = []

    async def append(self, append: Append) -> Appended:
        self.keys.append(append.command_id)
        if self.errors:
            raise self.errors.pop(0)
        return await super().append(append)


@pytest.fixture
def store() -> FlakyStore:
    return FlakyStore()


@pytest.fixture
async def client(store: FlakyStore) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    middleware = [log_commands, count_commands, trace_commands]
    bus = CommandBus(store, REGISTRY, HANDLERS, source="command", protect=sealed, middleware=middleware)
    app.include_router(routes(bus))
    app.add_exception_handler(Problem, on_problem)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/commands") as client:
        yield client


async def test_a_created_task_is_answered_with_where_it_is(client: httpx.AsyncClient) -> None:
    answer = await client.post("/task.create", json={"title": "Write", "due": "2030-01-01T09:00:00Z"})
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    assert body == {"id": body["id"], "stream": f"task-{body['id']}", "version": 1, "position": "0-1"}


def test_a_command_that_does_not_name_its_aggregate_by_its_id_is_refused_at_the_start() -> None:
    """A batch keeps the order of one aggregate's commands, and knows the aggregate by the field `id`."""

    class CompleteByTaskId(Command):
        command_type: ClassVar[str] = "task.finish"

        task_id: str

    by_task_id = Handler(CompleteByTaskId, Task, lambda said: said.task_id, lambda task, _: task.complete())
    bus = CommandBus(MemoryEventStore(), REGISTRY, [by_task_id], source="command")
    with pytest.raises(ValueError, match=r"CompleteByTaskId has no field `id`"):
        routes(bus)


async def test_a_change_needs_the_version_it_was_made_for(client: httpx.AsyncClient) -> None:
    task = (await client.post("/task.create", json={"title": "Write"})).json()["id"]
    change = {"id": task, "assignee": "ada"}
    wrong = await client.post("/task.assign", json=change, headers={"If-Match": '"7"'})
    assert (wrong.status_code, wrong.json()["expected"], wrong.json()["actual"]) == (409, 7, 1)
    right = await client.post("/task.assign", json=change | {"expected_version": 1})
    assert (right.status_code, right.json()["version"]) == (200, 2)
    twice = {"id": task, "assignee": "grace", "expected_version": 2}
    same = await client.post("/task.assign", json=twice, headers={"If-Match": '"2"'})
    assert (same.status_code, same.json()["version"]) == (200, 3)


@pytest.mark.parametrize("expected", [True, False, -1, 1.0, "1"])
async def test_what_is_no_version_is_not_taken_for_one(client: httpx.AsyncClient, expected: object) -> None:
    await client.post("/task.create", json={"id": "t", "title": "Write"})
    answer = await client.post("/task.complete", json={"id": "t", "expected_version": expected})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:annals:problem:malformed")


async def test_a_repeat_gets_the_first_outcome(client: httpx.AsyncClient, store: FlakyStore) -> None:
    key = {"Idempotency-Key": "k"}
    first = await client.post("/task.create", json={"title": "Write"}, headers=key)
    await client.post("/task.complete", json={"id": first.json()["id"]})
    again = await client.post("/task.create", json={"title": "Write"}, headers=key)
    assert again.json() == first.json()
    events = [event async for event in store.read_stream(StreamId("default", first.json()["stream"]))]
    assert [event.event_type for event in events] == ["task.created", "task.completed"]
    other = await client.post("/task.create", json={"title": "Other"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:annals:problem:key-reused")


async def test_a_key_of_another_tenant_is_another_key(client: httpx.AsyncClient) -> None:
    ids = set()
    for tenant in ("acme", "globex"):
        headers = {"Idempotency-Key": "k", "x-tenant-id": tenant}
        ids.add((await client.post("/task.create", json={"title": "Write"}, headers=headers)).json()["id"])
    assert len(ids) == 2


async def test_another_tenants_task_is_not_there(client: httpx.AsyncClient) -> None:
    task = (await client.post("/task.create", json={"title": "x"}, headers={"x-tenant-id": "acme"})).json()[
        "id"
    ]
    answer = await client.post("/task.delete", json={"id": task}, headers={"x-tenant-id": "globex"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "fields"),
    [
        ("/task.create", b"{", {}, 400, None),
        ("/task.create", b"[]", {}, 400, ["(body)"]),
        ("/task.create", b'{"title": ""}', {}, 400, ["title"]),
        ("/task.create", b'{"title": "x", "description": "%s"}' % (b"x" * 50_001), {}, 400, ["description"]),
        ("/task.create", b'{"titel": "x"}', {}, 400, ["title", "titel"]),
        ("/task.create", b'{"title": "x", "due": "tomorrow"}', {}, 400, ["due"]),
        ("/task.create", b'{"title": "x", "due": "2030-01-01T09:00:00"}', {}, 400, ["due"]),
        ("/task.create", b'{"title": "x", "due": "20300101"}', {}, 400, ["due"]),
        ("/task.create", b'{"title": "x", "due": 20300101}', {}, 400, ["due"]),
        ("/task.create", b'{"title": "x", "expected_version": -1}', {}, 400, ["expected_version"]),
        ("/task.create", b'{"title": "x"}', {"If-Match": "7"}, 400, ["If-Match"]),
        (
            "/task.update",
            b'{"id": "a", "expected_version": 5}',
            {"If-Match": '"0"'},
            400,
            ["expected_version"],
        ),
        ("/task.create", b'{"title": "x"}', {"x-tenant-id": "A B"}, 400, ["x-tenant-id"]),
        ("/task.create", b'{"title": "x"}', {"Idempotency-Key": "k" * 300}, 400, ["idempotency-key"]),
        ("/task.update", b'{"id": "a/b", "title": "x"}', {}, 400, ["id"]),
        ("/task.create", b'{"id": "..", "title": "x"}', {}, 400, ["id"]),
        ("/task.create", b'{"id": "%s", "title": "x"}' % (b"x" * 129), {}, 400, ["id"]),
        ("/member.register", b'{"id": ".", "name": "Zoe"}', {}, 400, ["id"]),
        ("/task.update", b'{"id": "a"}', {}, 400, ["(body)"]),
        ("/task.complete", b'{"id": "nobody"}', {}, 404, None),
        ("/task.explode", b"{}", {}, 404, None),
    ],
)
async def test_bad_input_says_what_was_expected_and_changes_nothing(
    client: httpx.AsyncClient,
    store: FlakyStore,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    fields: list[str] | None,
) -> None:
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    if fields is not None:
        assert [error["field"] for error in problem["errors"]] == fields
    assert await store.tails() == {}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": "Zoe Smith", "capacity": 1}, "id"),
        ({"id": "zoe", "name": {"first": "Zoe", "last": "Smith"}}, "name"),
        ({"id": "zoe", "name": "Zoe", "full_name": "Zoe Smith"}, "full_name"),
    ],
)
async def test_what_is_logged_of_a_refused_command_says_nothing_personal(
    client: httpx.AsyncClient, said: dict[str, Any], field: str
) -> None:
    with capture_logs() as logs:
        assert (await client.post("/member.register", json=said)).status_code == 400
    (failed,) = [log for log in logs if log["event"] == "command failed"]
    assert field in failed["reason"].splitlines()
    assert "Smith" not in str(logs)


async def test_a_rule_is_named(client: httpx.AsyncClient) -> None:
    task = (await client.post("/task.create", json={"title": "Write"})).json()["id"]
    await client.post("/task.complete", json={"id": task})
    answer = await client.post("/task.complete", json={"id": task})
    assert (answer.status_code, answer.json()["rule"]) == (422, "task.already_completed")


@pytest.mark.parametrize(
    ("error", "kind", "retry_after"),
    [(OutcomeUnknown("no answer"), "outcome-unknown", "2"), (Backpressure("full", 5), "busy", "5")],
)
async def test_what_may_be_tried_again_says_when(
    client: httpx.AsyncClient, store: FlakyStore, error: Exception, kind: str, retry_after: str
) -> None:
    store.errors.append(error)
    answer = await client.post("/task.create", json={"title": "Write"})
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(kind)
    assert answer.headers["retry-after"] == retry_after


async def test_only_a_command_with_a_key_is_to_be_repeated_when_its_outcome_is_unknown(
    client: httpx.AsyncClient, store: FlakyStore
) -> None:
    """Without a key, the repeat of a command that took effect is another command."""
    said = {}
    for key in ({"idempotency-key": "k-1"}, {}):
        store.errors.append(OutcomeUnknown("it may still take effect"))
        answer = await client.post("/task.create", json={"title": "Write"}, headers=key)
        said[bool(key)] = answer.json()["detail"].removeprefix("it may still take effect; ")
    assert said == {
        True: "repeat the command with the same key to learn its outcome",
        False: "look whether it did before you send it again",
    }


async def test_a_command_with_a_key_may_have_been_carried_out_before_the_store_was_away(
    client: httpx.AsyncClient, store: FlakyStore
) -> None:
    """The answer to the first request was lost, and the repeat cannot look for its outcome."""
    said = {}
    for key in ({"idempotency-key": "k-1"}, {}):
        store.errors.append(StoreUnavailable("the store is away"))
        answer = await client.post("/task.create", json={"title": "Write"}, headers=key)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:unavailable")
        assert answer.headers["retry-after"] == "2"
        said[bool(key)] = answer.json()["detail"].removeprefix("the store is away; ")
    assert said == {
        True: "this request changed nothing, but an earlier one with the same key may have: repeat it",
        False: "nothing was changed",
    }


@pytest.mark.parametrize("key", [{}, {"idempotency-key": "k-1"}])
async def test_a_damaged_record_is_named_and_not_asked_for_again_at_once(
    client: httpx.AsyncClient, store: FlakyStore, key: dict[str, str]
) -> None:
    store.errors.append(Undecodable("command/default/k-1", ValueError("no JSON")))
    answer = await client.post("/task.create", json={"title": "Write"}, headers=key)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    detail = answer.json()["detail"]
    assert detail.startswith("command/default/k-1 cannot be decoded")
    assert detail.endswith("it is damaged, or another release wrote it")


async def test_what_is_too_large_for_the_broker_is_refused_with_the_limit(
    client: httpx.AsyncClient, store: FlakyStore
) -> None:
    store.errors.append(AppendTooLarge("task.created takes 300000 bytes, one event may take 240000"))
    answer = await client.post("/task.create", json={"title": "Write"})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:annals:problem:too-large")
    assert answer.json()["detail"] == "task.created takes 300000 bytes, one event may take 240000"


async def test_a_conflict_with_another_instance_is_decided_again(
    client: httpx.AsyncClient, store: FlakyStore
) -> None:
    task = (await client.post("/task.create", json={"title": "Write"})).json()
    store.errors.append(ConflictError(StreamId("default", task["stream"]), 1, 2))
    answer = await client.post("/task.assign", json={"id": task["id"], "assignee": "ada"})
    assert (answer.status_code, answer.json()["version"]) == (200, 2)


async def test_commands_on_one_aggregate_at_once_all_take_effect(client: httpx.AsyncClient) -> None:
    await client.post("/member.register", json={"id": "ada", "name": "Ada", "capacity": 20})
    reserve = [client.post("/member.reserve", json={"id": "ada", "task_id": str(n)}) for n in range(30)]
    statuses = [answer.status_code for answer in await asyncio.gather(*reserve)]
    assert (statuses.count(200), statuses.count(422)) == (20, 10)


async def test_a_batch_keeps_each_aggregates_order(client: httpx.AsyncClient) -> None:
    items = [
        {"type": "task.create", "data": {"id": "t", "title": "Write"}},
        {"type": "task.complete", "data": {"id": "t"}},
        {"type": "task.complete", "data": {"id": "t"}},
        {"type": "task.create", "data": {"title": "Other"}},
        {"type": "task.create"},
    ]
    answer = await client.post("http://test/commands:batch", json=items)
    assert [result["status"] for result in answer.json()["results"]] == [201, 200, 422, 201, 400]


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), StoreUnavailable("it is away")])
async def test_after_a_command_that_is_to_be_sent_again_a_batch_tries_no_later_one_of_its_aggregate(
    client: httpx.AsyncClient, store: FlakyStore, error: Exception
) -> None:
    """It would come before the first when that is sent again."""
    store.errors.append(error)
    items = [
        {"type": "task.create", "data": {"id": "t", "title": "Write"}},
        {"type": "task.create", "data": {"id": "other", "title": "Read"}},
        {"type": "task.create", "data": {"id": "t", "title": "Write again"}},
        {"type": "task.complete", "data": {"id": "t"}},
    ]
    answer = await client.post("http://test/commands:batch", json=items)
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [503, 201, 503, 503]
    assert "send both, in this order" in results[2]["detail"]
    assert await store.tails() == {0: 1}


@pytest.mark.parametrize("header", ["Idempotency-Key", "If-Match"])
async def test_what_is_of_one_command_is_refused_for_a_batch(
    client: httpx.AsyncClient, store: FlakyStore, header: str
) -> None:
    items = [{"type": "task.create", "data": {"title": "Water the plants"}}] * 2
    answer = await client.post("http://test/commands:batch", json=items, headers={header: '"1"'})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, header)
    assert await store.tails() == {}


async def test_each_command_of_a_batch_has_its_own_key_and_version(client: httpx.AsyncClient) -> None:
    created = {"type": "task.create", "data": {"title": "Water the plants"}}
    items = [created | {"idempotency_key": key} for key in ("a", "b", "a")]
    first = (await client.post("http://test/commands:batch", json=items)).json()["results"]
    assert first[0] == first[2] != first[1]
    change = {"id": first[0]["id"], "assignee": "ada", "expected_version": 7}
    answer = await client.post("http://test/commands:batch", json=[{"type": "task.assign", "data": change}])
    assert [result["status"] for result in answer.json()["results"]] == [409]


@pytest.mark.parametrize(("header", "refused"), [({}, True), ({"x-tenant-id": "acme"}, False)])
async def test_an_envelope_of_another_tenant_than_the_requests_is_refused(
    client: httpx.AsyncClient, header: dict[str, str], refused: bool
) -> None:
    envelope = {
        "event_type": "task.create",
        "source": "test",
        "tenant_id": "acme",
        "command_type": "task.create",
        "command_data": {"title": "Write"},
    }
    answer = await client.post("http://test/commands", json=envelope, headers=header)
    assert answer.status_code == (400 if refused else 201)
    if refused:
        assert [error["field"] for error in answer.json()["errors"]] == ["tenant_id"]


async def test_a_whole_envelope_is_a_command_too(client: httpx.AsyncClient) -> None:
    envelope = {
        "event_id": "the-command",
        "event_type": "task.create",
        "source": "test",
        "command_type": "task.create.command",
        "command_data": {"title": "Write"},
    }
    first = await client.post("http://test/commands", json=envelope)
    assert first.status_code == 201
    assert (await client.post("http://test/commands", json=envelope)).json() == first.json()


ENVELOPE = {
    "event_type": "task.create",
    "source": "test",
    "command_type": "task.create",
    "command_data": {"title": "Write"},
}


@pytest.mark.parametrize(
    ("header", "instead"), [("Idempotency-Key", "event_id"), ("If-Match", "expected_version")]
)
async def test_what_an_envelope_has_itself_is_refused_as_a_header(
    client: httpx.AsyncClient, store: FlakyStore, header: str, instead: str
) -> None:
    answer = await client.post("http://test/commands", json=ENVELOPE, headers={header: '"1"'})
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["field"]) == (400, header)
    assert f"`{instead}`" in error["expected"]
    assert await store.tails() == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expectedversion", 3),
        ("delay_until", "2030-01-01T00:00:00Z"),
        ("priority", "high"),
        ("client", "10.0.0.1"),
    ],
)
async def test_what_nobody_would_hear_of_an_envelope_is_refused(
    client: httpx.AsyncClient, store: FlakyStore, field: str, value: object
) -> None:
    answer = await client.post("http://test/commands", json=ENVELOPE | {field: value})
    assert (answer.status_code, [one["field"] for one in answer.json()["errors"]]) == (400, [field])
    assert await store.tails() == {}


async def test_an_envelope_that_says_all_there_is_to_say_is_one(client: httpx.AsyncClient) -> None:
    envelope = CommandEvent.model_validate(ENVELOPE | {"causation_id": "before", "retry_count": 2})
    answer = await client.post("http://test/commands", content=envelope.to_json())
    assert answer.status_code == 201


IDS = [("x-user-id", "user_id"), ("x-session-id", "session_id"), ("x-correlation-id", "correlation_id")]


@pytest.mark.parametrize(("header", "field"), IDS)
@pytest.mark.parametrize("more", [{}, {"causation_id": "before"}])
async def test_who_asks_in_a_header_asks_in_an_envelope_that_does_not_say(
    client: httpx.AsyncClient, store: FlakyStore, header: str, field: str, more: dict[str, str]
) -> None:
    for given in ({}, {field: "ada"}):
        answer = await client.post(
            "http://test/commands", json=ENVELOPE | more | given, headers={header: "ada"}
        )
        [event] = [one async for one in store.read_stream(StreamId("default", answer.json()["stream"]))]
        assert getattr(event, field) == "ada"


@pytest.mark.parametrize(("header", "field"), IDS)
async def test_an_envelope_that_says_something_else_than_the_headers_is_refused(
    client: httpx.AsyncClient, store: FlakyStore, header: str, field: str
) -> None:
    answer = await client.post(
        "http://test/commands", json=ENVELOPE | {field: "bob"}, headers={header: "ada"}
    )
    assert (answer.status_code, [one["field"] for one in answer.json()["errors"]]) == (400, [field])
    assert await store.tails() == {}


@pytest.mark.parametrize("more", [{}, {"event_id": ""}, {"event_id": None}, {"correlation_id": "c"}])
async def test_an_id_that_an_envelope_does_not_have_is_no_key(
    client: httpx.AsyncClient, store: FlakyStore, more: dict[str, Any]
) -> None:
    answers = [await client.post("http://test/commands", json=ENVELOPE | more) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert store.keys == [None, None]


@pytest.mark.parametrize("field", ["correlation_id", "user_id", "session_id"])
@pytest.mark.parametrize("text", ["a\0b", "a\r\nb", " a", "", "x" * 257])
async def test_an_id_that_is_none_in_a_header_is_none_in_an_envelope(
    client: httpx.AsyncClient, store: FlakyStore, field: str, text: str
) -> None:
    envelope = {"event_type": "task.create", "source": "test", "command_type": "task.create"}
    command = {"command_data": {"title": "Write"}, field: text}
    answer = await client.post("http://test/commands", json=envelope | command)
    if field == "correlation_id" and not text:
        assert answer.status_code == 201  # none was given, so the command starts a correlation
        return
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["(body)" if "\0" in text else field]
    assert await store.tails() == {}


async def test_an_empty_key_of_a_batchs_command_is_refused_where_it_stands(
    client: httpx.AsyncClient, store: FlakyStore
) -> None:
    batch = [{"type": "task.create", "data": {"title": "Write"}, "idempotency_key": ""}]
    (answer,) = (await client.post("http://test/commands:batch", json=batch)).json()["results"]
    assert (answer["status"], answer["errors"][0]["field"]) == (400, "idempotency_key")
    assert await store.tails() == {}


@pytest.mark.parametrize("key", ["a\0b", "a||b", "\x7f", "x" * 257])
async def test_a_key_that_no_store_takes_is_refused_in_every_way_it_comes(
    client: httpx.AsyncClient, key: str
) -> None:
    batch = [{"type": "task.create", "data": {"title": "Write"}, "idempotency_key": key}]
    answer = (await client.post("http://test/commands:batch", json=batch)).json()
    assert [one["status"] for one in answer.get("results", [answer])] == [400]
    envelope = {"event_type": "task.create", "event_id": key, "source": "test"}
    command = {"command_type": "task.create", "command_data": {"title": "Write"}}
    whole = await client.post("http://test/commands", json=envelope | command)
    assert whole.status_code == 400
    if key.isprintable():
        headers = {"Idempotency-Key": key}
        assert (await client.post("/task.create", json={"title": "x"}, headers=headers)).status_code == 400


@pytest.mark.parametrize(
    ("command", "fields", "wrong"),
    [
        ("task.create", {"title": "a\0b"}, "(body)"),
        ("task.create", {"title": "Write", "due": "0001-01-01T00:00:00Z"}, "due"),
        ("task.create", {"title": "Write", "due": "9999-12-31T23:00:00Z"}, "due"),
        ("member.leave", {"id": "ada", "successors": ["bob"], "deadline": "P999999D"}, "deadline"),
        ("member.leave", {"id": "ada", "successors": ["bob"], "deadline": "-PT1H"}, "deadline"),
    ],
)
async def test_what_no_reader_of_the_event_can_hold_is_refused(
    client: httpx.AsyncClient, command: str, fields: dict[str, object], wrong: str
) -> None:
    answer = await client.post(f"/{command}", json=fields)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [wrong]


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-010", False),
        ("00-xyz", False),
        ("\u00e9" * 80, False),
    ],
)
async def test_a_trace_that_is_none_counts_for_nothing(
    client: httpx.AsyncClient, store: FlakyStore, header: str, kept: bool
) -> None:
    headers = {"traceparent": header.encode("latin-1")}
    answer = await client.post("/task.create", json={"title": "Write"}, headers=headers)
    [event] = [one async for one in store.read_stream(StreamId("default", answer.json()["stream"]))]
    assert event.traceparent == (header[:55] if kept else None)


@pytest.mark.parametrize("version", ["1.0", "9.0"])
@pytest.mark.parametrize("state", [{"status": "of a newer release"}, None])
async def test_what_a_newer_release_stored_is_no_fault_of_the_request(
    client: httpx.AsyncClient, store: FlakyStore, state: dict[str, Any] | None, version: str
) -> None:
    data = {"title": "Write", "priority": "of a newer release"}
    created = DomainEvent(
        event_type="task.created",
        event_version=version,
        source="test",
        aggregate_type="task",
        aggregate_id="t",
        data=data,
    )
    await store.append(Append(StreamId("default", "task-t"), (created,), 0, state))
    with capture_logs() as logs:
        answer = await client.post("/task.complete", json={"id": "t"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:unavailable")
    assert "cannot read default/task-t up to version 1; nothing was changed" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    (error,) = [log for log in logs if log["log_level"] == "error"]
    assert (error["stream"], error["version"]) == ("default/task-t", 1)
    assert "of a newer release" not in error["error"]


def counted(outcome: str) -> float:
    labels = {"type": "task.create", "outcome": outcome}
    return COUNTED.get_sample_value("annals_commands_total", labels) or 0.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (AppendTooLarge("too large"), "too_large"),
        (ValueError("nothing of the kind"), "invalid"),
        (StreamUnreadable(StreamId("default", "task-t"), 1), "unavailable"),
    ],
)
async def test_what_was_refused_rightly_is_not_counted_as_an_error(
    client: httpx.AsyncClient, store: FlakyStore, error: Exception, outcome: str
) -> None:
    before = counted(outcome)
    store.errors.append(error)
    await client.post("/task.create", json={"title": "Write"})
    assert counted(outcome) == before + 1


async def test_a_command_that_is_broken_off_is_not_counted_as_done() -> None:
    async def asleep(_request: CommandRequest) -> NoReturn:
        await asyncio.sleep(60)
        raise AssertionError

    before = counted("cancelled"), counted("done")
    task = asyncio.create_task(count_commands(CommandRequest("task.create", {}), asleep))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (counted("cancelled"), counted("done")) == (before[0] + 1, before[1])


@pytest.mark.parametrize("path", ["/task.create", "/task.invent", "", ":batch"])
async def test_no_way_leads_round_a_service_that_takes_no_commands(store: FlakyStore, path: str) -> None:
    def refuse() -> NoReturn:
        raise Problem(503, "read-only", "nothing is changed now")

    app = FastAPI()
    app.include_router(
        routes(CommandBus(store, REGISTRY, HANDLERS, source="command", protect=sealed), refuse)
    )
    app.add_exception_handler(Problem, on_problem)
    data = {"title": "Write"}
    body: Any = data
    if path == "":
        body = {
            "event_type": "task.create",
            "command_type": "task.create",
            "command_data": data,
            "source": "t",
        }
    elif path == ":batch":
        body = [{"type": "task.create", "data": data}]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(f"/commands{path}", json=body)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:read-only")
    assert store.keys == []
