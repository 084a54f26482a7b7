"""The audit trail of a running suite: searched, exported, verified."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson

from annals.dapr import DaprError, DaprSidecar
from conftest import until
from suite.suite import Suite


async def test_who_did_what_from_where_is_found_and_exported(embedded: Suite, client: Any) -> None:
    trail = {"x_user_id": "=grace", "x_session_id": "s-1", "x_forwarded_for": "203.0.113.7, 10.0.0.1"}
    ids = [(await client.created(**trail))["id"] for _ in range(3)]
    last = await client.created(**trail)
    by_app = await client.created(x_user_id="=grace")
    asked = {"user": "=grace", "client": "203.0.113.7"}
    found = (await client.shown("audit", by_app["position"], **asked))["items"]
    assert [entry["stream"] for entry in found] == [f"task-{one}" for one in [last["id"], *reversed(ids)]]
    entry = found[0]
    assert (entry["type"], entry["session"], entry["source"]) == ("task.created", "s-1", "command")
    assert entry["position"] == last["position"]
    assert len(entry["trace_id"]) == 32
    assert (await client.query("audit", trace_id=entry["trace_id"])).json()["items"] == [entry]
    assert (await client.query("audit", user="=grace", tenant="acme")).json()["items"] == []
    page = (await client.query("audit", user="=grace", limit=3)).json()
    rest = (await client.query("audit", user="=grace", limit=3, cursor=page["next"])).json()
    assert len(page["items"]) + len(rest["items"]) == 5
    assert rest["next"] is None

    lines = (await client.query("audit/export", user="=grace")).text.splitlines()
    assert orjson.loads(lines.pop()) == {"end": {"entries": 5}}
    assert [orjson.loads(line)["stream"] for line in lines][:3] == [f"task-{one}" for one in ids]
    table = (await client.query("audit/export", user="=grace", format="csv")).text
    *rows, end = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 5
    assert (end["time"], end["user"]) == ("end", "5")
    assert rows[0]["user"] == "'=grace", "a spreadsheet must not run it"
    wrong = await client.query("audit/export", format="xml")
    assert wrong.status_code == 400
    assert "format" in wrong.text


async def test_a_call_from_another_app_names_it_or_whom_it_calls_for(embedded: Suite, client: Any) -> None:
    through = "http://127.0.0.1:3502/v1.0/invoke/command/method/commands/task.create"
    found = []
    for headers in ({}, {"x-forwarded-for": "203.0.113.7, 10.0.0.1"}):
        made = (await client.http.post(through, json={"title": "x"}, headers=headers)).json()
        trail = await client.shown("audit", made["position"], stream=made["stream"])
        found.append(trail["items"][0]["client"])
    assert found == ["projector", "203.0.113.7"]


async def test_what_an_operator_does_is_recorded_with_the_reason(embedded: Suite, client: Any) -> None:
    asked = await client.operate("POST", "projections/members/rebuild", json={"reason": "to see how"})
    assert asked.status_code == 202

    async def recorded() -> Any:
        for entry in await client.items("audit", type="operation.requested"):
            event = (await client.query(f"events/{entry['event_id']}")).json()
            if event["data"]["reason"] == "to see how":
                return entry, event
        return None

    entry, event = await until(recorded)
    assert entry["user"] == "ada"
    assert event["data"] == {
        "service": "projector",
        "action": "rebuild",
        "target": "members",
        "reason": "to see how",
    }


async def answers(client: Any) -> bool:
    """Return whether the sidecar has noticed that its app is back."""
    return bool((await client.command("task.create", {"title": "x"})).status_code == 201)


async def test_what_cannot_be_recorded_is_not_done(embedded: Suite, client: Any) -> None:
    before = (await client.operate("GET", "projections")).json()["items"]
    await embedded.processes["command"].stop()
    try:
        refused = await client.operate("POST", "projections/tasks/rebuild", json={"reason": "unrecorded"})
    finally:
        await embedded.processes["command"].start()
        await embedded.processes["command"].wait_ready()
        await until(lambda: answers(client))
    assert refused.status_code == 503
    after = (await client.operate("GET", "projections")).json()["items"]
    assert [len(one["generations"]) for one in after] == [len(one["generations"]) for one in before]


async def test_the_store_of_a_running_suite_verifies_and_says_what_is_signed(
    embedded: Suite, client: Any
) -> None:
    await client.created()
    answer = await client.operate("GET", "audit/verification")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [orjson.loads(line) for line in answer.text.splitlines()]
    result = lines[-1]["result"]
    assert result["ok"], result
    assert result["events"] > 0
    assert lines[0]["progress"]["of"] >= lines[0]["progress"]["seq"]


async def test_no_service_reads_credentials_through_its_sidecar(embedded: Suite) -> None:
    for app in embedded.apps:
        sidecar = DaprSidecar(app.ports.grpc)
        allowed = []
        for store, name in (
            ("secretstore", "postgres"),
            ("signing-keys", "audit-signing-key"),
            ("shared-keys", "audit-public-keys"),
        ):
            try:
                await sidecar.secret(store, name)
            except DaprError:
                continue
            allowed.append(store)
        await sidecar.close()
        expected = {
            "command": ["signing-keys", "shared-keys"],
            "projector": ["shared-keys"],
            "notification": [],
            "saga-orchestrator": [],
            "console": [],
        }
        assert allowed == expected[app.app_id], app.app_id
