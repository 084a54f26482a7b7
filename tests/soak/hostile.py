"""What a service must refuse and survive: requests through sidecars and at the apps' ports, and messages."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nats

from annals.dapr import DaprError, DaprSidecar, Message
from soak.faults import TOKEN
from soak.load import NAMELESS, PORTS, TENANTS, Callers, problem_of

_APPS = {"command": 8001, "projector": 8002, "saga-orchestrator": 8003, "notification": 8004}
_JSON = {"content-type": "application/json"}
_PATIENCE_SECONDS = 60.0
"""Seconds for which an outage may explain that a request is not refused."""
_COMMAND = {"type": "task.create", "data": {"title": "hostile"}}
_DEEP = b"[" * 900 + b"]" * 900


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that must be refused with one of the statuses in `expected`."""

    app: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: _JSON)
    expected: frozenset[int] = frozenset({400})


def _bad(app: str, method: str, path: str, body: Any = b"", *expected: int, **headers: str) -> Bad:
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = _JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    return Bad(app, method, path, given, named, frozenset(expected or (400,)))


REQUESTS = (
    _bad("command", "POST", "commands/task.create", b"{not json"),
    _bad("command", "POST", "commands/task.create", b""),
    _bad("command", "POST", "commands/task.create", b"[1, 2]"),
    _bad("command", "POST", "commands/task.create", b"\xff\xfe\x00"),
    _bad("command", "POST", "commands/task.create", _DEEP),
    _bad("command", "POST", "commands/task.create", {"title": 7}),
    _bad("command", "POST", "commands/task.create", {"title": ""}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile \x00 title"}),
    _bad("command", "POST", "commands/task.create", b'{"title": "hostile \\ud800"}'),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "due": "yesterday"}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "due": "2030-01-01T00:00:00"}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "nobody": "knows this"}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "id": "a||b"}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "description": "x" * 3_000_000}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile", "tags": ["x" * 65]}),
    _bad("command", "POST", "commands/task.create", {"title": "hostile"}, x_tenant_id="../default"),
    _bad("command", "POST", "commands/task.create", {"title": "hostile"}, x_tenant_id="a" * 64),
    _bad("command", "POST", "commands/task.create", {"title": "hostile"}, idempotency_key="k" * 257),
    _bad("command", "POST", "commands/task.create", {"title": "hostile"}, if_match="three"),
    _bad("command", "POST", "commands/no.such", {}, 404),
    _bad("command", "POST", "commands", {"command_type": "task.create"}),
    _bad("command", "POST", "commands:batch", {"not": "an array"}),
    _bad("command", "POST", "commands:batch", []),
    _bad("command", "GET", "commands/task.create", b"", 404, 405),
    _bad("command", "POST", "commands/member.register", {"id": "x", "name": "hostile", "capacity": -1}),
    _bad("command", "POST", "commands/member.register", {"id": "x", "name": "hostile", "capacity": 10**30}),
    _bad("command", "POST", "commands/member.leave", {"id": "x", "successors": ["x"]}),
    _bad("projector", "GET", "queries/tasks/" + "x" * 500, b"", 400, 404),
    _bad("projector", "GET", "queries/tasks?limit=many"),
    _bad("projector", "GET", "queries/tasks?limit=-1"),
    _bad("projector", "GET", "queries/tasks?cursor=hostile"),
    _bad("projector", "GET", "queries/tasks?position=here"),
    _bad("projector", "GET", "queries/tasks?unheard=of"),
    _bad("projector", "GET", "queries/tasks?assignee=%00", b"", 400),
    _bad("projector", "GET", "queries/streams/task-x%27%3B/events", b"", 400, 404),
    _bad("projector", "GET", "queries/events?type=%00", b"", 400),
    _bad("projector", "GET", "queries/events?from=yesterday", b"", 400),
    _bad("saga-orchestrator", "POST", "sagas/task-handover", b"{"),
    _bad("saga-orchestrator", "POST", "sagas/task-handover", {"task_id": "x"}),
    _bad("saga-orchestrator", "POST", "sagas/task-handover?id=a/b", {"task_id": "x", "assignee": "y"}),
    _bad("saga-orchestrator", "POST", "sagas/task-handover", {"task_id": "x\x00", "assignee": "y"}),
    _bad("saga-orchestrator", "POST", "sagas/no-such", {}, 404),
    _bad("saga-orchestrator", "GET", "sagas/no-such", b"", 404),
    _bad("saga-orchestrator", "POST", "sagas/no-such/events/accept", b"", 404),
    _bad("saga-orchestrator", "POST", "sagas/no-such/cancel", b"[]", 400, 404),
    _bad("notification", "PUT", "preferences/ada", b"nothing"),
    _bad("notification", "PUT", "preferences/ada", {"timezone": "Mars/Olympus"}),
    _bad("notification", "PUT", "preferences/ada", {"email": "a@b\r\nBcc: c@d"}),
    _bad(
        "notification",
        "PUT",
        "recurrences/x",
        {"rule": "FREQ=SECONDLY", "command": {"type": "a.b", "data": {}}},
    ),
    _bad("notification", "PUT", "recurrences/x", {"rule": "hostile", "command": {"type": "a.b", "data": {}}}),
    _bad("notification", "POST", "events", {"event_type": "x"}),
    _bad("notification", "POST", "events", b'{"event_type": "soak.hostile", "data": {"x": %s}}' % _DEEP),
    _bad("notification", "PUT", "preferences/ada", {"email": "a\x00@b"}),
    _bad("notification", "PUT", "recurrences/x", {"command": _COMMAND | {"data": {"title": "\x00"}}}),
    _bad("saga-orchestrator", "POST", "sagas/no-such/events/accept", _DEEP, 400, 404),
    _bad("notification", "POST", "events", {"event_type": "soak.hostile", "data": {"n": 2**60}}),
    _bad("notification", "POST", "events", {"event_type": "soak.hostile", "data": {"user": "ada\x00"}}),
    _bad("notification", "GET", "deliveries?user=%00", b"", 400),
)

# Paths that only a sidecar may call. Without its token a request is refused; with it, the body is malformed.
_DELIVERIES = (
    *(
        (app, f"/events/{topic}")
        for app in ("projector", "notification")
        for topic in ("domain-events", "saga-events")
    ),
    ("saga-orchestrator", "/events/domain-events"),
    ("notification", "/events/integration-events"),
    ("notification", "/job/hostile"),
)
_DELIVERED = (
    *(body.encode() for body in NAMELESS),
    b"{hostile",
    b'{"entries": [{"hostile": 1}]}',
    b'{"entries": ["hostile"]}',
    b'{"kind": "hostile"}',
    b'{"data_base64": "*hostile*"}',
    json.dumps({"specversion": "1.0", "id": "hostile", "data": {"event_type": "hostile"}}).encode(),
    json.dumps({"entries": [{"entryId": "1", "event": {"data": "hostile"}}]}).encode(),
    json.dumps({"hostile": 1, "data_base64": base64.b64encode(b"hostile").decode()}).encode(),
)
_CLOUDEVENT = {"specversion": "1.0", "id": "hostile", "type": "task.created", "source": "hostile"}
_MESSAGES = (
    b"hostile: not even JSON",
    b'"hostile"',
    json.dumps(
        {"specversion": "1.0", "id": "hostile-1", "type": "task.created", "source": "hostile"}
    ).encode(),
    json.dumps(
        {
            "specversion": "1.0",
            "id": "hostile-2",
            "type": "task.created",
            "source": "hostile",
            "data": {"event_type": "task.created", "tenant_id": 7, "version": "one"},
        }
    ).encode(),
)


class Hostile:
    """A caller that sends one bad thing after another."""

    def __init__(self, callers: Callers, broker: str, dice: random.Random, stop: asyncio.Event) -> None:
        self._callers = callers
        self._broker = broker
        self._dice = dice
        self._stop = stop

    async def run(self) -> None:
        """Send bad things at random until told to stop; then send each of them once."""
        deeds = [*REQUESTS, *_DELIVERIES, *_MESSAGES]
        while not self._stop.is_set():
            await self._do(self._dice.choice(deeds))
            await asyncio.sleep(0.2)
        await asyncio.gather(*map(self._do, deeds))

    async def _do(self, deed: Bad | tuple[str, str] | bytes) -> None:
        self._callers.ledger.hostile += 1
        match deed:
            case Bad():
                await self.refused(deed)
            case bytes():
                await self._publish(deed)
            case (app, path):
                await self._deliver(app, path, self._dice.choice(_DELIVERED))

    async def refused(self, bad: Bad) -> None:
        """Send a request until it is refused; the failures of an outage do not count as refusals."""
        url = f"http://127.0.0.1:{PORTS[bad.app]}/v1.0/invoke/{bad.app}/method/{bad.path}"
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = await self._callers.once(bad.method, url, bad.headers, content=bad.body)
            late = time.monotonic() > patience
            if answer is not None and (answer.status_code < 500 or late or problem_of(answer) == "internal"):
                break
            await asyncio.sleep(0.3)
        if answer.status_code not in bad.expected:
            text = f"{bad.method} {bad.app}/{bad.path} {bad.body[:60]!r}: {answer.status_code}"
            self._callers.ledger.wrong.append(("not refused", f"{text} {answer.text[:200]}"))

    async def _deliver(self, app: str, path: str, body: bytes) -> None:
        """Post straight to an app's port, as its sidecar does, first without its token, then with it."""
        for headers, tolerated in ((_JSON, {401}), ({**_JSON, "dapr-api-token": TOKEN}, {200, 400})):
            url = f"http://127.0.0.1:{_APPS[app]}{path}"
            answer = await self._callers.once("POST", url, headers, content=body)
            if answer is None or answer.status_code == 503:
                continue
            if answer.status_code not in tolerated:
                text = f"{url} {body[:60]!r}: {answer.status_code} {answer.text[:200]}"
                self._callers.ledger.wrong.append(("not refused", text))

    async def _publish(self, body: bytes) -> None:
        """Publish a message through a sidecar that may publish on its topic, and directly on the broker."""
        topic = self._dice.choice(("domain-events", "integration-events"))
        sidecar = DaprSidecar(13501 if topic == "domain-events" else 13504)
        try:
            kind = self._dice.choice(("application/cloudevents+json", "application/json", "text/plain"))
            await sidecar.publish(topic, [Message("hostile", body, kind, {})])
        except DaprError:
            pass  # refused, or the sidecar is down
        finally:
            await sidecar.close()
        try:
            client = await nats.connect(self._broker, connect_timeout=2, allow_reconnect=False)
        except (OSError, TimeoutError, nats.errors.Error):
            return
        try:
            await client.jetstream().publish(topic, body)
        except (TimeoutError, nats.errors.Error):
            pass
        finally:
            await client.close()


async def of_another_tenant(callers: Callers, tenant: str, task: str, saga: str | None) -> None:
    """Check that what one tenant has does not exist for another."""
    other = next(one for one in TENANTS if one != tenant)
    wrong = callers.ledger.wrong
    for kind, data in (("task.complete", {}), ("task.assign", {"assignee": f"{other}-eve"})):
        told = await callers.command(other, kind, id=task, **data)
        if told.answer.status != 404:
            wrong.append(("other tenant", f"{kind} {task} of {tenant}: {told.answer.status}"))
    asked = [
        ("projector", "GET", f"queries/tasks/{task}"),
        ("projector", "GET", f"queries/streams/task-{task}/events"),
    ]
    if saga is not None:
        asked += [
            ("saga-orchestrator", "GET", f"sagas/{saga}"),
            ("saga-orchestrator", "POST", f"sagas/{saga}/cancel"),
        ]
    for app, method, path in asked:
        answer = await callers.ask(app, method, path, other)
        if answer.status != 404 and not (answer.done and answer.body.get("items") == []):
            wrong.append(("other tenant", f"{path} of {tenant}: {answer.status} {answer.body}"))
