"""The suite as its users meet it: commands and queries through sidecars, one trace, dead letters."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest

from annals.web.paging import encode_cursor
from conftest import until
from suite import infra, profiles
from suite.suite import Suite
from system.conftest import TASK, open_to_the_network


async def test_a_command_becomes_an_event_and_is_answered_by_a_query(embedded: Suite, client: Any) -> None:
    task = await client.created()
    row = await client.shown(f"tasks/{task['id']}", task["position"])
    assert (row["id"], row["title"], row["status"], row["version"]) == (task["id"], TASK["title"], "todo", 1)


async def test_nothing_of_the_suite_listens_beyond_this_machine(embedded: Suite) -> None:
    """Anybody who can reach a sidecar may call any app, as any tenant."""
    assert open_to_the_network(embedded) == set()


async def test_one_trace_shows_the_whole_way(embedded: Suite, client: Any) -> None:
    task = await client.created()
    events = (await client.query(f"streams/{task['stream']}/events")).json()["items"]
    await client.shown(f"tasks/{task['id']}", task["position"])
    await until(lambda: client.whole_trace(events[0]["event_id"]))


async def test_a_repeated_command_takes_effect_once_through_the_sidecars(
    embedded: Suite, client: Any
) -> None:
    answers = await asyncio.gather(*(client.created(idempotency_key="the-same") for _ in range(10)))
    assert len({json.dumps(answer) for answer in answers}) == 1
    history = await client.query(f"streams/{answers[0]['stream']}/events")
    assert len(history.json()["items"]) == 1


async def test_errors_come_through_as_problem_details(embedded: Suite, client: Any) -> None:
    answer = await client.command("task.create", {"title": ""})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "title"


async def test_tasks_are_found_by_what_they_are(embedded: Suite, client: Any) -> None:
    tenant = {"x_tenant_id": "finders"}
    position = ""
    for number in range(7):
        data = {
            "title": f"Task {number}",
            "priority": "high" if number % 2 else "low",
            "tags": [f"t{number % 3}"],
        }
        answer = await client.command("task.create", data | {"id": f"task{number}"}, **tenant)
        position = answer.json()["position"]
    titles: list[str] = []
    page = await client.shown("tasks", position, tenant="finders", sort="-title", limit=3)
    while True:
        titles += [row["title"] for row in page["items"]]
        if page["next"] is None:
            break
        page = (
            await client.query("tasks", tenant="finders", sort="-title", limit=3, cursor=page["next"])
        ).json()
    assert titles == [f"Task {number}" for number in reversed(range(7))]
    high = (await client.query("tasks", tenant="finders", priority="high")).json()["items"]
    assert [row["title"] for row in high] == ["Task 1", "Task 3", "Task 5"]
    tagged = (await client.query("tasks", tenant="finders", tag="t0", text="task")).json()["items"]
    assert [row["id"] for row in tagged] == ["task0", "task3", "task6"]
    assert (await client.query("tasks", tenant="strangers")).json()["items"] == []
    assert (await client.query("tasks/task1", tenant="strangers")).status_code == 404


@pytest.mark.parametrize(
    ("path", "parameters", "field"),
    [
        ("tasks", {"limit": 0}, "limit"),
        ("tasks", {"sort": "colour"}, "sort"),
        ("tasks", {"due_from": "soon"}, "due_from"),
        ("tasks", {"cursor": "%%%"}, "cursor"),
        ("tasks", {"cursor": encode_cursor("created_at", "soon", "t1")}, "cursor"),
        ("audit", {"cursor": encode_cursor("2030-01-01T00:00:00Z", "\0")}, "cursor"),
        ("tasks", {"asignee": "ada"}, "asignee"),
        ("tasks", {"position": "there"}, "position"),
        ("streams/nonsense/events", {}, "stream"),
        ("streams/lamp-1/state", {}, "stream"),
    ],
)
async def test_a_bad_query_says_which_parameter(
    embedded: Suite, client: Any, path: str, parameters: dict[str, Any], field: str
) -> None:
    answer = await client.query(path, **parameters)
    assert answer.status_code == 400, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_time_may_have_any_offset(embedded: Suite, client: Any) -> None:
    """PostgreSQL itself accepts no offset of sixteen hours or more."""
    task = {"title": "Rise", "due": "2030-01-01T09:00:00+17:57", "tags": ["far east"]}
    position = (await client.command("task.create", task)).json()["position"]
    around = {"due_from": "2029-12-31T15:03:00Z", "due_to": "2030-01-01T09:00:01+17:57"}
    found = (await client.shown("tasks", position, tag="far east", **around))["items"]
    assert [task["due"] for task in found] == ["2029-12-31T15:03:00+00:00"]
    later = await client.query("tasks", tag="far east", due_from="2030-01-01T09:00:01+17:57")
    assert later.json()["items"] == []


async def test_the_past_can_be_seen(embedded: Suite, client: Any) -> None:
    task = await client.created()
    await client.command("task.assign", {"id": task["id"], "assignee": "ada"})
    done = (await client.command("task.complete", {"id": task["id"]}, x_user_id="ada")).json()
    await client.shown(f"tasks/{task['id']}", done["position"])
    states = [
        (await client.query(f"streams/{task['stream']}/state", version=version)).json()
        for version in (1, 2, 3)
    ]
    assert [(state["status"], state["assignee"]) for state in states] == [
        ("todo", None),
        ("todo", "ada"),
        ("done", "ada"),
    ]
    history = (await client.query(f"streams/{task['stream']}/events", backwards=True)).json()["items"]
    assert [event["event_type"] for event in history] == ["task.completed", "task.assigned", "task.created"]
    mine = (await client.query("events", type="task.completed", user="ada", stream=task["stream"])).json()[
        "items"
    ]
    assert [event["event_id"] for event in mine] == [history[0]["event_id"]]
    newest = (await client.query("events", stream=task["stream"], backwards=True, limit=2)).json()
    rest = await client.query("events", stream=task["stream"], backwards=True, cursor=newest["next"])
    found = [event["event_id"] for event in newest["items"] + rest.json()["items"]]
    assert found == [event["event_id"] for event in history]
    correlated = await client.query("events", correlation_id=history[0]["correlation_id"])
    assert history[0]["event_id"] in {event["event_id"] for event in correlated.json()["items"]}
    assert mine[0]["visible_at"] >= mine[0]["timestamp"].removesuffix("Z"), "queries saw it after it happened"


async def test_a_position_that_does_not_come_is_waited_for_only_so_long(embedded: Suite, client: Any) -> None:
    answer = await client.query("tasks", position="0-999999999")
    assert answer.status_code == 504
    assert answer.json()["type"].endswith("behind")


async def test_what_is_on_the_broker_alone_is_brought_for_ever(embedded: Suite) -> None:
    broker = await nats.connect(infra.Nats(embedded.home / ".annals" / "embedded", profiles.NATS_PORT).url)
    try:
        consumers = await broker.jetstream().consumers_info("annals")
    finally:
        await broker.close()
    for_ever = {one.name for one in consumers if one.config.max_deliver == -1}
    assert for_ever == {
        "notification-integration-events",
        "notification-dead-letters",
        "projector-dead-letters",
    }


async def test_an_unreadable_message_is_kept_edited_and_read_again(embedded: Suite, client: Any) -> None:
    url = infra.Nats(embedded.home / ".annals" / "embedded", profiles.NATS_PORT).url
    broker = await nats.connect(url)
    poison = {"specversion": "1.0", "id": "poison", "type": "x.y", "source": "t", "data": {"nonsense": True}}
    try:
        await broker.jetstream().publish("domain-events", json.dumps(poison).encode())
        await broker.jetstream().publish("projector.dead-letters", b"not even JSON")
    finally:
        await broker.close()

    async def both() -> list[dict[str, Any]]:
        answer = await client.operate("GET", "dead-letters")
        found = answer.json()["items"] if answer.status_code == 200 else []
        return found if len(found) == 2 else []

    letters = await until(both)
    assert {one["kind"] for one in letters} == {"raw"}
    details = [(await client.operate("GET", f"dead-letters/{one['id']}")).json() for one in letters]
    assert any('"nonsense"' in one["raw"] for one in details)
    task = await client.created()
    await client.shown(f"tasks/{task['id']}", task["position"])

    mended = next(one["id"] for one in details if "nonsense" in one["raw"])
    other = next(one["id"] for one in letters if one["id"] != mended)
    (event,) = (await client.query(f"streams/task-{task['id']}/events")).json()["items"]
    raw = json.dumps({**poison, "data": {n: v for n, v in event.items() if n not in ("stream", "position")}})
    edit = {"raw": raw, "reason": "the producer sent half of it"}
    assert (await client.operate("PUT", f"dead-letters/{mended}/data", json=edit)).status_code == 200
    reason = {"reason": "it is mended"}
    alike = {"group": next(one["group"] for one in letters if one["id"] == mended)}
    answer = await client.operate("POST", "dead-letters/groups/replay", json=reason | alike)
    assert (answer.status_code, answer.json()) == (202, {"released": 1})
    again = await client.operate("POST", "dead-letters/groups/replay", json=reason | {"group": "none"})
    assert again.status_code == 404
    assert (await client.operate("POST", f"dead-letters/{other}/discard", json=reason)).status_code == 200

    async def none() -> bool:
        answer = await client.operate("GET", "dead-letters")
        return answer.status_code == 200 and answer.json()["items"] == []

    await until(none)
    history = (await client.operate("GET", f"dead-letters/{mended}")).json()["history"]
    assert [one["action"] for one in history] == ["edited", "replayed"]
    assert history[0]["user"] == "ada"
    assert "nonsense" in history[0]["before"]
    assert (await client.operate("GET", "dead-letters/unheard-of")).status_code == 404
    refused = await client.operate("POST", f"dead-letters/{mended}/replay", json={})
    assert refused.json()["errors"] == [{"field": "reason", "expected": "Field required"}]


async def test_metrics_and_health_are_served(embedded: Suite, client: Any) -> None:
    await client.created()
    command = (await client.http.get("http://127.0.0.1:8001/metrics")).text
    assert 'annals_commands_total{outcome="done",type="task.create"}' in command
    assert "annals_publish_backlog_commits" in command
    projector = (await client.http.get("http://127.0.0.1:8002/metrics")).text
    assert "annals_projection_events_total" in projector

    async def positions() -> bool:
        text = (await client.http.get("http://127.0.0.1:8002/metrics")).text
        return 'annals_projection_position{generation="live",lane="0",read_model="tasks"}' in text

    await until(positions)
    for port in (8001, 8002):
        assert (await client.http.get(f"http://127.0.0.1:{port}/readyz")).json() == {"status": "ready"}


async def test_the_caller_is_the_first_to_let_go_of_an_idle_connection(embedded: Suite) -> None:
    # By default uvicorn closes a connection after five idle seconds, and a request that the sidecar sends at
    # that moment is lost.
    reader, writer = await asyncio.open_connection("127.0.0.1", 8001)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: command\r\n\r\n")
    await reader.readuntil(b"}")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(), 6)
    writer.close()


async def test_a_service_without_its_sidecar_says_what_is_missing(embedded: Suite, client: Any) -> None:
    sidecar = embedded.processes["projector-dapr"]
    sidecar.restart = False
    sidecar.kill()
    await sidecar.wait_exit()
    try:
        answer = await client.http.get("http://127.0.0.1:8002/readyz")
    finally:  # the other tests use the suite too
        await sidecar.start()
        await sidecar.wait_ready()
        sidecar.restart = True
    assert answer.status_code == 503
    assert "sidecar" in answer.json()["missing"]

    async def ready() -> bool:
        return (await client.http.get("http://127.0.0.1:8002/readyz")).status_code == 200

    await until(ready)


async def test_the_broker_away_for_a_while_loses_nothing(embedded: Suite, client: Any) -> None:
    broker = embedded.processes["nats"]
    broker.restart = False
    broker.kill()
    await broker.wait_exit()
    try:
        tasks = [await client.created() for _ in range(20)]
    finally:
        await broker.start()
        await broker.wait_ready()
        broker.restart = True
    for task in tasks:
        await client.shown(f"tasks/{task['id']}", task["position"])

    async def drained() -> bool:
        return (
            "annals_publish_backlog_commits 0.0"
            in (await client.http.get("http://127.0.0.1:8001/metrics")).text
        )

    await until(drained, 60)
