"""Errors to plant in stored data or in a service, so that the checker shows that it finds them.

The services contain none of this. Tables and topics are altered from outside; a service is altered by a
`sitecustomize.py`, which its Python runs before anything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import nats

from soak.evidence import Evidence

STORED: Mapping[str, str] = {
    "lost": "lost",
    "doubled": "doubled",
    "reordered": "reordered",
    "half-saga": "half saga",
    "stale-read-model": "stale read model",
    "reminder": "reminder lost",
    "tenant": "other tenant",
}
"""Each error planted in stored data, and the kind of violation that shows it."""

_FORGETS_KEYS = '''
"""A command service that forgets which idempotency keys it has seen."""
from dataclasses import replace
from annals.store import DaprEventStore
append, load = DaprEventStore.append, DaprEventStore.load
async def append_without_key(self, one):
    return await append(self, replace(one, command_id=None))
async def load_without_key(self, stream, command_id=None, *, certain=False):
    return await load(self, stream, None, certain=certain)
DaprEventStore.append, DaprEventStore.load = append_without_key, load_without_key
'''
_TAKES_NOTHING_BACK = '''
"""An orchestrator that says that it gave places back, and did not."""
from annals.dapr import ServiceInvocation
from annals.dapr.invocation import Answer
invoke = ServiceInvocation.invoke
async def invoke_but_for_releases(self, app, method, path, **given):
    if path == "commands/member.release":
        return Answer(200, {"id": "", "stream": "", "version": 0, "position": "0-0"})
    return await invoke(self, app, method, path, **given)
ServiceInvocation.invoke = invoke_but_for_releases
'''
_PASSES_OVER = '''
"""A projector that passes assignments over: it says that it has them, and does not write them."""
from annals.projections import Patch
from annals_projector.read_models import TASKS
TASKS.changes["task.assigned"] = lambda _: Patch({})
'''
BROKEN: Mapping[str, tuple[str, str, frozenset[str]]] = {
    "forgetful-command": ("command", _FORGETS_KEYS, frozenset({"doubled", "answered differently"})),
    "careless-saga": ("saga-orchestrator", _TAKES_NOTHING_BACK, frozenset({"half saga"})),
    # A hand-over asks a read model for the previous assignee, and frees no place of an assignee it does not
    # see.
    "careless-projector": ("projector", _PASSES_OVER, frozenset({"stale read model", "half saga"})),
}
"""For each plant, the service, the code that alters it, and the kinds of violation that may show it."""


def shown_by(plant: str) -> frozenset[str]:
    """Return the kinds of violation that show a plant."""
    return frozenset({STORED[plant]}) if plant in STORED else BROKEN[plant][2]


def patched(plant: str, directory: Path) -> dict[str, Path]:
    """Write the `sitecustomize.py` of a plant that alters a service; return its directory by service.

    Return an empty mapping for any other plant.
    """
    if plant not in BROKEN:
        return {}
    service, code, _ = BROKEN[plant]
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    return {service: directory}


async def plant_stored(plant: str, dsn: str, broker: str, evidence: Evidence) -> None:
    """Alter what is stored."""
    tasks = [stream for stream in evidence.streams if stream[1].startswith("task-")]
    tenant, name = next(stream for stream in tasks if len(evidence.streams[stream]) > 1)
    connection = await asyncpg.connect(dsn)
    try:
        match plant:
            case "lost":
                last = f"stream/{tenant}/{name}/{max(evidence.streams[tenant, name])}"
                await connection.execute("DELETE FROM annals_state WHERE key = $1", last)
            case "doubled":
                events = evidence.streams[tenant, name]
                again = {**events[1], "version": len(events) + 1, "seq": 0}
                await connection.execute(
                    "INSERT INTO annals_state (key, value, etag) VALUES ($1, $2, gen_random_uuid())",
                    f"stream/{tenant}/{name}/{len(events) + 1}",
                    json.dumps(again).encode(),
                )
            case "half-saga":
                saga = next(stream for stream in evidence.streams if stream[1].startswith("saga-"))
                last = f"stream/{saga[0]}/{saga[1]}/{max(evidence.streams[saga])}"
                await connection.execute("DELETE FROM annals_state WHERE key = $1", last)
            case "stale-read-model":
                live = await connection.fetchval(
                    "SELECT number FROM readmodels.generations WHERE read_model = 'tasks' AND status = 'live'"
                )
                await connection.execute(f"UPDATE readmodels.tasks_{live} SET version = version - 1")
            case "reminder":
                await connection.execute("DELETE FROM notifications.deliveries WHERE kind = 'reminder.due'")
            case "tenant":
                await connection.execute("UPDATE notifications.deliveries SET tenant = 'acme'")
            case "reordered":
                await _publish_first(broker, evidence.streams[tenant, name][1])
    finally:
        await connection.close()


async def _publish_first(broker: str, event: Mapping[str, object]) -> None:
    """Reorder a stream: delete the message of its first event and publish it again, after the others."""
    client = await nats.connect(broker)
    try:
        stream = client.jetstream()
        messages = await stream.stream_info("annals")
        for seq in range(messages.state.first_seq, messages.state.last_seq + 1):
            message = await stream.get_msg("annals", seq)
            if message.data and json.loads(message.data).get("id") == event["event_id"]:
                await stream.delete_msg("annals", seq)
                await stream.publish(message.subject or "", message.data)
                return
    finally:
        await client.close()
