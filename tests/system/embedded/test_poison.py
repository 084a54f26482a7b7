"""One poisoned stream among a thousand under load, and services killed at the worst moments."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

import httpx

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, StreamId
from annals.store import Append, DaprEventStore
from conftest import until
from suite.suite import Suite
from system.conftest import COMMAND

STREAMS = 1_000
BATCH = 100
NONSENSE = {"title": "x", "due": "no time at all"}
"""Data that the database refuses, and with it every statement that contains it."""


async def poison(suite: Suite) -> str:
    """Write a task whose first event no read model can take, followed by two good events."""
    sidecar = DaprSidecar(next(app.ports.grpc for app in suite.apps if app.app_id == "command"))
    store = DaprEventStore(sidecar, owner="poisoner")
    running = asyncio.create_task(store.run())
    task = f"poison-{uuid.uuid4()}"
    kinds = (
        ("task.created", NONSENSE),
        ("task.assigned", {"assignee": "ada", "previous": None}),
        ("task.completed", {"by": "ada"}),
    )
    for version, (kind, data) in enumerate(kinds):
        event = DomainEvent(
            event_type=kind, source="test", aggregate_type="task", aggregate_id=task, data=data
        )
        while True:
            with contextlib.suppress(Exception):
                await store.append(Append(StreamId("default", f"task-{task}"), (event,), version))
                break
            await asyncio.sleep(0.1)
    await store.drain()
    await running
    await sidecar.close()
    return task


async def load(client: Any) -> list[str]:
    """Create and assign a thousand tasks in concurrent batches; return their ids."""
    ids = [f"t-{uuid.uuid4()}" for _ in range(STREAMS)]

    async def send(own: list[str]) -> None:
        for kind, data in (("task.create", {"title": "x"}), ("task.assign", {"assignee": "bob"})):
            items = [
                {"type": kind, "data": {"id": one, **data}, "idempotency_key": f"{kind}{one}"} for one in own
            ]

            async def taken(items: list[dict[str, Any]] = items) -> bool:
                """Return whether all items were taken. If a busy machine refuses some, all are sent again."""
                answer = await client.http.post(f"{COMMAND}/commands:batch", json=items)
                if answer.status_code >= 500:
                    return False
                assert answer.status_code == 200, answer.text
                refused = [one for one in answer.json()["results"] if one["status"] >= 300]
                assert all(one["status"] == 503 for one in refused), refused
                return not refused

            await until(taken, seconds=60)

    await asyncio.gather(*(send(ids[start : start + BATCH]) for start in range(0, STREAMS, BATCH)))
    return ids


async def letters(client: Any) -> list[dict[str, Any]]:
    answer = await client.operate("GET", "dead-letters")
    return list(answer.json()["items"]) if answer.status_code == 200 else []


async def test_a_poisoned_stream_is_parked_alone_and_replayed_though_its_service_is_killed(
    embedded: Suite, client: Any
) -> None:
    ids, poisoned = await asyncio.gather(load(client), poison(embedded))

    async def all_there() -> bool:
        answer = await client.operate("GET", "projections")
        return answer.status_code == 200 and answer.json()["lag"] == 0 and bool(await letters(client))

    await until(all_there, seconds=60)
    parked = await letters(client)
    assert [one["stream"] for one in parked] == [f"task-{poisoned}"], "one stream, and no other"
    (letter,) = parked
    assert (letter["version"], letter["consumer"]) == (1, "tasks")
    for one in ids[:: STREAMS // 50]:
        row = (await client.query(f"tasks/{one}")).json()
        assert (row["version"], row["assignee"]) == (2, "bob")
    assert (await client.query(f"tasks/{poisoned}")).status_code == 404
    detail = (await client.operate("GET", f"dead-letters/{letter['id']}")).json()
    assert detail["waiting"] == 3
    # What follows is parked with it, while new events of other streams are applied.
    assert (await client.command("task.complete", {"id": ids[0]})).status_code == 200

    path = f"dead-letters/{letter['id']}"
    tried = (await client.operate("POST", f"{path}/dry-run")).json()
    assert (tried["would"], tried["reason"]) == ("fail", "the database does not take the row")
    mended = {"title": "Mended", "priority": "high", "tags": [], "due": None, "description": None}
    edited = await client.operate("PUT", f"{path}/data", json={"data": mended, "reason": "it had no title"})
    assert edited.status_code == 200, edited.text
    assert (await client.operate("POST", f"{path}/dry-run")).json()["would"] == "apply"
    released = await client.operate("POST", f"{path}/replay", json={"reason": "mended"})
    assert released.status_code == 202, released.text
    embedded.processes["projector"].kill()

    async def replayed() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            found = await client.query(f"tasks/{poisoned}")
            return found.status_code == 200 and found.json()["version"] == 3 and not await letters(client)
        return False

    await until(replayed, seconds=60)
    row = (await client.query(f"tasks/{poisoned}")).json()
    assert (row["title"], row["assignee"], row["status"]) == ("Mended", "ada", "done")
    event = (await client.query(f"streams/task-{poisoned}/events", limit=1)).json()["items"][0]
    assert event["data"] == NONSENSE, "the event itself stays as it is"


async def test_a_kill_during_a_rebuild_and_a_switch_costs_time_and_no_answer(
    embedded: Suite, client: Any
) -> None:
    await load(client)
    asked = {"reason": "killed half-way", "throttle": 50}
    number = (await client.operate("POST", "projections/tasks/rebuild", json=asked)).json()["number"]
    path = f"projections/tasks/generations/{number}"

    async def half_way() -> bool:
        answer = await client.operate("GET", path)
        if answer.status_code != 200:
            return False
        commits = answer.json()["commits"]
        return bool(0 < commits["done"] < commits["total"])

    await until(half_way)
    embedded.processes["projector"].kill()

    async def caught_up() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.operate("GET", path)
            return answer.status_code == 200 and bool(answer.json()["caught_up"])
        return False

    async def unthrottled() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.operate("PUT", f"{path}/throttle", json={"throttle": None})
            return bool(answer.status_code == 200)
        return False

    await until(unthrottled, seconds=60)
    await until(caught_up, seconds=60)

    async def same() -> bool:
        """Return whether old and new rows agree; the old table, too, may still lack the latest events."""
        answer = await client.operate("GET", f"{path}/difference")
        if answer.status_code != 200:
            return False
        found = answer.json()
        return (found["only_old"], found["only_new"], found["differing"]) == (0, 0, 0)

    await until(same, what="both to have the same rows")

    switching = asyncio.create_task(client.operate("POST", f"{path}/switch"))
    await asyncio.sleep(0)
    embedded.processes["projector"].kill()
    with contextlib.suppress(httpx.HTTPError):
        await switching

    async def answers() -> list[dict[str, Any]]:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.operate("GET", "projections")
            if answer.status_code == 200 and (await client.query("tasks", limit=1)).status_code == 200:
                return list(answer.json()["items"])
        return []

    models = await until(answers, seconds=60)
    generations = next(one["generations"] for one in models if one["name"] == "tasks")
    assert sum(one["status"] == "live" for one in generations) == 1, "the old one or the new one"
    assert (await client.operate("POST", f"{path}/switch")).status_code == 200
    live = (await client.operate("GET", path)).json()
    assert live["status"] == "live"
