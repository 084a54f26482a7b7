"""What is sent, to whom it goes together, and who waits for whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from annals.dapr import DatabaseError, StatementRefused, StatementTooLarge
from annals.web.background import background
from annals_notification.deliveries import dispatcher as dispatcher_module
from annals_notification.deliveries import texts
from annals_notification.deliveries.channels import MAIL_SECONDS, NotDelivered, WebhookSender
from annals_notification.deliveries.dispatcher import Dispatcher
from annals_notification.deliveries.log import Claimed, DeliveryLog, Due, Ended, Receiver
from annals_notification.deliveries.preferences import Channel, Preferences, QuietHours, Webhook
from annals_notification.deliveries.users import Users
from conftest import until

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_RETRY_SECONDS = [10.0, 1000.0]
_MAIL = Preferences(email="ada@example.org")
_HOOK = Preferences(webhook=Webhook(url="https://example.org/hook", secret="x" * 16))


def mail(name: str, user: str, **data: Any) -> Claimed:
    return Claimed(
        name,
        "default",
        user,
        Channel.EMAIL,
        "task.assigned",
        {"kind": "reminder.due"} | data,
        _NOW,
        1,
        None,
        _MAIL,
    )


def hook(name: str, user: str, wants: Preferences = _HOOK) -> Claimed:
    return Claimed(name, "default", user, Channel.WEBHOOK, "task.assigned", {}, _NOW, 1, None, wants)


class Deliveries:
    """A delivery log in memory."""

    def __init__(self, *waiting: Claimed) -> None:
        self.waiting = list(waiting)
        self.ended: dict[str, str] = {}
        self.due: dict[str, datetime | None] = {}
        self.tried: dict[str, bool] = {}
        self.leases: dict[Channel, timedelta] = {}

    async def claim(
        self, channel: Channel, busy: Collection[Receiver], receivers: int, of_each: int, lease: timedelta
    ) -> Due:
        self.leases[channel] = lease
        line = [one for one in self.waiting if one.channel is channel and one.receiver not in busy]
        chosen = list(dict.fromkeys(one.receiver for one in line))[:receivers]
        claimed = [
            one for receiver in chosen for one in [one for one in line if one.receiver == receiver][:of_each]
        ]
        self.waiting = [one for one in self.waiting if one not in claimed]
        return Due(claimed, None)

    async def end(self, ended: Ended) -> None:
        self.ended[ended.claimed.id] = ended.status
        self.due[ended.claimed.id] = ended.due
        self.tried[ended.claimed.id] = ended.tried

    async def all_ended(self) -> bool:
        return not self.waiting

    async def has(self, *names: str) -> bool:
        return self.ended.keys() >= set(names)


class Leased(Deliveries):
    """Fails a claim of more than `most` deliveries with `poison` among them, and still leases them all."""

    def __init__(self, most: int, *waiting: Claimed) -> None:
        super().__init__(*waiting)
        self.most = most
        self.leased: list[tuple[float, Claimed]] = []

    async def claim(
        self, channel: Channel, busy: Collection[Receiver], receivers: int, of_each: int, lease: timedelta
    ) -> Due:
        now = time.monotonic()
        self.waiting += [one for until, one in self.leased if until <= now]
        self.leased = [(until, one) for until, one in self.leased if until > now]
        found = await super().claim(channel, busy, receivers, of_each, lease)
        if len(found.claimed) > self.most and any(one.user == "poison" for one in found.claimed):
            self.leased += [(now + lease.total_seconds(), one) for one in found.claimed]
            raise StatementTooLarge("it is too large")
        return Due(found.claimed, 0.01)


class WhoWorks:
    """Records whose webhooks worked or failed, unless it is told to fail itself."""

    def __init__(self, error: DatabaseError | None = None) -> None:
        self.error = error
        self.works: list[str] = []
        self.fails: list[str] = []

    async def webhook_works(self, _tenant: str, user: str, _url: str) -> None:
        if self.error:
            raise self.error
        self.works.append(user)

    async def webhook_fails(self, _tenant: str, user: str, _url: str, _answer: str) -> None:
        if self.error:
            raise self.error
        self.fails.append(user)


class Mails:
    """Builds the text as `MailSender` does, and records which deliveries went out together."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    async def send(self, _address: str, group: Sequence[Claimed]) -> str:
        texts.mail(group)
        self.sent.append([one.id for one in group])
        return "sent"


class Hooks:
    """Some receivers answer, and some never do."""

    def __init__(self) -> None:
        self.hanging = 0
        self.most_of_one = 0

    async def send(self, _webhook: Webhook, one: Claimed) -> str:
        if not one.user.startswith("hangs"):
            return "200"
        self.hanging += 1
        self.most_of_one = max(self.most_of_one, self.hanging)
        try:
            await asyncio.Event().wait()
        finally:
            self.hanging -= 1
        raise AssertionError


class Unspeakable:
    """A value that cannot be turned into text."""

    def __str__(self) -> str:
        raise KeyError("no such word")


@asynccontextmanager
async def dispatching(
    log: Any, mails: Any = None, webhooks: Any = None, users: Any = None
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(
        log,
        users or cast("Any", WhoWorks()),
        webhooks or cast("Any", Hooks()),
        mails or cast("Any", Mails()),
        _RETRY_SECONDS,
        lambda: False,
    )
    async with background(dispatcher.run(), "deliveries"):
        yield dispatcher


async def test_a_notice_that_cannot_be_put_into_words_holds_up_no_other() -> None:
    """Other users' notices do not wait, nor do those that the same e-mail was to contain."""
    odd = mail("odd", "ada", title=Unspeakable())
    log, mails = Deliveries(odd, mail("beside it", "ada"), mail("plain", "bob")), Mails()
    async with dispatching(log, mails):
        await until(lambda: log.has("odd", "beside it", "plain"))
    assert log.ended == {"odd": "failed", "beside it": "sent", "plain": "sent"}
    assert sorted(mails.sent) == [["beside it"], ["plain"]]


async def test_what_is_due_together_of_a_user_is_one_email() -> None:
    log, mails = Deliveries(*(mail(f"{n}{who}", who) for n in range(60) for who in ("ada", "bob"))), Mails()
    async with dispatching(log, mails):
        await until(lambda: log.has("59ada", "59bob"))
    assert sorted(map(len, mails.sent)) == [60, 60]


async def test_a_webhook_that_never_answers_keeps_no_other_waiting() -> None:
    waiting = [hook(f"h{n}", "hangs") for n in range(1000)]
    log, hooks = Deliveries(*waiting, hook("other", "ada"), mail("mail", "ada")), Hooks()
    async with dispatching(log, webhooks=hooks):
        await until(lambda: log.has("other", "mail"))
    assert 0 < hooks.most_of_one < 10
    assert hooks.hanging == 0, "nothing is left behind when it ends"


async def test_a_place_that_is_free_again_is_given_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "_LOOK_SECONDS", 3600.0)  # long enough that no look comes
    log = Deliveries(*(hook(f"h{n}", f"user-{n % 70}") for n in range(700)))
    async with dispatching(log):
        await until(lambda: log.has(*(f"h{n}" for n in range(700))))


async def test_an_email_is_claimed_for_longer_than_it_takes_with_the_one_before_it() -> None:
    log = Deliveries(mail("one", "ada"))
    async with dispatching(log):
        await until(log.all_ended)
    assert log.leases[Channel.EMAIL].total_seconds() > 2 * MAIL_SECONDS


@pytest.mark.parametrize("error", [DatabaseError("away"), StatementRefused("no such text")])
async def test_a_webhook_whose_count_is_not_kept_has_its_outcome_and_costs_no_other(
    error: DatabaseError,
) -> None:
    log = Deliveries(hook("counted", "ada"), mail("mail", "bob"))
    async with dispatching(log, users=WhoWorks(error)) as dispatcher:
        await until(lambda: log.has("counted", "mail"))
        log.waiting.append(hook("after it", "ada"))
        dispatcher.look()
        await until(lambda: log.has("after it"))


def quiet(begins: timedelta) -> tuple[QuietHours, datetime]:
    """Return quiet hours that begin after `begins`, and the moment at which they end."""
    now = datetime.now(UTC)
    ends = (now + timedelta(hours=3)).replace(second=0, microsecond=0)
    return QuietHours(start=(now + begins).time(), end=ends.time()), ends


async def test_what_is_tried_again_is_tried_when_it_is_not_quiet() -> None:
    class Away(Hooks):
        async def send(self, _webhook: Webhook, _one: Claimed) -> str:
            raise NotDelivered("it is away")

    now = datetime.now(UTC)
    hours, ends = quiet(timedelta(minutes=10))
    wants = _HOOK.model_copy(update={"quiet_hours": hours})
    log = Deliveries(
        *(replace(one, attempts=2) for one in (hook("quiet", "ada", wants), hook("loud", "bob")))
    )
    async with dispatching(log, webhooks=Away()):
        await until(lambda: log.has("quiet", "loud"))
    assert log.ended == {"quiet": "pending", "loud": "pending"}
    assert log.tried == {"quiet": True, "loud": True}
    assert log.due["quiet"] == ends
    loud = log.due["loud"]
    assert loud is not None and loud < now + timedelta(hours=1)


async def test_what_waited_until_it_was_quiet_waits_for_the_end_of_it_untried() -> None:
    hours, ends = quiet(timedelta(hours=-1))
    waiting = (hook("hook", "ada"), mail("mail", "ada"), mail("also", "ada"))
    of_ada = [
        replace(one, preferences=one.preferences.model_copy(update={"quiet_hours": hours})) for one in waiting
    ]
    log, mails, users = Deliveries(*of_ada, hook("loud", "bob")), Mails(), WhoWorks()
    async with dispatching(log, mails, users=users):
        await until(lambda: log.has("hook", "mail", "also", "loud"))
    assert log.ended == {"hook": "pending", "mail": "pending", "also": "pending", "loud": "sent"}
    assert log.due == {"hook": ends, "mail": ends, "also": ends, "loud": None}
    assert log.tried == {"hook": False, "mail": False, "also": False, "loud": True}
    assert (mails.sent, users.works, users.fails) == ([], ["bob"], [])


async def test_what_is_due_by_a_clock_ahead_and_waits_for_a_quiet_that_ends_is_looked_at_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Preferences, "undisturbed", lambda _self, at: at + timedelta(milliseconds=1))
    log, began = Deliveries(hook("hook", "ada")), datetime.now(UTC)
    async with dispatching(log):
        await until(lambda: log.has("hook"))
    due = log.due["hook"]
    assert due is not None and due > began + timedelta(seconds=1)


async def test_each_try_waits_its_own_time_for_the_next_and_the_last_for_none() -> None:
    class Away(Hooks):
        async def send(self, _webhook: Webhook, one: Claimed) -> str:
            if one.user == "works":
                return "200"
            raise NotDelivered("it is away", final=one.user == "gone")

    tried = [replace(hook(f"try {number}", f"away-{number}"), attempts=number) for number in (1, 2, 3)]
    log, users = Deliveries(*tried, hook("works", "works"), hook("gone", "gone")), WhoWorks()
    began = datetime.now(UTC)
    async with dispatching(log, webhooks=Away(), users=users):
        await until(lambda: log.has("try 1", "try 2", "try 3", "works", "gone"))
    waits = [(due - began).total_seconds() if (due := log.due[one.id]) else None for one in tried]
    assert waits == [pytest.approx(10, abs=60), pytest.approx(1000, abs=60), None]
    assert log.ended == {
        "try 1": "pending",
        "try 2": "pending",
        "try 3": "failed",
        "works": "sent",
        "gone": "failed",
    }
    assert (users.works, sorted(users.fails)) == (["works"], ["away-3", "gone"])


async def test_what_an_answer_has_no_room_for_keeps_nobody_from_being_sent_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = {
        channel: replace(places, lease=timedelta(seconds=0.1))
        for channel, places in dispatcher_module._PLACES.items()
    }
    monkeypatch.setattr(dispatcher_module, "_PLACES", short)
    poison = [hook(f"p{n}", "poison") for n in range(3)]
    innocent = [hook(f"h{n}", f"user-{n}") for n in range(40)]
    log = Leased(2, *innocent[:20], *poison, *innocent[20:])
    async with dispatching(log) as dispatcher:

        async def sent() -> bool:
            dispatcher.look()
            return await log.has(*(one.id for one in (*innocent, *poison)))

        await until(sent)


class Postgres:
    """Refuses NUL, as PostgreSQL's jsonb does, and one answer that is bad in another way."""

    def __init__(self, *waiting: Claimed) -> None:
        self.waiting = list(waiting)
        self.kept: list[str] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        text = "".join(one or "" for one in params)
        if "\\u0000" in text or "\0" in text or "odd" in text:
            raise StatementRefused("unsupported Unicode escape sequence")
        if "FOR UPDATE" in sql:
            claimed = [one for one in self.waiting if one.channel == params[0]]
            self.waiting = [one for one in self.waiting if one not in claimed]
            wants = {one.receiver: one.preferences.model_dump(mode="json") for one in claimed}
            return {
                "claimed": [_row(one) for one in claimed],
                "preferences": [[*receiver, data] for receiver, data in wants.items()],
                "too_large": 0,
                "seconds": None,
            }
        if "ended AS" in sql:
            self.kept.append(str(params[0]))
        return 0

    async def has(self, *names: str) -> bool:
        return all(any(f'"{name}"' in one for one in self.kept) for name in names)


def _row(one: Claimed) -> dict[str, Any]:
    return {
        "id": one.id,
        "tenant": one.tenant,
        "user": one.user,
        "channel": one.channel,
        "kind": one.kind,
        "data": one.data,
        "occurred": one.occurred.isoformat(),
        "attempts": one.attempts,
        "traceparent": None,
    }


@asynccontextmanager
async def answering(body: bytes, status: int = 200) -> AsyncIterator[Preferences]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield Preferences(webhook=Webhook(url=f"http://{host}:{port}/", secret="x" * 16))
    await runner.cleanup()


@pytest.mark.parametrize("status", [200, 410, 500])
async def test_what_a_webhook_answers_with_nul_is_kept_without(status: int) -> None:
    async with answering(b"ok\0\xff", status) as wants:
        database = cast("Any", Postgres(hook("nul", "eve", wants), mail("mail", "ada")))
        webhooks = WebhookSender(allow_private=True)
        async with dispatching(DeliveryLog(database), webhooks=webhooks, users=Users(database)):
            await until(lambda: database.has("nul", "mail"))
        await webhooks.close()
    assert any(f"{status}: ok" in one for one in database.kept)


async def test_what_a_receiver_answers_is_kept_with_the_delivery_and_not_logged() -> None:
    """A mail server's refusal quotes the address, and the log outlives an erasure."""

    class Refuses(Mails):
        async def send(self, _address: str, _group: Sequence[Claimed]) -> str:
            raise NotDelivered("550 no such user: ada@example.org", final=True)

    log = Deliveries(mail("refused", "ada"))
    with capture_logs() as logs:
        async with dispatching(log, mails=Refuses()):
            await until(lambda: log.has("refused"))
    assert log.ended == {"refused": "failed"}
    [said] = logs
    assert (said["event"], said["tenant"], said["delivery"]) == ("not delivered", "default", "refused")
    assert "ada@example.org" not in str(said)


async def test_an_outcome_that_the_database_refuses_costs_no_other() -> None:
    class Odd(Hooks):
        async def send(self, webhook: Webhook, one: Claimed) -> str:
            if one.user == "eve":
                raise NotDelivered("odd")
            return await super().send(webhook, one)

    database = cast("Any", Postgres(hook("refused", "eve"), hook("beside it", "ada"), mail("mail", "ada")))
    with capture_logs() as logs:
        async with dispatching(DeliveryLog(database), webhooks=Odd(), users=Users(database)):
            await until(lambda: database.has("beside it", "mail"))
    assert not await database.has("refused")
    assert {log["tenant"] for log in logs if log.get("delivery") == "refused"} == {"default"}
