"""Notifications as people and systems meet them: live streams, inbox, webhook, e-mail, reminders."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import httpx
import psutil
import pytest
import websockets
from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from annals.events import IntegrationEvent, new_id, to_cloudevent_json
from annals.free_ports import free_port
from conftest import running, until
from suite import infra, profiles
from suite.manifest import App
from suite.process import Spec
from suite.sidecar import SidecarPorts
from suite.suite import Suite
from system.conftest import Client, in_topics

THROUGH_SIDECAR = "http://127.0.0.1:3504/v1.0/invoke/notification/method"
DIRECT = "http://127.0.0.1:8004"
SECRET = "a-secret-of-enough-length"


class NotifyingSuite(Suite):
    """The suite with short waits, and with webhooks to this machine allowed."""

    def _service(self, app: App) -> Spec:
        spec = super()._service(app)
        if app.app_id != "notification":
            return spec
        quick = {
            "ANNALS_WEBHOOK_ALLOW_PRIVATE": "true",
            "ANNALS_STREAM_BUFFER": "2000",
            "ANNALS_DELIVERY_RETRY_SECONDS": "[0.2, 0.2]",
            "ANNALS_REMIND_BEFORE": '["PT2S", "PT0S"]',
        }
        return replace(spec, env={**spec.env, **quick})


@pytest.fixture(scope="module")
async def notifying(
    no_traces: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NotifyingSuite]:
    home = tmp_path_factory.mktemp("notifying")
    async with NotifyingSuite("embedded", home=home, config=no_traces) as suite:
        yield suite


class Mails(Message):
    """The mailbox of a real SMTP server."""

    def __init__(self) -> None:
        super().__init__(EmailMessage)
        self.received: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.received.append(message)


@pytest.fixture
def mails() -> Any:
    handler = Mails()
    server = Controller(handler, hostname="127.0.0.1", port=11025)
    server.start()
    yield handler
    server.stop()


class Hook:
    """A webhook's receiver, which answers as it is told."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []

    async def run(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/hook", self._receive)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        yield
        await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        return web.Response(status=self.answers.pop(0) if self.answers else 204)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    receiving = hook.run()
    await anext(receiving)
    yield hook
    await anext(receiving, None)


class Notifications:
    """Calls the notification service as a user does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, method: str, path: str, body: object = None, **parameters: str) -> httpx.Response:
        tenant = parameters.pop("tenant", "default")
        return await self.client.http.request(
            method,
            f"{THROUGH_SIDECAR}/{path}",
            json=body,
            params=parameters,
            headers={"x-tenant-id": tenant},
        )

    async def items(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        """Return what is listed, or nothing if the call fails now. For use with `until`."""
        answer = await self.call("GET", path, **parameters)
        return list(answer.json()["items"]) if answer.status_code == 200 else []

    async def inbox(self, user: str, at_least: int = 1, kind: str = "") -> list[dict[str, Any]]:
        """Return a user's inbox once it holds enough notices."""

        async def there() -> list[dict[str, Any]] | None:
            items = await self.items(f"inbox/{user}")
            found = [item for item in items if item["kind"].startswith(kind)]
            return found if len(found) >= at_least else None

        return list(await until(there, what=f"{at_least} in the inbox of {user}"))

    async def assigned(self, user: str) -> str:
        """Create a task, assign it to a user and return its id."""
        task = (await self.client.created())["id"]
        await self.client.command("task.assign", {"id": task, "assignee": user})
        return str(task)

    async def rings(self, kind: str, name: str) -> None:
        """Ring the alarm of something now."""
        job = {"kind": kind, "tenant": "default", "id": name}
        assert (await self.client.http.post(f"{DIRECT}/job/again", json=job)).status_code == 200

    async def pause(self, value: str | None) -> None:
        """Set whether e-mails and webhooks are held back, and wait until the service follows."""
        answer = await self.call("PUT", "settings/paused", {"value": value, "reason": "to see"})
        assert answer.status_code == 202, answer.text

        async def followed() -> bool:
            values = {one["key"]: one["value"] for one in await self.items("settings")}
            return values.get("notification.paused") is (value == "true")

        await until(followed)

    async def ended(self, user: str, channel: str) -> dict[str, Any]:
        """Return the one delivery to a user over a channel once it was sent or given up."""

        async def there() -> dict[str, Any] | None:
            items = await self.items("deliveries", user=user, channel=channel)
            return next((item for item in items if item["status"] in ("sent", "failed")), None)

        return dict(await until(there))


@pytest.fixture
async def notifications(client: Client) -> Notifications:
    return Notifications(client)


@asynccontextmanager
async def listening(
    path: str, *, base: str = DIRECT, last: str | None = None, tenant: str = "default"
) -> AsyncIterator[AsyncIterator[tuple[str | None, dict[str, Any] | None]]]:
    """Yield a stream's messages: each id with its event, or with None if it only says it is alive."""
    headers = {"x-tenant-id": tenant} | ({"last-event-id": last} if last else {})
    async with (
        httpx.AsyncClient(timeout=30) as http,
        http.stream("GET", f"{base}/{path}", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> AsyncIterator[tuple[str | None, dict[str, Any] | None]]:
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    data = json.loads(fields["data"])
                    assert fields.get("event") != "alive" or data == {}
                    yield fields.get("id"), None if "event" in fields else data
                    fields = {}

        yield messages()


async def next_event(
    messages: AsyncIterator[tuple[str | None, dict[str, Any] | None]],
) -> tuple[str, dict[str, Any]]:
    async with asyncio.timeout(15):
        async for token, event in messages:
            if event is not None:
                assert token is not None
                return token, event
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("base", [DIRECT, THROUGH_SIDECAR], ids=["direct", "through the sidecar"])
async def test_a_stream_shows_what_happens_and_goes_on_where_it_was_left(
    notifying: Suite, notifications: Notifications, base: str
) -> None:
    async with listening("stream?type=task.created", base=base) as messages:
        await anext(messages)
        created = await notifications.client.created()
        last, event = await next_event(messages)
        assert (event["aggregate_id"], event["position"]) == (created["id"], created["position"])
        assert last.startswith(created["position"])
    missed = [(await notifications.client.created())["id"] for _ in range(3)]
    await notifications.client.command("task.complete", {"id": missed[0]})
    async with listening("stream?type=task.created", base=base, last=last) as messages:
        assert [(await next_event(messages))[1]["aggregate_id"] for _ in missed] == missed
        live = await notifications.client.created()
        assert (await next_event(messages))[1]["aggregate_id"] == live["id"]


async def test_a_stream_goes_on_at_another_replica(
    notifying: NotifyingSuite, notifications: Notifications
) -> None:
    async with listening("stream?type=task.created") as messages:
        await anext(messages)
        await notifications.client.created()
        last, _ = await next_event(messages)
    missed = await notifications.client.created()
    [app] = [app for app in notifying.apps if app.app_id == "notification"]
    other = replace(app, app_port=free_port(), ports=SidecarPorts.free())
    service = notifying._service(other)
    env = {**service.env, "ANNALS_INSTANCE": "another"}
    logs, there = notifying.logs / "another", f"http://127.0.0.1:{other.app_port}"
    async with (
        running(notifying._sidecar(other), logs),
        running(replace(service, env=env), logs),
        listening("stream?type=task.created", base=there, last=last) as messages,
    ):
        assert (await next_event(messages))[1]["aggregate_id"] == missed["id"]
        live = await notifications.client.created()
        assert (await next_event(messages))[1]["aggregate_id"] == live["id"]


async def test_a_stream_shows_a_tenant_its_own_and_what_it_asks_for(
    notifying: Suite, notifications: Notifications
) -> None:
    user = f"u-{new_id()}"
    async with (
        listening("stream", tenant="others") as others,
        listening(f"stream?user={user}&topic=domain-events") as theirs,
    ):
        await anext(others)
        await anext(theirs)
        await notifications.client.created()
        task = await notifications.assigned(user)
        _, event = await next_event(theirs)
        assert (event["event_type"], event["aggregate_id"]) == ("task.assigned", task)
        own = await notifications.client.created(x_tenant_id="others")
        assert (await next_event(others))[1]["aggregate_id"] == own["id"]
    wrong = await notifications.call("GET", "stream", topic="gossip")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "topic")
    assert (await notifications.call("GET", "stream", after="yesterday")).status_code == 400


async def test_a_client_that_does_not_read_is_cut_and_holds_nobody_up(
    notifying: Suite, notifications: Notifications
) -> None:
    tenant, batches, each, seen = f"busy-{new_id()}"[:40], 8, 500, 0
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", 8004))
    slow.sendall(f"GET /stream HTTP/1.1\r\nHost: x\r\nx-tenant-id: {tenant}\r\n\r\n".encode())
    assert slow.recv(16).startswith(b"HTTP/1.1 200")
    # Large enough that the connection itself buffers only a few hundred.
    command = {"type": "task.create", "data": {"title": "x", "description": "x" * 4_000}}

    async def read_all(messages: AsyncIterator[tuple[str | None, dict[str, Any] | None]]) -> None:
        nonlocal seen
        async for _, event in messages:
            seen += event is not None
            if seen == batches * each:
                return

    async with listening("stream", tenant=tenant) as messages:
        await anext(messages)
        reading = asyncio.create_task(read_all(messages))
        for _ in range(batches):
            answer = await notifications.client.http.post(
                "http://127.0.0.1:3501/v1.0/invoke/command/method/commands:batch",
                json=[command] * each,
                headers={"x-tenant-id": tenant},
            )
            assert answer.status_code == 200
        await asyncio.wait_for(reading, 60)
    assert seen == batches * each, "who reads is not cut"

    def read_to_the_end() -> bytes:
        last = b""
        slow.settimeout(20)
        while b"event: cut" not in last and (more := slow.recv(1 << 20)):
            last = (last + more)[-4096:]
        return last

    assert b"event: cut\ndata: too much waited" in await asyncio.to_thread(read_to_the_end)
    slow.close()


async def test_a_websocket_shows_the_same_and_goes_on_where_it_was_left(
    notifying: Suite, notifications: Notifications
) -> None:
    url = "ws://127.0.0.1:8004/ws?type=task.created"
    async with websockets.connect(url) as connection:
        json.loads(await connection.recv())
        created = await notifications.client.created()
        message = json.loads(await connection.recv())
        assert message["events"][0]["aggregate_id"] == created["id"]
    missed = await notifications.client.created()
    async with websockets.connect(f"{url}&after={message['id']}") as connection:
        await connection.recv()
        assert json.loads(await connection.recv())["events"][0]["aggregate_id"] == missed["id"]


async def test_who_is_assigned_a_task_finds_it_in_the_inbox(
    notifying: Suite, notifications: Notifications
) -> None:
    user = f"u-{new_id()}"
    first, second = await notifications.assigned(user), await notifications.assigned(user)
    items = await notifications.inbox(user, 2)
    assert [item["data"]["stream"] for item in items] == [f"task-{second}", f"task-{first}"]
    assert (await notifications.call("PUT", f"inbox/{user}/{items[0]['id']}/read")).json() == {"changed": 1}
    after = (await notifications.call("GET", f"inbox/{user}", unread="true")).json()
    assert (after["unread"], [item["id"] for item in after["items"]]) == (1, [items[1]["id"]])
    assert (await notifications.call("POST", f"inbox/{user}/read")).json() == {"changed": 1}
    page = (await notifications.call("GET", f"inbox/{user}", limit="1")).json()
    rest = (await notifications.call("GET", f"inbox/{user}", limit="1", cursor=page["next"])).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == [item["id"] for item in items]
    hidden = await notifications.call("GET", f"inbox/{user}", tenant="others")
    assert hidden.json()["items"] == []


async def test_what_is_sent_out_waits_while_it_is_paused(
    notifying: Suite, notifications: Notifications, hook: Hook
) -> None:
    user = f"u-{new_id()}"
    wants = {
        "webhook": {"url": f"http://127.0.0.1:{hook.port}/hook", "secret": SECRET},
        "subscriptions": [{"events": "task.assigned", "channels": ["inbox", "webhook"]}],
    }
    await notifications.call("PUT", f"preferences/{user}", wants)
    await notifications.pause("true")
    await notifications.assigned(user)
    await notifications.inbox(user)
    await asyncio.sleep(1)  # time for a mistake to show: a due delivery is made at once
    waiting = (await notifications.call("GET", "deliveries", user=user, channel="webhook")).json()["items"]
    assert [(one["status"], one["attempts"]) for one in waiting] == [("pending", 0)]
    assert not hook.received
    await notifications.pause(None)
    assert (await notifications.ended(user, "webhook"))["status"] == "sent"
    assert len(hook.received) == 1


async def test_a_webhook_is_signed_retried_and_logged(
    notifying: Suite, notifications: Notifications, hook: Hook
) -> None:
    user = f"u-{new_id()}"
    wanted = {
        "webhook": {"url": f"http://127.0.0.1:{hook.port}/hook", "secret": SECRET},
        "subscriptions": [{"events": "task.assigned", "channels": ["webhook"]}],
    }
    put = await notifications.call("PUT", f"preferences/{user}", wanted)
    assert put.status_code == 200
    assert "secret" not in put.text
    hook.answers = [500, 503]
    task = await notifications.assigned(user)
    delivery = await notifications.ended(user, "webhook")
    assert (delivery["status"], delivery["attempts"]) == ("sent", 3)
    headers, body = hook.received[-1]
    given = {name.lower(): value for name, value in headers.items()}
    content = f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + body
    signature = base64.b64encode(hmac.new(SECRET.encode(), content, "sha256").digest()).decode()
    assert given["webhook-signature"] == f"v1,{signature}"
    assert json.loads(body)["data"]["stream"] == f"task-{task}"
    assert len({headers["webhook-id"] for headers, _ in hook.received}) == 1


async def test_a_webhook_that_keeps_failing_is_switched_off_and_its_user_told(
    notifying: Suite, notifications: Notifications, hook: Hook
) -> None:
    user = f"u-{new_id()}"
    wanted = {
        "webhook": {"url": f"http://127.0.0.1:{hook.port}/hook", "secret": SECRET},
        "subscriptions": [{"events": "task.assigned", "channels": ["webhook"]}],
    }
    await notifications.call("PUT", f"preferences/{user}", wanted)
    hook.answers = [410] * 5
    for _ in range(5):
        await notifications.assigned(user)
    [told] = await notifications.inbox(user, kind="notification.webhook_disabled")
    assert "410" in told["data"]["answer"]
    assert (await notifications.call("GET", f"preferences/{user}")).json()["webhook"] is None


async def test_an_email_arrives(notifying: Suite, notifications: Notifications, mails: Mails) -> None:
    user = f"u-{new_id()}"
    wanted = {
        "email": f"{user}@example.com",
        "subscriptions": [{"events": "task.assigned", "channels": ["email"]}],
    }
    await notifications.call("PUT", f"preferences/{user}", wanted)
    task = await notifications.assigned(user)
    delivery = await notifications.ended(user, "email")
    assert delivery["status"] == "sent", delivery
    [mail] = [mail for mail in mails.received if mail["To"] == f"{user}@example.com"]
    assert task in mail["Subject"]


async def test_preferences_that_make_no_sense_are_refused_and_change_nothing(
    notifying: Suite, notifications: Notifications
) -> None:
    answer = await notifications.call(
        "PUT", "preferences/somebody", {"email": "nowhere", "timezone": "Mars/Base"}
    )
    assert answer.status_code == 400
    assert {error["field"] for error in answer.json()["errors"]} == {"email", "timezone"}
    assert (await notifications.call("GET", "preferences/somebody")).json()["email"] is None


async def test_a_due_date_reminds_once_before_and_at_it_and_moves_along(
    notifying: Suite, notifications: Notifications
) -> None:
    user, task = f"u-{new_id()}", f"t-{new_id()}"
    far = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await notifications.client.command(
        "task.create", {"id": task, "title": "Pay the rent", "due": far, "assignee": user}
    )

    async def scheduled() -> list[dict[str, Any]] | None:
        items = await notifications.items("reminders", task_id=task)
        return items if [item["status"] for item in items] == ["scheduled", "scheduled"] else None

    await until(scheduled)
    await notifications.rings("reminder", f"{task}:due")  # an hour early: nobody is told
    soon = datetime.now(UTC) + timedelta(seconds=5)
    chain = f"chain-{new_id()}"
    await notifications.client.command(
        "task.set_due_date", {"id": task, "due": soon.isoformat()}, x_correlation_id=chain
    )
    await notifications.inbox(user, 1, kind="task.assigned")
    items = await notifications.inbox(user, 2, kind="reminder.due")
    assert [item["data"]["before"] for item in items] == ["due", "2s"]
    assert items[0]["data"]["late"] is False
    log = (await notifications.call("GET", "deliveries", user=user)).json()["items"]
    told = [one for one in log if one["kind"] == "reminder.due"]
    history = (await notifications.client.query(f"streams/task-{task}/events")).json()["items"]
    cause = history[-1]["event_id"]
    assert [(one["correlation_id"], one["causation_id"]) for one in told] == [(chain, cause)] * 2


async def test_what_came_due_while_the_service_stood_still_is_reminded_of(
    notifying: Suite, notifications: Notifications
) -> None:
    user, task = f"u-{new_id()}", f"t-{new_id()}"
    process = psutil.Process(notifying.processes["notification"].pid)
    process.suspend()
    try:
        due = datetime.now(UTC) + timedelta(seconds=6)
        given = {"id": task, "title": "Pay the rent", "due": due.isoformat(), "assignee": user}
        created = await notifications.client.command("task.create", given)
        assert created.status_code == 201, created.text

        async def past() -> bool:
            return datetime.now(UTC) > due

        await until(past)
    finally:
        process.resume()

    async def back() -> bool:
        return bool((await notifications.call("GET", f"inbox/{user}")).status_code == 200)

    await until(back)  # its sidecar may have found it unhealthy
    items = await notifications.inbox(user, 2, kind="reminder.due")
    assert sorted(item["data"]["before"] for item in items) == ["2s", "due"]


async def test_what_was_delivered_of_a_chain_is_found(notifying: Suite, notifications: Notifications) -> None:
    user, task = f"u-{new_id()}", f"t-{new_id()}"
    client = notifications.client
    await client.command("task.create", {"id": task, "title": "Pay the rent"})
    chain = f"chain-{new_id()}"
    await client.command("task.assign", {"id": task, "assignee": user}, x_correlation_id=chain)
    await notifications.inbox(user, 1, kind="task.assigned")
    found = (await notifications.call("GET", "deliveries", correlation_id=chain)).json()["items"]
    assert [(one["user_id"], one["kind"]) for one in found] == [(user, "task.assigned")]
    counted = (await client.http.get(f"{DIRECT}/metrics")).text
    assert 'annals_notification_deliveries_total{channel="inbox",outcome="sent"}' in counted


async def test_a_task_that_is_done_reminds_nobody(notifying: Suite, notifications: Notifications) -> None:
    user, task = f"u-{new_id()}", f"t-{new_id()}"
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    await notifications.client.command(
        "task.create", {"id": task, "title": "Pay the rent", "due": soon, "assignee": user}
    )

    async def all_are(status: str) -> bool:
        items = await notifications.items("reminders", task_id=task)
        return {item["status"] for item in items} == {status}

    await until(lambda: all_are("scheduled"))
    await notifications.client.command("task.complete", {"id": task})
    await until(lambda: all_are("cancelled"))


async def test_what_recurs_makes_its_task_once_each_time_and_can_be_ended(
    notifying: Suite, notifications: Notifications
) -> None:
    name, tag = f"r-{new_id()}", f"tag-{new_id()}"[:40]
    start = datetime.now(UTC) + timedelta(seconds=4)
    body = {
        "rule": "FREQ=MINUTELY;COUNT=1",
        "timezone": "Europe/Berlin",
        "command": {"type": "task.create", "data": {"title": "Stand-up", "tags": [tag]}},
        "start": start.isoformat(),
    }
    put = await notifications.call("PUT", f"recurrences/{name}", body)
    assert put.status_code == 201
    assert put.json()["next"] is not None

    async def made() -> list[dict[str, Any]]:
        return await notifications.client.items("tasks", tag=tag)

    assert len(await until(made)) == 1

    async def over() -> bool:
        answer = await notifications.call("GET", f"recurrences/{name}")
        return answer.status_code == 200 and answer.json()["next"] is None

    await until(over)
    one = (await notifications.call("GET", f"recurrences/{name}")).json()
    assert one in (await notifications.call("GET", "recurrences?limit=500")).json()["items"]
    # An alarm may ring twice; nothing more is made.
    await notifications.rings("recurrence", name)
    assert len((await notifications.client.query("tasks", tag=tag)).json()["items"]) == 1
    assert (await notifications.call("DELETE", f"recurrences/{name}")).status_code == 204
    assert (await notifications.call("GET", f"recurrences/{name}")).status_code == 404
    wrong = await notifications.call("PUT", f"recurrences/{name}", body | {"rule": "FREQ=NEVER"})
    assert wrong.status_code == 400


async def test_what_recurs_pauses_and_goes_on_as_it_was_set_up(
    notifying: Suite, notifications: Notifications
) -> None:
    name = f"r-{new_id()}"
    body = {
        "rule": "FREQ=DAILY",
        "command": {"type": "task.create", "data": {"title": "Stand-up", "effort": 1.5}},
        "start": "2030-01-01T09:00:00Z",
        "skip": ["2030-01-01T09:00:00Z"],
        "moved": {"2030-01-02T09:00:00Z": "2030-01-02T10:00:00Z"},
        "catch_up": "none",
        "user": "grace",
    }
    put = (await notifications.call("PUT", f"recurrences/{name}", body)).json()
    assert put["next"].startswith("2030-01-02T10:00:00")
    changing = {"last": None}

    paused = await notifications.call("POST", f"recurrences/{name}/pause")
    assert paused.status_code == 200
    assert paused.json() | changing == put | changing | {"paused": True, "next": None}
    again = await notifications.call("POST", f"recurrences/{name}/pause")
    assert again.json() == paused.json()
    resumed = await notifications.call("POST", f"recurrences/{name}/resume")
    assert resumed.json() | changing == put | changing
    assert resumed.json()["last"] > put["last"]
    missing = await notifications.call("POST", "recurrences/nothing/pause")
    assert missing.status_code == 404


async def test_an_event_is_held_until_its_time(notifying: Suite, notifications: Notifications) -> None:
    user, name = f"u-{new_id()}", new_id()
    at = datetime.now(UTC) + timedelta(seconds=4)
    held = await notifications.call(
        "POST",
        "events",
        {
            "event_id": name,
            "event_type": "notification.requested",
            "delay_until": at.isoformat(),
            "data": {"user": user, "kind": "handover_reminder", "task_id": "t", "answer_by": "soon"},
        },
    )
    assert held.status_code == 202
    await notifications.rings("held_event", name)
    [told] = await notifications.inbox(user)
    assert datetime.now(UTC) >= at
    assert told["kind"] == "notification.requested"
    # Go and PostgreSQL turn this number into an integer.
    unsafe = {"event_type": "a.b", "data": {"n": 3.9513134008373816e16}}
    refused = await notifications.call("POST", "events", unsafe)
    assert [one["field"] for one in refused.json()["errors"]] == ["data"]


async def test_a_reminder_that_is_cancelled_before_it_is_asked_for_does_not_come(
    notifying: Suite, notifications: Notifications
) -> None:
    users = {"cancelled": f"u-{new_id()}", "kept": f"u-{new_id()}"}
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()

    async def deliver(event_type: str, **data: str) -> None:
        event = IntegrationEvent(event_type=event_type, source="test", data=data)
        answer = await notifications.client.http.post(
            f"{DIRECT}/events/integration-events", json=json.loads(to_cloudevent_json(event))
        )
        assert answer.json() == {"status": "SUCCESS"}

    await deliver("reminder.cancelled", reminder_id=users["cancelled"])
    for user in users.values():
        await deliver("reminder.requested", reminder_id=user, user=user, at=at, kind="handover_reminder")
    await notifications.inbox(users["kept"])
    held = str(uuid5(NAMESPACE_URL, f"annals:reminder:default/{users['cancelled']}"))
    await notifications.rings("held_event", held)  # its time has come too
    published = {name: await in_topics(notifying, user, "integration-events") for name, user in users.items()}
    assert published["kept"] > 0
    assert published["cancelled"] == 0


async def test_a_handover_asks_in_the_inbox_with_the_ways_to_answer(
    notifying: Suite, notifications: Notifications, sagas: Any
) -> None:
    saga_id, _, member = await sagas.handover()
    [asked] = await notifications.inbox(member, kind="notification.requested")
    assert asked["data"]["actions"]["accept"] == f"/sagas/{saga_id}/events/accept"
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")


async def test_what_a_compensation_tells_is_known_as_its_own(
    notifying: Suite, notifications: Notifications, sagas: Any
) -> None:
    saga_id, _, member = await sagas.handover()
    await sagas.waits(saga_id)
    await sagas.answer(saga_id, member, "decline")
    await notifications.inbox(member, 2, kind="notification.requested")
    told = (await notifications.call("GET", "deliveries", correlation_id=saga_id)).json()["items"]
    causes = {one["data"]["kind"]: one["causation_id"] for one in told if "kind" in one["data"]}
    assert causes == {
        "handover_requested": f"saga:{saga_id}/notify",
        "handover_withdrawn": f"saga:{saga_id}/notify/undo",
    }


async def test_what_was_due_while_everything_was_down_comes_on_return_and_once(
    notifying: NotifyingSuite, notifications: Notifications
) -> None:
    user, task = f"u-{new_id()}", f"t-{new_id()}"
    soon = datetime.now(UTC) + timedelta(seconds=8)
    await notifications.client.command(
        "task.create", {"id": task, "title": "Pay the rent", "due": soon.isoformat(), "assignee": user}
    )

    async def scheduled() -> bool:
        items = await notifications.items("reminders", task_id=task)
        return [item["status"] for item in items] == ["scheduled", "scheduled"]

    await until(scheduled)
    victims = [notifying.processes[name] for name in ("notification", "notification-dapr", "scheduler")]
    for victim in victims:
        victim.kill()
    await asyncio.gather(*(victim.wait_ready() for victim in victims))

    async def both() -> list[dict[str, Any]] | None:
        try:
            items = (await notifications.call("GET", f"inbox/{user}")).json()["items"]
        except (httpx.HTTPError, KeyError):
            return None
        found = [item for item in items if item["kind"] == "reminder.due"]
        return found if len(found) >= 2 else None

    found = await until(both, 60)
    assert sorted(item["data"]["before"] for item in found) == ["2s", "due"]


async def test_kills_under_load_lose_and_double_no_delivery(
    notifying: NotifyingSuite, notifications: Notifications, hook: Hook
) -> None:
    """A webhook may get a delivery twice under one id: whether it was sent may not be known."""
    user = f"u-{new_id()}"
    wanted = {
        "webhook": {"url": f"http://127.0.0.1:{hook.port}/hook", "secret": SECRET},
        "subscriptions": [{"events": "task.assigned", "channels": ["inbox", "webhook"]}],
    }
    assert (await notifications.call("PUT", f"preferences/{user}", wanted)).status_code == 200
    tasks: list[str] = []
    for victim in ("notification", "notification-dapr", "nats") * 2:
        tasks += [await notifications.assigned(user) for _ in range(10)]
        notifying.processes[victim].restarts = 0
        notifying.processes[victim].kill()
        tasks += [await notifications.assigned(user) for _ in range(5)]
        await notifying.processes[victim].wait_ready()
    # As if the minute had passed for which a delivery belongs to its sender, whose process was killed.
    database = await asyncpg.connect(infra.Postgres(notifying.logs.parent, profiles.POSTGRES_PORT).dsn)
    await database.execute("UPDATE notifications.deliveries SET due = now() WHERE status = 'sending'")
    await database.close()

    async def all_sent() -> list[dict[str, Any]] | None:
        try:
            log = (await notifications.call("GET", "deliveries", user=user, limit="200")).json()["items"]
        except (httpx.HTTPError, KeyError, ValueError):
            return None
        sent = [one for one in log if one["status"] == "sent"]
        return log if len(sent) >= 2 * len(tasks) else None

    log = await until(all_sent, 60)
    streams = sorted(f"task-{task}" for task in tasks)
    items = (await notifications.call("GET", f"inbox/{user}", limit="200")).json()["items"]
    assert sorted(item["data"]["stream"] for item in items) == streams
    assert sorted((one["channel"], one["data"]["stream"]) for one in log) == [
        (channel, stream) for channel in ("inbox", "webhook") for stream in streams
    ]
    heard = {json.loads(body)["id"]: json.loads(body)["data"]["stream"] for _, body in hook.received}
    assert heard == {one["id"]: one["data"]["stream"] for one in log if one["channel"] == "webhook"}
