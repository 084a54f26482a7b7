"""The parameters and attributes in docs/api exist. `make check` compares docs/api with the code."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from annals.events import DomainEvent, RecordedEvent, to_cloudevent_json
from annals_command.domain.events import REGISTRY
from annals_notification.streams import routes
from annals_saga_orchestrator.activities import MOST_TASKS
from suite.paths import ROOT


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "api" / f"{name}.json").read_text())
    return found


def operation(service: str, method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = document(f"{service}.openapi")["paths"][path][method]
    return found


def parameters(described: dict[str, Any], where: str) -> set[str]:
    return {one["name"] for one in described["parameters"] if one.get("in") == where}


def test_a_live_stream_is_described_as_it_is() -> None:
    described = operation("notification", "get", "/stream")
    assert parameters(described, "query") == {*routes._FILTERS, "after"}
    assert parameters(described, "header") == {"Last-Event-ID"}
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]


def test_the_list_of_sagas_takes_what_the_projector_takes() -> None:
    described = operation("saga-orchestrator", "get", "/sagas")
    theirs = operation("projector", "get", "/queries/sagas")
    assert parameters(described, "query") == parameters(theirs, "query")
    assert described["responses"]["200"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("service", ["command", "projector", "saga-orchestrator", "notification"])
def test_every_request_may_say_who_asks(service: str) -> None:
    for path, methods in document(f"{service}.openapi")["paths"].items():
        for method, described in methods.items():
            referred = {one.get("$ref", "").rpartition("/")[2] for one in described.get("parameters", ())}
            assert {"x-tenant-id", "x-user-id"} <= referred, (method, path)


@pytest.mark.parametrize(
    ("service", "path", "expected"),
    [
        ("command", "/commands", {"x-session-id", "x-correlation-id"}),
        ("command", "/commands:batch", {"x-session-id", "x-correlation-id"}),
        ("saga-orchestrator", "/sagas/{saga_type}", {"x-session-id", "x-correlation-id", "Idempotency-Key"}),
        (
            "command",
            "/commands/task.create",
            {"x-session-id", "x-correlation-id", "Idempotency-Key", "If-Match"},
        ),
    ],
)
def test_the_headers_of_a_request_are_described(service: str, path: str, expected: set[str]) -> None:
    assert parameters(operation(service, "post", path), "header") == expected


def test_the_console_is_described_with_each_way_to_sign_in() -> None:
    assert {"/auth/login", "/auth/callback", "/auth/development"} <= document("console.openapi")[
        "paths"
    ].keys()


@pytest.mark.parametrize(
    ("service", "text"),
    [
        ("command", "The body is an array of [BatchItem](#batchitem)."),
        ("saga-orchestrator", "The body is [CapacityRelease](#capacityrelease) or "),
        ("notification", "| `moved` | body | object | Occurrences to move: "),
        ("notification", "No occurrence is before `start`, from which "),
    ],
)
def test_a_page_describes_each_body(service: str, text: str) -> None:
    assert text in (ROOT / "docs" / "api" / f"{service}.md").read_text()


def test_the_command_by_which_a_member_leaves_says_how_many_tasks_are_handed_over() -> None:
    described = operation("command", "post", "/commands/member.leave")["description"]
    assert f"If more than {MOST_TASKS} tasks are open, none is offered." in described


@pytest.mark.parametrize("field", ["frees", "reserved_by"])
def test_events_of_tasks_explain_whose_places_they_free(field: str) -> None:
    for name, schema in REGISTRY.schemas().items():
        assert (field in schema["properties"]) == (f"`{field}`" in schema["description"]), name


def test_every_attribute_that_is_sent_is_described() -> None:
    event = DomainEvent(
        event_type="task.created",
        source="command",
        aggregate_type="task",
        aggregate_id="t",
        causation_id="before",
        command_type="task.create",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="a=b",
    )
    sent = orjson.loads(to_cloudevent_json(RecordedEvent.record(event, version=1, lane=0, seq=1)))
    for name, message in document("asyncapi")["components"]["messages"].items():
        described = message["payload"]["properties"].keys()
        if "@" in name:
            assert sent.keys() == described
        else:
            of_stream = {"subject", "partitionkey", "streamversion", "commandtype"}
            assert sent.keys() - of_stream == described
