"""What goes through the edge, and how."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.responses import JSONResponse

from annals_console import gateway
from annals_console.access import RULES
from conftest import until
from unit.console.conftest import Sidecar, Start

BECOME = "/auth/development"


async def test_what_says_who_asks_is_the_edges_own(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    forged = {
        "x-user-id": "root",
        "x-session-id": "stolen",
        "x-forwarded-for": "203.0.113.9",
        "dapr-caller-app-id": "command",
        "dapr-api-token": "guessed",
        "authorization": "Bearer anybody",
        "cookie": "theme=dark",
        "traceparent": "00-11111111111111111111111111111111-1111111111111111-01",
    }
    await http.get(f"{development}/api/projector/queries/tasks?limit=5&text=a%20b", headers=forged)

    asked = sidecar.asked[-1]
    assert asked["query"] == "limit=5&text=a%20b"
    headers = asked["headers"]
    assert (headers["x-tenant-id"], headers["x-user-id"]) == ("default", "you")
    assert headers["x-session-id"] == "development"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert not forged.keys() & headers.keys() - {"x-user-id", "x-session-id", "x-forwarded-for"}


async def test_what_a_command_needs_goes_through(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    headers = {"if-match": '"3"', "idempotency-key": "once", "content-type": "application/json"}
    await http.post(f"{development}/api/command/commands/task.update", headers=headers, content=b'{"id":"a"}')

    asked = sidecar.asked[-1]
    assert (asked["app"], asked["path"], asked["body"]) == ("command", "commands/task.update", '{"id":"a"}')
    assert headers.items() <= asked["headers"].items()


@pytest.mark.parametrize("key", ["saga:h1/reserve-capacity/undo", "recurrence:r:2026-01-01T09:00:00+00:00"])
async def test_a_key_of_a_service_is_not_a_callers(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, key: str
) -> None:
    answer = await http.post(
        f"{development}/api/command/commands/task.create",
        headers={"idempotency-key": key},
        json={"title": "x"},
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:annals:problem:malformed")
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert sidecar.asked == []


@pytest.mark.parametrize(("role", "status"), [("member", 403), ("operator", 200)])
async def test_the_id_of_a_saga_is_for_operators_to_choose(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, role: str, status: int
) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": role})
    path, chosen = "api/saga-orchestrator/sagas/task-handover", "e2c8a3f5-8f4e-5f9a-9f63-7d1a8c6b2f10"
    for query in (f"id={chosen}", f"%69d={chosen}", f"x=&id={chosen}"):
        answer = await http.post(f"{development}/{path}?{query}", json={"task_id": "t", "assignee": "ada"})
        assert answer.status_code == status
    assert len(sidecar.asked) == (0 if status == 403 else 3)


async def test_a_refusal_is_passed_on_as_it_is(development: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{development}/api/projector/queries/tasks/conflict")

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["etag"] == '"4"'
    assert answer.json()["actual"] == 4
    assert "x-internal" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "command/commands/operation.request"),
        ("POST", "command/commands/task.accept"),
        ("POST", "command/commands/task.revert_assignment"),
        ("POST", "command/commands/member.reserve"),
        ("POST", "command/commands:batch"),
        ("GET", "command/store/export"),
        ("POST", "command/store/import"),
        ("GET", "command/metrics"),
        ("DELETE", "projector/queries/tasks/a"),
        ("GET", "projector/queries/tasks/a%2fb"),
        ("GET", "projector/queries/tasks/%2e%2e"),
        ("GET", "projector/queries/tasks/..%2f..%2fmetrics"),
        ("GET", "projector/queries/tasks/a%3fb"),
        ("GET", "projector/queries/tasks/a%00b"),
        ("POST", "projector/events/domain-events"),
        ("POST", "notification/events"),
        ("GET", "elsewhere/queries/tasks"),
    ],
)
async def test_what_no_rule_names_is_refused(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(method, f"{development}/api/{path}")

    assert answer.status_code in (400, 404, 405)
    assert sidecar.asked == []


async def test_the_page_has_a_head(development: str, http: httpx.AsyncClient) -> None:
    got, head = await http.get(development), await http.head(development)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/command/commands/task.create", 405),
        ("PUT", "/api/command/commands/task.create", 405),
        ("POST", "/api/health", 405),
        ("GET", "/auth/logout", 405),
        ("GET", "/api/command/commands/task.dream", 404),
        ("POST", "/api/command/commands/task.dream", 404),
        ("POST", "/api/elsewhere", 404),
        ("GET", "/api/health/", 404),
        ("GET", "/healthz/", 200),
    ],
)
async def test_what_is_there_and_what_it_takes_is_said(
    development: str, http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await http.request(method, development + path)
    assert answer.status_code == status
    assert ("allow" in answer.headers) is (status == 405)


SUITE_WIDE = [
    ("GET", "projections/tasks/generations/2/difference"),
    ("POST", "projections/tasks/rebuild"),
    ("POST", "projections/tasks/generations/2/pause"),
    ("POST", "projections/tasks/generations/2/resume"),
    ("POST", "projections/tasks/generations/2/switch"),
    ("PUT", "projections/tasks/generations/2/throttle"),
    ("DELETE", "projections/tasks/generations/2"),
]


@pytest.mark.parametrize(("method", "path"), SUITE_WIDE)
async def test_what_is_all_tenants_is_for_suite_operators(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, method: str, path: str
) -> None:
    address = f"{development}/api/projector/{path}"
    await http.post(development + BECOME, json={"user": "ben", "role": "operator", "tenant": "acme"})
    refused = await http.request(method, address)
    assert (refused.status_code, refused.json()["needed"]) == (403, "suite-operator")
    assert refused.json()["detail"] == (
        "this concerns all tenants and needs the role suite-operator; yours is operator"
    )
    assert sidecar.asked == []
    assert (await http.get(f"{development}/api/projector/queries/audit")).status_code == 200

    await http.post(development + BECOME, json={"user": "sue", "role": "suite-operator", "tenant": "acme"})
    assert (await http.request(method, address)).status_code == 200
    assert sidecar.asked[-1]["headers"]["x-user-id"] == "sue"


async def test_the_public_port_tells_nobody_the_metrics(development: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{development}/metrics")
    assert "python_info" not in answer.text
    assert answer.headers["content-type"].startswith("text/html"), "an address of the page, like any other"


@pytest.mark.parametrize("role", ["viewer", "member"])
async def test_below_an_operator_the_delivery_log_is_ones_own(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, role: str
) -> None:
    log = f"{development}/api/notification/deliveries"
    await http.post(development + BECOME, json={"user": "ben@acme", "role": role})

    for asked in ("user=ada", "user=ben@acme&user=ada", "user=ada&user=ben@acme", "%75ser=ada", "user="):
        refused = await http.get(f"{log}?{asked}")
        assert (refused.status_code, refused.json()["needed"]) == (403, "operator")
    assert sidecar.asked == []

    for asked in ("", "?user=ben%40acme", "?correlation_id=a%26user%3Dada&limit=5"):
        assert (await http.get(log + asked)).status_code == 200
        passed_on = parse_qs(sidecar.asked[-1]["query"])
        assert passed_on.pop("user") == ["ben@acme"]
        assert passed_on == {n: v for n, v in parse_qs(asked[1:]).items() if n != "user"}


async def test_an_operator_sees_everybodys_deliveries(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": "operator"})
    for asked in ("user=ada", "status=failed"):
        assert (await http.get(f"{development}/api/notification/deliveries?{asked}")).status_code == 200
        assert sidecar.asked[-1]["query"] == asked


async def test_an_inbox_is_its_owners(development: str, sidecar: Sidecar, http: httpx.AsyncClient) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": "operator"})

    for path in ("inbox/ada", "preferences/ada"):
        assert (await http.get(f"{development}/api/notification/{path}")).status_code == 403
    assert sidecar.asked == []
    assert (await http.get(f"{development}/api/notification/inbox/ben")).status_code == 200


@pytest.mark.parametrize(("role", "status"), [("member", 403), ("operator", 200)])
async def test_an_operator_ends_the_deliveries_of_others(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, role: str, status: int
) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": role})
    ended = await http.delete(f"{development}/api/notification/preferences/ada")
    assert ended.status_code == status
    asked = [(one["method"], one["path"]) for one in sidecar.asked]
    assert asked == ([("DELETE", "preferences/ada")] if status == 200 else [])


async def test_a_command_recurs_only_for_who_may_send_it(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": "member"})
    path = f"{development}/api/notification/recurrences/r"

    for kind in ("subject.erase", "operation.request", "member.leave"):
        refused = await http.put(path, json={"rule": "FREQ=DAILY", "command": {"type": kind, "data": {}}})
        assert refused.status_code == 403
    assert sidecar.asked == []

    command = {"type": "task.create", "data": {"title": "x"}}
    taken = await http.put(path, json={"rule": "FREQ=DAILY", "command": command, "user": "ada"})
    assert taken.status_code == 200
    assert '"user":"ben"' in sidecar.asked[-1]["body"]


@pytest.mark.parametrize("role", ["member", "operator"])
@pytest.mark.parametrize("field", ["reserved", "handover"])
@pytest.mark.parametrize("value", [b"true", b"false", b"null", b'"h1"'])
async def test_only_a_saga_says_that_it_reserved_a_place(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, role: str, field: str, value: bytes
) -> None:
    """Each place that it names would push another out of the task, and that one would never be freed."""
    await http.post(development + BECOME, json={"user": "ben", "role": role})
    escaped = b"\\u%04x" % ord(field[0]) + field[1:].encode()
    for name in (field.encode(), escaped):
        data = b'{"id":"t","assignee":"ada","' + name + b'":' + value + b"}"
        refused = await http.post(f"{development}/api/command/commands/task.assign", content=data)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
        recurrence = b'{"rule":"FREQ=DAILY","command":{"type":"task.assign","data":' + data + b"}}"
        refused = await http.put(f"{development}/api/notification/recurrences/r", content=recurrence)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, f"command.data.{field}")
    assert sidecar.asked == []

    sidecar.answers["GET recurrences/r"] = {"id": "r", **json.loads(recurrence)}
    resumed = await http.post(f"{development}/api/notification/recurrences/r/resume")
    assert resumed.status_code == 400


async def test_a_task_is_assigned_as_it_is_sent(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    assign = f"{development}/api/command/commands/task.assign"
    sent = b'{ "id": "t", "assignee": "ada" }'
    assert (await http.post(assign, content=sent)).status_code == 200
    assert sidecar.asked[-1]["body"] == sent.decode()


@pytest.mark.parametrize("depth", [240, 260, 1000, 3000])
async def test_a_recurrence_that_is_nested_deeply_is_refused_as_malformed(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, depth: int
) -> None:
    data = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"rule":"FREQ=DAILY","command":{"type":"task.create","data":' + data + b"}}"
    answer = await http.put(f"{development}/api/notification/recurrences/r", content=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:annals:problem:malformed")
    assert sidecar.asked == []


async def test_a_command_goes_on_recurring_only_for_who_may_send_it(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    await http.post(development + BECOME, json={"user": "ben", "role": "member"})
    path = f"{development}/api/notification/recurrences/r"
    known = {"id": "r", "command": {"type": "member.leave", "data": {}}}
    sidecar.answers["GET recurrences/r"] = known

    assert (await http.post(f"{path}/pause")).status_code == 200
    assert (await http.post(f"{path}/resume")).status_code == 403
    sidecar.answers["GET recurrences/r"] = known | {"command": {"type": "task.create", "data": {}}}
    assert (await http.post(f"{path}/resume")).status_code == 200
    asked = [(one["method"], one["path"]) for one in sidecar.asked]
    looked, went_on = ("GET", "recurrences/r"), ("POST", "recurrences/r/resume")
    assert asked == [("POST", "recurrences/r/pause"), looked, looked, went_on]
    assert {one["headers"]["x-user-id"] for one in sidecar.asked} == {"ben"}

    missing = await http.post(f"{development}/api/notification/recurrences/conflict/resume")
    assert (missing.status_code, missing.json()["type"]) == (409, "urn:annals:problem:conflict")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://[::1]x"},
    ],
)
async def test_another_sites_page_changes_nothing(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for path in ("/api/command/commands/task.create", BECOME, "/auth/logout"):
        answer = await http.post(development + path, headers=headers, json={"title": "x", "user": "x"})
        assert answer.status_code == 403
    assert sidecar.asked == []


async def test_the_own_page_may_change_things(development: str, http: httpx.AsyncClient) -> None:
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": development}):
        answer = await http.post(
            f"{development}/api/command/commands/task.create", headers=headers, json={"title": "x"}
        )
        assert answer.status_code == 200


async def test_in_development_only_its_own_name_is_answered(
    development: str, http: httpx.AsyncClient
) -> None:
    answer = await http.get(f"{development}/auth/session", headers={"host": "rebound.example"})
    assert answer.status_code == 400


async def test_there_is_no_being_somebody_else_with_an_issuer(console: str, http: httpx.AsyncClient) -> None:
    answer = await http.post(console + BECOME, json={"user": "root", "role": "operator"})
    assert answer.status_code in (404, 405)


async def test_a_live_stream_comes_through_as_it_is(development: str, http: httpx.AsyncClient) -> None:
    async with http.stream("GET", f"{development}/api/notification/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        body = b"".join([chunk async for chunk in answer.aiter_bytes()])
    assert body == b"id: 0-1\ndata: {}\n\nid: 0-2\ndata: {}\n\n"


async def opened(http: httpx.AsyncClient, stream: str) -> int:
    """Open a live stream, leave it, and return its status."""
    async with http.stream("GET", stream) as answer:
        return answer.status_code


@pytest.fixture
async def staying(development: str, sidecar: Sidecar) -> AsyncIterator[None]:
    """Keep streams open during a test; at its end they must close, or the console would wait for them."""
    sidecar.stays = True
    yield
    sidecar.stays = False


@pytest.mark.usefixtures("staying")
async def test_live_streams_leave_connections_for_all_else(
    development: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_STREAMS", 2)
    stream = f"{development}/api/notification/stream"
    async with http.stream("GET", stream) as first, AsyncExitStack() as second:
        await second.enter_async_context(http.stream("GET", stream))
        async with http.stream("GET", stream) as refused:
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert json.loads(await refused.aread())["type"] == "urn:annals:problem:busy"
        assert (await http.get(f"{development}/api/projector/queries/tasks")).status_code == 200
        await second.aclose()

        async def there_is_room() -> bool:
            return (await opened(http, stream)) == 200

        await until(there_is_room)
        assert first.status_code == 200


@pytest.mark.usefixtures("staying")
async def test_one_user_leaves_live_streams_for_others(
    development: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_STREAMS_OF_ONE", 1)
    stream = f"{development}/api/notification/stream"
    async with http.stream("GET", stream):
        assert await opened(http, stream) == 503
        await http.post(development + BECOME, json={"user": "ben", "role": "viewer"})
        assert await opened(http, stream) == 200


async def test_a_body_may_not_be_huge(development: str, sidecar: Sidecar, http: httpx.AsyncClient) -> None:
    answer = await http.post(
        f"{development}/api/command/commands/task.create", content=b" " * (1024 * 1024 + 1)
    )
    assert answer.status_code == 413
    assert sidecar.asked == []


async def test_without_a_sidecar_it_says_so(start: Start, http: httpx.AsyncClient) -> None:
    console = await start(auth="development", dapr_http_port=9)
    answer = await http.get(f"{console}/api/projector/queries/tasks")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["detail"] == "no answer came from projector"
    unknown = await http.post(f"{console}/api/command/commands/task.create")
    assert unknown.json()["detail"] == f"no answer came from command; {MAY_BE_DONE}"


MAY_BE_DONE = "it may have done what was asked: look whether it did before you send it again"


NOBODY = {"errorCode": "ERR_DIRECT_INVOKE", "message": "failed to invoke, err: dial tcp 10.0.0.7:50002"}


@pytest.mark.parametrize(
    ("method", "path", "asked", "problem"),
    [
        ("GET", "projector/queries/tasks", "GET queries/tasks", "unavailable"),
        ("POST", "command/commands/task.create", "POST commands/task.create", "outcome-unknown"),
        ("POST", "notification/recurrences/r/resume", "GET recurrences/r", "unavailable"),
    ],
)
async def test_a_service_that_is_away_may_be_asked_again(
    development: str,
    sidecar: Sidecar,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    asked: str,
    problem: str,
) -> None:
    sidecar.answers[asked] = JSONResponse(NOBODY, 500)

    answer = await http.request(method, f"{development}/api/{path}")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["type"] == f"urn:annals:problem:{problem}"
    assert path.partition("/")[0] in answer.json()["detail"]
    assert (MAY_BE_DONE in answer.json()["detail"]) == (problem == "outcome-unknown")
    assert "10.0.0.7" not in answer.text


async def test_that_a_service_failed_is_passed_on(
    development: str, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    failed = {"type": "urn:annals:problem:internal", "detail": "the service failed"}
    for asked in ("POST commands/task.create", "GET recurrences/r"):
        sidecar.answers[asked] = JSONResponse(failed, 500, media_type="application/problem+json")

    for path in ("command/commands/task.create", "notification/recurrences/r/resume"):
        answer = await http.post(f"{development}/api/{path}")
        assert (answer.status_code, answer.json()["type"]) == (500, failed["type"])


async def test_the_page_is_sent_packed_and_may_run_nothing_but_its_own(
    development: str, http: httpx.AsyncClient
) -> None:
    page = await http.get(f"{development}/sagas/some-saga")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    directives = page.headers["content-security-policy"].split("; ")
    assert dict(one.split(" ", 1) for one in directives) == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
        **dict.fromkeys(("script-src", "style-src", "img-src", "font-src", "connect-src"), "'self'"),
        "form-action": "'self'",
    }
    kept = await http.get(f"{development}/sagas", headers={"if-none-match": page.headers["etag"]})
    assert kept.status_code == 304

    script = await http.get(f"{development}/assets/app.js", headers={"accept-encoding": "identity"})
    assert "immutable" in script.headers["cache-control"]
    async with http.stream(
        "GET", f"{development}/assets/app.js", headers={"accept-encoding": "br"}
    ) as packed:
        assert packed.headers["content-encoding"] == "br"
        assert b"".join([chunk async for chunk in packed.aiter_raw()]) == b"packed"
    assert (await http.get(f"{development}/assets/other.js")).status_code == 404


def test_every_rule_is_there_once() -> None:
    named = [(rule.method, rule.service, rule.path) for rule in RULES]
    assert len(named) == len(set(named))
