from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI

from annals.web.problems import Problem, on_problem
from annals_notification import users_api
from annals_notification.deliveries import channels, texts
from annals_notification.deliveries.channels import Forbidden, MailSender, NotDelivered, WebhookSender
from annals_notification.deliveries.log import Claimed
from annals_notification.deliveries.preferences import Channel, Preferences, Webhook


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "224.0.0.1",
        "localhost",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "100.64.0.1",
        "[::ffff:100.64.0.1]",
        "[::ffff:0:10.0.0.1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff0e::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a00:1]",
        "[64:ff9b:1::808:808]",
        "[2002:a00:1::1]",
    ],
)
async def test_a_webhook_into_a_private_network_is_refused(host: str) -> None:
    webhook = Webhook(url=f"http://{host}/hook", secret="x" * 16)
    sender = WebhookSender(allow_private=False)
    try:
        with pytest.raises(Forbidden, match="private or link-local"):
            await sender.check(webhook.address)
    finally:
        await sender.close()


class Receiver:
    """A receiver of webhooks on this machine that redirects and sets cookies."""

    def __init__(self) -> None:
        self.status = 302
        self.asked: list[str] = []
        self.cookies: list[str | None] = []
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        self.cookies.append(request.headers.get("cookie"))
        headers = {"location": "/elsewhere", "set-cookie": "session=mallory; Path=/"}
        return web.Response(status=self.status, headers=headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = web.ServerRunner(web.Server(receiver.answer))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    receiver.port = server.addresses[0][1]
    yield receiver
    await server.cleanup()


async def test_a_webhook_goes_nowhere_that_its_receiver_sends_it(receiver: Receiver) -> None:
    sender = WebhookSender(allow_private=True)
    webhook = Webhook(url=f"http://127.0.0.1:{receiver.port}/hook", secret="x" * 16)
    try:
        with pytest.raises(NotDelivered, match="302: "):
            await sender.send(webhook, claimed("task.assigned"))
    finally:
        await sender.close()
    assert receiver.asked == ["/hook"]


@pytest.mark.parametrize(
    ("status", "final"), [(200, None), (204, None), (302, False), (404, False), (410, True), (500, False)]
)
async def test_a_receiver_says_whether_it_has_a_webhook_and_whether_to_try_again(
    receiver: Receiver, status: int, final: bool | None
) -> None:
    receiver.status = status
    sender = WebhookSender(allow_private=True)
    webhook = Webhook(url=f"http://127.0.0.1:{receiver.port}/hook", secret="x" * 16)
    try:
        if final is None:
            assert (await sender.send(webhook, claimed("task.assigned"))).startswith(f"{status}: ")
        else:
            with pytest.raises(NotDelivered, match=f"{status}: ") as refused:
                await sender.send(webhook, claimed("task.assigned"))
            assert refused.value.final == final
    finally:
        await sender.close()


async def test_what_a_receiver_sets_is_not_sent_with_the_webhooks_of_others(receiver: Receiver) -> None:
    sender = WebhookSender(allow_private=True)
    try:
        for path in ("mallory", "zoe"):
            # By host name: clients keep no cookies for an address anyway.
            webhook = Webhook(url=f"http://localhost:{receiver.port}/{path}", secret="x" * 16)
            with pytest.raises(NotDelivered, match="302: "):
                await sender.send(webhook, claimed("task.assigned"))
    finally:
        await sender.close()
    assert receiver.asked == ["/mallory", "/zoe"]
    assert receiver.cookies == [None, None]


async def test_a_webhook_whose_name_leads_elsewhere_once_it_was_looked_at_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(["8.8.8.8", "127.0.0.1"])

    async def resolve(_self: object, host: str, port: int, _family: int) -> list[dict[str, Any]]:
        address = {"hostname": host, "host": next(found), "port": port}
        return [address | {"family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    sender = WebhookSender(allow_private=False)
    webhook = Webhook(url=f"http://moves.example:{receiver.port}/hook", secret="x" * 16)
    try:
        with pytest.raises(NotDelivered):
            await sender.send(webhook, claimed("task.assigned"))
    finally:
        await sender.close()
    assert next(found, None) is None, "it was looked at twice"
    assert receiver.asked == []


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[::ffff:8.8.8.8]", "[2606:4700::1111]", "[64:ff9b::808:808]", "[2002:808:808::1]"]
)
async def test_a_webhook_to_a_public_address_is_let_through(host: str) -> None:
    sender = WebhookSender(allow_private=False)
    try:
        await sender.check(f"http://{host}/hook")
    finally:
        await sender.close()


async def test_a_name_that_no_host_can_have_is_refused() -> None:
    webhook = Webhook(url=f"http://{'x' * 64}.example/hook", secret="x" * 16)
    refusing, posting = WebhookSender(allow_private=False), WebhookSender(allow_private=True)
    try:
        with pytest.raises(Forbidden, match="not a valid host name"):
            await refusing.check(webhook.address)
        with pytest.raises(NotDelivered) as raised:
            await posting.send(webhook, claimed("task.assigned"))
        assert raised.value.final
    finally:
        await refusing.close()
        await posting.close()


async def test_a_name_server_that_does_not_answer_takes_no_longer_than_a_webhook_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_asked: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(channels, "WEBHOOK_SECONDS", 0.05)
    monkeypatch.setattr("annals_notification.deliveries.channels._PublicResolver.resolve", never)
    webhook = Webhook(url="https://slow.example/hook", secret="x" * 16)
    sender = WebhookSender(allow_private=False)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(NotDelivered) as raised:
                await sender.send(webhook, claimed("task.assigned"))
            with pytest.raises(OSError, match=r"slow\.example was not found"):
                await sender.check(webhook.address)
        assert not raised.value.final, "it may answer another time"
    finally:
        await sender.close()


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), 503, "unavailable"),
        (TimeoutError("hooks.example was not found in 10 seconds"), 503, "unavailable"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 400, "malformed"),
        (Forbidden("10.0.0.1 is a private address"), 400, "malformed"),
    ],
)
async def test_a_webhook_is_not_called_wrong_while_names_cannot_be_looked_up(
    error: OSError, status: int, kind: str
) -> None:
    class Checks:
        async def check(self, _url: str) -> None:
            raise error

    class Kept:
        async def preferences(self, *_: str) -> Preferences:
            return Preferences()

    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(users_api.routes(cast("Any", Kept()), cast("Any", Checks()), cast("Any", None)))
    webhook = {"url": "https://hooks.example/hook", "secret": "x" * 24}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://n") as client:
        answer = await client.put("/preferences/ada", json={"webhook": webhook})
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:annals:problem:{kind}")
    assert str(error) in answer.text


def claimed(event_type: str, **data: Any) -> Claimed:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return Claimed("d1", "default", "ada", Channel.EMAIL, event_type, data, now, 1, None, Preferences())


def test_a_mail_says_what_happened_and_escapes_what_others_wrote() -> None:
    subject, html = texts.mail([claimed("reminder.due", title="<b>Rent</b>\nBcc: eve", due="today")])
    assert subject == "“<b>Rent</b> Bcc: eve” is due today"
    assert "&lt;b&gt;Rent&lt;/b&gt;" in html
    assert "<b>" not in html


def test_a_mail_says_what_somebody_asked_to_be_told() -> None:
    asked = claimed("notification.requested", user="ada", title="Lunch", body="At <noon>.\nBring a friend.")
    subject, html = texts.mail([asked])
    assert subject == "Lunch"
    assert ">Lunch</h2>" in html
    assert ">At &lt;noon&gt;.\nBring a friend.</p>" in html
    assert html.index("Lunch") < html.index("Bring a friend.")


@pytest.mark.parametrize("data", [{}, {"title": None, "body": None}, {"title": "", "body": ""}, {"body": 1}])
def test_a_mail_about_nothing_that_is_said_names_what_it_is(data: dict[str, Any]) -> None:
    subject, html = texts.mail([claimed("notification.requested", user="ada", **data)])
    assert subject == "notification.requested"
    assert "None" not in html and html.count("<p") == 1


def test_a_mail_of_the_longest_notices_is_one_that_a_sidecar_takes() -> None:
    asked = claimed("notification.requested", title="'" * 20_000, body="'" * 20_000)
    _, html = texts.mail([asked] * 200)
    assert len(html.encode()) < 4 * 1024 * 1024


def test_only_what_is_asked_to_be_told_is_told_by_its_body() -> None:
    _, html = texts.mail([claimed("order.paid", body="<html>")])
    assert "html&gt;" not in html


def test_what_should_be_ways_to_answer_and_is_none_is_left_out() -> None:
    _, html = texts.mail([claimed("notification.requested", kind="handover_requested", actions=5)])
    assert "POST" not in html


def test_several_are_one_digest() -> None:
    asked = claimed(
        "notification.requested",
        kind="handover_requested",
        task_id="t1",
        answer_by="noon",
        actions={"accept": "/sagas/s1/events/accept"},
    )
    subject, html = texts.mail([asked, claimed("task.assigned", stream="task-7", assignee="ada")])
    assert subject == "2 notifications"
    assert "You are asked to take on task t1; please answer by noon" in html
    assert "POST /sagas/s1/events/accept" in html
    assert "Task 7 was assigned to ada" in html


@pytest.mark.parametrize("task", ["7", "task-7", "my-task-list"])
def test_a_task_is_named_by_its_whole_id(task: str) -> None:
    data = {"stream": f"task-{task}", "assignee": "ada"}
    assert texts.title("task.assigned", data) == f"Task {task} was assigned to ada"
    assert texts.title("task.completed", data) == f"Task {task} is done"


@pytest.mark.parametrize(
    ("kind", "data", "title"),
    [
        ("task.created", {"title": "Write"}, "Task 7 is new: Write"),
        ("task.updated", {"changes": {"title": "Read"}}, "Task 7 was changed"),
        ("task.unassigned", {"assignee": "ada"}, "Task 7 is no longer assigned to ada"),
        ("task.accepted", {"assignee": "ada"}, "Task 7 was taken on by ada"),
        ("task.reopened", {}, "Task 7 is open again"),
        ("task.deleted", {}, "Task 7 was deleted"),
        ("task.due_date_set", {"due": "2030-01-01T09:00:00Z"}, "Task 7 is due 2030-01-01T09:00:00Z"),
        ("task.due_date_set", {"due": None}, "Task 7 has no due date any more"),
    ],
)
def test_whatever_happens_to_a_task_is_told_by_its_name(kind: str, data: dict[str, Any], title: str) -> None:
    assert texts.title(kind, {"stream": "task-7"} | data) == title


def test_what_has_no_text_of_its_own_is_named_by_its_type() -> None:
    assert texts.title("member.left", {"successors": []}) == "member.left"


class SharedMailer:
    """A sidecar whose binding keeps recipient and subject in one place for all calls, as Dapr's does."""

    def __init__(self) -> None:
        self.merged: dict[str, str] = {}
        self.sent: list[dict[str, str]] = []
        self.seconds: set[float] = set()

    async def invoke_binding(
        self, _name: str, _operation: str, metadata: Mapping[str, str], _data: bytes, seconds: float = 5.0
    ) -> bytes:
        self.merged |= metadata
        await asyncio.sleep(0)
        self.sent.append(dict(self.merged))
        self.seconds.add(seconds)
        return b""


async def test_an_email_goes_to_its_own_recipient_whoever_else_gets_one_at_the_same_time() -> None:
    mailer = SharedMailer()
    sender = MailSender(cast("Any", mailer), "email")
    people = ("ada", "bob", "eve")
    told = [claimed("task.assigned", stream=f"task-{who}", assignee=who) for who in people]
    mails = zip(people, told, strict=True)
    await asyncio.gather(*(sender.send(f"{who}@example.com", [one]) for who, one in mails))
    assert mailer.sent == [
        {"emailTo": f"{who}@example.com", "subject": f"Task {who} was assigned to {who}"} for who in people
    ]


async def test_an_email_may_take_as_long_as_a_mail_server_does() -> None:
    mailer = SharedMailer()
    await MailSender(cast("Any", mailer), "email").send("ada@example.com", [claimed("task.assigned")])
    assert min(mailer.seconds) >= 60
