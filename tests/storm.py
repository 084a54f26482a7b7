"""Load on a running suite while its processes are killed, and an independent look at what is left.

The checker shares no code with the services: it reads the state store's table, the broker's
stream and the read models' tables themselves.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import nats

from suite.suite import Suite

COMMAND = "http://127.0.0.1:3501/v1.0/invoke/command/method/commands"


@dataclass
class Acknowledged:
    """What the callers were told: idempotency key to the answer."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)


async def send(
    client: httpx.AsyncClient, acknowledged: Acknowledged, kind: str, data: dict[str, Any]
) -> dict[str, Any]:
    """Send one command until it is acknowledged, always with the same key, as a caller should."""
    key = str(uuid.uuid4())
    while True:
        try:
            answer = await client.post(f"{COMMAND}/{kind}", json=data, headers={"Idempotency-Key": key})
            body = answer.json()
        except (httpx.HTTPError, ValueError):
            # No reply, or one that broke off: a sidecar passes on the status of a service that
            # dies before its body. Neither says anything.
            acknowledged.attempts[0] += 1
            await asyncio.sleep(0.1)
            continue
        acknowledged.attempts[answer.status_code] += 1
        if answer.status_code in (200, 201):
            acknowledged.answers[key] = body
            return dict(body)
        if answer.status_code < 500:
            raise AssertionError(f"{kind} {data}: {answer.status_code} {answer.text}")
        await asyncio.sleep(0.1)


async def load(acknowledged: Acknowledged, stop: asyncio.Event, clients: int) -> None:
    """Clients that create tasks and lead each through a few changes, until told to stop."""

    async def one_client(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            task = await send(client, acknowledged, "task.create", {"title": "under load"})
            await send(client, acknowledged, "task.assign", {"id": task["id"], "assignee": "ada"})
            await send(client, acknowledged, "task.complete", {"id": task["id"]})

    async with httpx.AsyncClient(timeout=15, limits=httpx.Limits(max_connections=clients)) as client:
        await asyncio.gather(*(one_client(client) for _ in range(clients)))


async def storm(suite: Suite, *, victims: list[str], kills: int, seed: int, clients: int = 8) -> Acknowledged:
    """Load, with a kill every now and then; everything is back up at the end."""
    dice = random.Random(seed)
    acknowledged, stop = Acknowledged(), asyncio.Event()
    loading = asyncio.create_task(load(acknowledged, stop, clients))
    try:
        for _ in range(kills):
            await asyncio.sleep(dice.uniform(0.3, 2.0))
            name = dice.choice(victims)
            await asyncio.gather(*(process.wait_ready() for process in suite.processes.values()))
            suite.processes[name].kill()
            await suite.processes[name].wait_exit()
            if loading.done():
                break
        await asyncio.gather(*(process.wait_ready() for process in suite.processes.values()))
        stop.set()
        async with asyncio.timeout(90):
            await loading
    finally:
        loading.cancel()
    return acknowledged


@dataclass
class Stored:
    """What the state store holds."""

    streams: dict[str, dict[int, dict[str, Any]]]
    lanes: dict[int, dict[int, dict[str, Any]]]


async def read_store(dsn: str) -> Stored:
    """Read every event and every log entry from the table itself."""
    streams: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    lanes: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    connection = await asyncpg.connect(dsn)
    try:
        for row in await connection.fetch("SELECT key, value FROM annals_state"):
            kind, *rest = row["key"].split("/")
            if kind == "log":
                lanes[int(rest[0])][int(rest[1])] = json.loads(row["value"])
            elif kind == "stream" and rest[-1] != "head":
                streams["/".join(rest[:-1])][int(rest[-1])] = json.loads(row["value"])
    finally:
        await connection.close()
    return Stored(streams, lanes)


async def read_settled_store(dsn: str) -> Stored:
    """Read the store once every task that was completed has had its saga, and that has ended."""
    async with asyncio.timeout(120):
        while True:
            stored = await read_store(dsn)
            if all(name in stored.streams and _ended(stored.streams[name]) for name in _sagas(stored)):
                return stored
            await asyncio.sleep(0.5)


def _sagas(stored: Stored) -> set[str]:
    """The streams of the sagas that completed tasks started, and of any others."""
    triggered = {
        f"default/saga-capacity-release-{event['event_id']}"
        for events in stored.streams.values()
        for event in events.values()
        if event["event_type"] == "task.completed" and event["data"]["assignee"]
    }
    return triggered | {name for name in stored.streams if "/saga-" in name}


def _ended(events: dict[int, dict[str, Any]]) -> bool:
    return events[max(events)]["event_type"] == "saga.completed"


def check_store(stored: Stored, acknowledged: Acknowledged) -> None:
    """Every acknowledged command exactly once; streams and lanes without holes, and agreeing."""
    by_command = Counter(
        event["causation_id"]
        for name, events in stored.streams.items()
        for event in events.values()
        if "/saga-" not in name
    )
    lost = [key for key in acknowledged.answers if key not in by_command]
    assert not lost, f"{len(lost)} acknowledged commands are not in the store"
    assert not [key for key, count in by_command.items() if count > 1], "a command took effect twice"
    for key, answer in acknowledged.answers.items():
        event = stored.streams[f"default/{answer['stream']}"][answer["version"]]
        assert event["causation_id"] == key
        assert f"{event['lane']}-{event['seq']}" == answer["position"]
    for name, events in stored.streams.items():
        assert sorted(events) == list(range(1, len(events) + 1)), f"{name} has holes"
    logged = set()
    for lane, commits in stored.lanes.items():
        assert sorted(commits) == list(range(1, len(commits) + 1)), f"lane {lane} has holes"
        for commit in commits.values():
            span = range(commit["first"], commit["last"] + 1)
            logged |= {(f"{commit['tenant']}/{commit['stream']}", version) for version in span}
    assert logged == {(name, version) for name, events in stored.streams.items() for version in events}


async def published(url: str, stored: Stored) -> list[dict[str, Any]]:
    """Every message of the topics, once each stored event is there: the publishers follow behind."""
    wanted = {event["event_id"] for events in stored.streams.values() for event in events.values()}
    async with asyncio.timeout(60):
        while True:
            messages = await read_topic(url)
            missing = wanted - {message["id"] for message in messages}
            if not missing:
                return messages
            await asyncio.sleep(0.5)


async def read_topic(url: str) -> list[dict[str, Any]]:
    """Every message of the topics of domain and saga events, each in the broker's order."""
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        messages = []
        for topic in ("domain-events", "saga-events"):
            info = await stream.stream_info("annals", subjects_filter=topic)
            left = (info.state.subjects or {}).get(topic, 0)
            consumer = await stream.subscribe(topic, ordered_consumer=True)
            messages += [json.loads((await consumer.next_msg(timeout=10)).data) for _ in range(left)]
        return messages
    finally:
        await client.close()


def check_topic(messages: list[dict[str, Any]], stored: Stored) -> None:
    """Every stored event was published, and each stream's first publications are in its order."""
    published: dict[str, list[int]] = defaultdict(list)
    seen = set()
    for message in messages:
        if message["id"] not in seen:
            seen.add(message["id"])
            event = message["data"]
            published[f"{event['tenant_id']}/{event['aggregate_type']}-{event['aggregate_id']}"].append(
                event["version"]
            )
    for name, events in stored.streams.items():
        assert published[name] == sorted(events), f"{name} was published as {published[name]}"


_ROWS = """
SELECT 'task-' || id AS stream, version FROM readmodels.tasks UNION ALL
SELECT 'member-' || id, version FROM readmodels.members UNION ALL
SELECT 'saga-' || id, version FROM readmodels.sagas"""


async def check_read_models(dsn: str, stored: Stored) -> None:
    """Wait until the read models are where the store is, then compare every task."""
    connection = await asyncpg.connect(dsn)
    try:
        wanted = {name.removeprefix("default/"): max(events) for name, events in stored.streams.items()}
        rows: dict[str, int] = {}
        indexed = 0
        total = sum(len(events) for events in stored.streams.values())
        async with asyncio.timeout(60):
            while rows != wanted or indexed != total:
                found = await connection.fetch(_ROWS)
                rows = {row["stream"]: row["version"] for row in found}
                indexed = await connection.fetchval("SELECT count(*) FROM readmodels.event_index")
                await asyncio.sleep(0.2)
        states = {1: ("todo", None), 2: ("todo", "ada"), 3: ("done", "ada")}
        for row in await connection.fetch("SELECT id, version, status, assignee FROM readmodels.tasks"):
            assert row["version"] == wanted[f"task-{row['id']}"]
            assert (row["status"], row["assignee"]) == states[row["version"]]
    finally:
        await connection.close()
