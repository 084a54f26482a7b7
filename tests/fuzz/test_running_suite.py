"""A running suite that gets nonsense over every API and on every topic."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
import requests
import schemathesis
import schemathesis.checks
import schemathesis.specs.openapi.checks as openapi
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck, Unsatisfiable
from schemathesis.generation import GenerationMode

from conftest import until
from documented import as_documented
from fuzz.depth import DEEP, DEPTH, EXAMPLES_AT_HAND
from fuzz.messages import KNOWN, cloudevent, mutated
from suite import infra, profiles
from suite.paths import ROOT
from suite.suite import Suite
from system.conftest import PROJECTOR, Client

SUBSCRIPTIONS = (
    (8002, "domain-events"),
    (8002, "saga-events"),
    (8002, "dead-letters"),
    (8003, "domain-events"),
    (8004, "domain-events"),
    (8004, "saga-events"),
    (8004, "integration-events"),
    (8004, "dead-letters"),
)
# These are retried for minutes before they are given up, since the event before them may still come.
SLOW = ("a version far ahead", "a version of no stream")
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
async def suite(no_traces: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite("embedded", home=tmp_path_factory.mktemp("fuzz"), config=no_traces) as suite:
        yield suite


@pytest.fixture(autouse=True)
async def nobody_ends(suite: Suite) -> AsyncIterator[None]:
    """Check that no service ends; the runner would restart it, which hides that it ended."""
    before = {name: process.pid for name, process in suite.processes.items()}
    yield
    assert {name: process.pid for name, process in suite.processes.items()} == before


@pytest.fixture(scope="module")
async def envelope(suite: Suite) -> dict[str, Any]:
    """Return the envelope of a real event, as the store has it."""
    async with httpx.AsyncClient(timeout=30) as http:
        client = Client(http)
        task = await client.created()
        await client.shown(f"tasks/{task['id']}", task["position"])
        (event,) = (await client.query(f"streams/{task['stream']}/events")).json()["items"]
    return {name: value for name, value in event.items() if name not in ("stream", "position")}


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=30, event_hooks={"response": [as_documented]}) as http:
        yield Client(http)


async def goes_on(client: Client) -> None:
    """Check that ordinary use still works: a command, its row, and the notice about it."""
    name = f"fuzz-{(task := await client.created())['id']}"
    answer = await client.command("task.assign", {"id": task["id"], "assignee": name})
    row = await client.shown(f"tasks/{task['id']}", answer.json()["position"])
    assert row["assignee"] == name, row

    async def told() -> bool:
        inbox = await client.http.get(f"http://127.0.0.1:8004/inbox/{name}")
        return bool(inbox.status_code == 200 and inbox.json()["items"])

    await until(told, what="the notice")


async def parked_by(client: Client) -> list[str]:
    """Return how often each consumer has parked anything, for all tenants, once the projector has caught up.

    The projector's unreadable messages are left out: operators have them read again, which counts too.
    """

    async def caught_up() -> bool:
        answer = await client.operate("GET", "projections")
        return bool(answer.status_code == 200 and answer.json()["lag"] == 0)

    await until(caught_up, what="the projector to catch up")
    pages = {port: await client.http.get(f"http://127.0.0.1:{port}/metrics") for port in (8002, 8003, 8004)}
    return [
        line
        for port, page in pages.items()
        for line in page.text.splitlines()
        if line.startswith("annals_dead_letters_parked_total{")
        and (port != 8002 or 'consumer="messages"' not in line)
    ]


def deliver(http: httpx.Client, port: int, path: str, body: bytes) -> None:
    """Deliver a body as a sidecar does; the answer must be a delivery status or a problem."""
    if path == "dead-letters":
        body = json.dumps({"data_base64": base64.b64encode(body).decode()}).encode()
    answer = http.post(f"http://127.0.0.1:{port}/events/{path}", content=body)
    assert answer.status_code < 500, f"{port} {path}: {answer.text}"
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == PROBLEM
    elif path == "dead-letters":
        assert answer.json()["status"] == "SUCCESS", "there is no place behind the dead letters"
    else:
        assert answer.json()["status"] in ("SUCCESS", "RETRY")


async def test_no_delivery_breaks_a_service(suite: Suite, client: Client, envelope: dict[str, Any]) -> None:
    @DEPTH
    @seed(1)
    @given(mutated(envelope))
    def mutants(changed: dict[str, Any]) -> None:
        for port, path in SUBSCRIPTIONS:
            deliver(http, port, path, json.dumps(cloudevent(changed)).encode())

    with httpx.Client(timeout=20) as http:
        for make in KNOWN.values():
            for port, path in SUBSCRIPTIONS:
                await asyncio.to_thread(deliver, http, port, path, make(envelope))
        await asyncio.to_thread(mutants)
    await goes_on(client)


@pytest.mark.parametrize("body", ['{"entries":"x"}', '{"entries":[1]}', '{"entries":[{}]}', "", "{"])
async def test_a_bulk_that_no_sidecar_sends_is_malformed(suite: Suite, client: Client, body: str) -> None:
    for port in (8002, 8003, 8004):
        answer = await client.http.post(f"http://127.0.0.1:{port}/events/domain-events", content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)


async def test_of_a_bulk_the_bad_are_kept_and_the_good_applied(
    suite: Suite, client: Client, envelope: dict[str, Any]
) -> None:
    def of_task(name: str) -> Any:
        return cloudevent(envelope | {"aggregate_id": name, "event_id": name, "seq": 10**6})

    early = cloudevent(envelope | {"timestamp": "0001-01-01T00:00:00+14:00"})
    bulk = {"bulk-1": of_task("bulk-1"), "a": None, "b": 1, "c": early, "bulk-2": of_task("bulk-2")}
    entries = [{"entryId": name, "event": event} for name, event in bulk.items()]
    answer = await client.http.post("http://127.0.0.1:8002/events/domain-events", json={"entries": entries})
    statuses = {one["entryId"]: one["status"] for one in answer.json()["statuses"]}
    assert statuses == dict.fromkeys(bulk, "SUCCESS")
    for name in ("bulk-1", "bulk-2"):
        assert (await client.query(f"tasks/{name}")).status_code == 200


async def test_no_message_on_a_topic_stops_its_consumers(
    suite: Suite, client: Client, envelope: dict[str, Any]
) -> None:
    url = infra.Nats(suite.home / ".annals" / "embedded", profiles.NATS_PORT).url
    broker = await nats.connect(url)
    try:
        stream = broker.jetstream()
        for topic in ("domain-events", "saga-events", "integration-events"):
            for name, make in KNOWN.items():
                if DEEP or name not in SLOW:
                    await stream.publish(topic, make(envelope))
        for topic in ("projector.dead-letters", "notification.dead-letters"):
            for make in KNOWN.values():
                await stream.publish(topic, make(envelope))
        await goes_on(client)

        async def untaken() -> list[str]:
            """Return the consumers with messages that wait or are being tried."""
            return [
                f"{one.config.name}/{consumer.name}"
                for one in await stream.streams_info()
                for consumer in await stream.consumers_info(one.config.name or "")
                if consumer.num_pending or consumer.num_ack_pending
            ]

        async def taken() -> bool:
            return not await untaken()

        with suppress(TimeoutError):
            await until(taken, 400 if DEEP else 30)
        assert await untaken() == []
    finally:
        await broker.close()
    letters = (await client.http.get(f"{PROJECTOR}/dead-letters")).json()["items"]
    assert {one["kind"] for one in letters} == {"raw"}, "what cannot be read is kept for operators"


SERVICES = {
    "command": 8001,
    "projector": 8002,
    "saga-orchestrator": 8003,
    "notification": 8004,
    "console": 8080,
}
# Routes that never end, that halt the suite for other tests, or that sign in at an issuer that does not
# exist.
LEFT_OUT = ("GET /stream", "GET /api/notification/stream", "PUT /settings/{name}", "GET /auth/login")
CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
]

# Most requests name one of a few things; a request for a thing that nobody has created can only be refused.
NAMED = ("id", "user", "task_id", "task", "member_id", "member", "saga_id", "saga")
NAMES = ("one", "two")
# Values for fields that hardly any random text fits.
VALID = {"rule": "FREQ=DAILY", "timezone": "Europe/Berlin", "email": "one@example.org"}
MODELS = ("tasks", "members")
SAGAS = ("task-handover", "member-offboarding", "capacity-release")
# Offsets of clocks in minutes, those of the whole world and imaginary ones: RFC 3339 allows any below a day.
CLOCKS = st.sampled_from((0, 60, -210, 345, 840, -720, 960, -1077, 1439, -1439)).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
FROM, TO = datetime(1990, 1, 1), datetime(2090, 1, 1)  # noqa: DTZ001 - as hypothesis takes them
MOMENTS = st.datetimes(FROM, TO, timezones=CLOCKS) | st.datetimes(timezones=CLOCKS)
schemathesis.openapi.format("date-time", MOMENTS.map(datetime.isoformat))


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_context: Any, value: Any) -> bytes:
    """Serialise a text as it is."""
    return str(value).encode()


def meet(case: Any, name: str, letters: list[str]) -> None:
    """Make a request concern something that others concern too, in the same tenant and at any version."""
    for header in ("x-tenant-id", "If-Match"):
        case.headers.pop(header, None)
    for where in (case.path_parameters, case.query, case.body):
        if isinstance(where, dict):
            where |= {key: name for key in NAMED if isinstance(where.get(key), str)}
            where |= {key: value for key, value in VALID.items() if key in where}
            if isinstance(data := where.get("data"), dict) and "event_type" in where:
                where["event_type"] = "notification.requested"
                data["user"] = name
    # Chooses one of several; any will do, as long as each is chosen now and then.
    turn = len(str(case.body)) + len(str(case.path_parameters))
    for key, known in {
        "saga_type": SAGAS,
        "read_model": MODELS,
        "letter_id": letters,
        "letter": letters,
    }.items():
        if known and key in (case.path_parameters or {}):
            case.path_parameters[key] = known[turn % len(known)]


def by_life(operation: Any) -> int:
    """Sort creations first and deletions last, so that in between there is something to change."""
    return ("201" not in operation.definition.raw["responses"]) + ("delete" in operation.label.lower())


def problems_are_told(_ctx: Any, response: Any, _case: Any) -> None:
    """Check that every refusal is a problem detail (RFC 9457)."""
    if response.status_code >= 400:
        assert response.headers["content-type"] == [PROBLEM]
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["type"].startswith("urn:annals:problem:")
        assert problem["title"]
        assert problem["detail"]


# The console only passes on the answers of the others, so only a deep run asks it.
@pytest.mark.parametrize("service", [one for one in SERVICES if DEEP or one != "console"])
async def test_an_api_answers_as_its_document_says(suite: Suite, client: Client, service: str) -> None:
    parked = await parked_by(client)
    letters = [one["id"] for one in (await client.http.get(f"{PROJECTOR}/dead-letters")).json()["items"]]
    document = json.loads((ROOT / "docs" / "api" / f"{service}.openapi.json").read_text())
    api = schemathesis.openapi.from_dict(document)
    failures: dict[str, str] = {}

    def ask(operation: Any, mode: GenerationMode) -> None:
        @settings(EXAMPLES_AT_HAND, max_examples=40 if DEEP else 2, phases=[Phase.generate])
        @given(operation.as_strategy(generation_mode=mode), st.sampled_from((*NAMES, None)))
        def answers(case: Any, name: str | None) -> None:
            if name is not None and mode is GenerationMode.POSITIVE:
                meet(case, name, letters)
            answer = case.call(base_url=f"http://127.0.0.1:{SERVICES[service]}", timeout=40)
            case.validate_response(answer, checks=[*CHECKS, problems_are_told])

        answers()

    operations = [one for result in api.get_all_operations() if (one := result.ok()).label not in LEFT_OUT]
    operations.sort(key=by_life)
    for operation, mode in itertools.product(operations, GenerationMode):
        try:
            await asyncio.to_thread(ask, operation, mode)
        except (Unsatisfiable, FailedHealthCheck):
            assert mode is GenerationMode.NEGATIVE, operation.label
            continue  # no request for this operation can be wrong
        except (AssertionError, requests.RequestException, BaseExceptionGroup) as error:
            failures[f"{operation.label} {mode.value}"] = "".join(traceback.format_exception_only(error))
    assert not failures, "\n\n".join(f"{name}: {text}" for name, text in failures.items())
    await goes_on(client)
    assert await parked_by(client) == parked, "what an API takes, everybody can handle"
