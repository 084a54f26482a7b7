"""Which deliveries each replica claims, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest

from annals.dapr import StatementTooLarge
from annals.projections import migrate
from annals_notification import migrations
from annals_notification.deliveries.channels import NotDelivered
from annals_notification.deliveries.dispatcher import Dispatcher
from annals_notification.deliveries.log import Claimed, DeliveryLog, Due, Ended, Receiver
from annals_notification.deliveries.plan import Notice, Planned
from annals_notification.deliveries.preferences import Channel, Preferences, Webhook
from annals_notification.deliveries.users import Users
from read_model_database import PoolDatabase

LEASE = timedelta(minutes=3)
SIDECAR = 4 * 1024 * 1024
"""The size in bytes above which a sidecar refuses or cannot return a message, by default."""
USERS, EACH = 20, 30

# All deliveries of a digest are due at the same moment, and those of different users are interleaved.
DIGEST = f"""
INSERT INTO notifications.deliveries
  (id, tenant, event_id, user_id, channel, kind, data, occurred, status, due)
SELECT 'digest-' || i, 'default', 'event-' || i, 'user-' || i % {USERS}, $1, '', '{{}}', now(), 'pending',
  date_trunc('hour', now())
FROM generate_series(1, {USERS * EACH}) i"""


class Sidecar(PoolDatabase):
    """Takes and returns no more than a sidecar does, counted in the JSON that bindings.postgresql writes."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.pool = pool

    async def fetch(self, sql: str, *params: str | None) -> Any:
        assert sum(len(one or "") for one in params) < SIDECAR
        text = await self.pool.fetchval(sql, *params)
        answer = json.dumps([[text]], ensure_ascii=False)
        for one in "<>&\u2028\u2029":
            answer = answer.replace(one, "\\u0000")
        if len(answer.encode()) > SIDECAR:
            raise StatementTooLarge("the answer is larger than a sidecar takes")
        return json.loads(text)


@pytest.fixture
async def log(pool: asyncpg.Pool) -> DeliveryLog:
    database = PoolDatabase(pool)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    return DeliveryLog(database)


async def test_replicas_that_claim_at_once_take_all_of_a_user_or_nothing(
    log: DeliveryLog, pool: asyncpg.Pool
) -> None:
    await pool.execute(DIGEST, "email")
    together: list[Receiver] = []

    async def replica() -> None:
        while (due := await log.claim(Channel.EMAIL, set(), 2, 200, LEASE)).claimed or due.seconds == 0:
            for receiver in {one.receiver for one in due.claimed}:
                assert len(_of(due, receiver)) == EACH
                together.append(receiver)

    await asyncio.gather(*(replica() for _ in range(6)))
    assert sorted(together) == sorted(Receiver("default", f"user-{n}") for n in range(USERS))


async def test_a_claim_takes_of_each_what_it_may_and_passes_over_those_who_are_busy(
    log: DeliveryLog, pool: asyncpg.Pool
) -> None:
    await pool.execute(DIGEST, "webhook")
    assert (await log.claim(Channel.EMAIL, set(), 50, 4, LEASE)) == Due([], None)
    first = await log.claim(Channel.WEBHOOK, set(), 3, 4, LEASE)
    busy = {one.receiver for one in first.claimed}
    assert (len(busy), len(first.claimed)) == (3, 12)
    second = await log.claim(Channel.WEBHOOK, busy, 50, 4, LEASE)
    others = {one.receiver for one in second.claimed}
    assert (len(others), busy & others) == (USERS - 3, set())
    third = await log.claim(Channel.WEBHOOK, busy | others, 50, 4, LEASE)
    assert third.claimed == []


async def test_what_a_dead_replica_had_claimed_is_due_again_when_its_lease_is_over(
    log: DeliveryLog, pool: asyncpg.Pool
) -> None:
    await pool.execute(DIGEST, "email")
    await log.claim(Channel.EMAIL, set(), USERS, EACH, timedelta(seconds=3))
    due = await log.claim(Channel.EMAIL, set(), USERS, EACH, LEASE)
    assert due.claimed == [] and due.seconds is not None and due.seconds <= 3
    await asyncio.sleep(due.seconds)
    due = await log.claim(Channel.EMAIL, set(), USERS, EACH, LEASE)
    assert {one.attempts for one in due.claimed} == {2}


async def test_what_was_claimed_and_not_tried_has_had_no_try(log: DeliveryLog, pool: asyncpg.Pool) -> None:
    await pool.execute(DIGEST, "webhook")

    async def claimed() -> Claimed:
        [one] = (await log.claim(Channel.WEBHOOK, set(), 1, 1, LEASE)).claimed
        return one

    first = await claimed()
    ago = datetime.now(UTC) - timedelta(days=1)
    await log.end(Ended(first, "pending", "500: it is away", ago))
    second = await claimed()
    assert (second.id, second.attempts) == (first.id, 2)
    await log.end(Ended(second, "pending", "", ago, tried=False))
    row = await pool.fetchrow("SELECT * FROM notifications.deliveries WHERE id = $1", first.id)
    assert row is not None
    assert (row["status"], row["attempts"], row["answer"]) == ("pending", 1, "500: it is away")
    third = await claimed()
    assert (third.id, third.attempts) == (first.id, 2)
    await log.end(Ended(first, "failed", "too late"))
    assert await pool.fetchval("SELECT count(*) FROM notifications.deliveries WHERE status = 'failed'") == 0


async def test_what_is_claimed_together_is_what_a_sidecar_takes(log: DeliveryLog, pool: asyncpg.Pool) -> None:
    await pool.execute(DIGEST, "email")
    await pool.execute("UPDATE notifications.deliveries SET data = $1", json.dumps({"text": "x" * 100_000}))
    claimed = 0
    while (due := await log.claim(Channel.EMAIL, set(), 2, 200, LEASE)).claimed:
        assert 0 < sum(len(json.dumps(one.data)) for one in due.claimed) < SIDECAR
        claimed += len(due.claimed)
    assert claimed == USERS * EACH


LAWFUL = {
    "subscriptions": [
        {"events": f"{'x' * 197}{number:03}", "channels": ["inbox", "email", "webhook"], "mine": True}
        for number in range(99)
    ]
    + [{"events": "task.*", "channels": ["inbox", "email", "webhook"], "mine": False}],
    "email": "ada@example.org",
}
"""The largest preferences that a user may set."""
ENDLESS = {
    "subscriptions": [{"events": "task.*", "channels": ["inbox"] * 130_000 + ["webhook"], "mine": False}],
    "webhook": {"url": "https://example.org/hook", "secret": "x" * 16},
}
"""Larger preferences than a user may set, from a release that did not limit them."""


async def _prefer(pool: asyncpg.Pool, data: dict[str, Any], *users: str) -> None:
    await pool.executemany(
        "INSERT INTO notifications.preferences (tenant, user_id, data) VALUES ('default', $1, $2)",
        [(user, json.dumps(data)) for user in users],
    )


@pytest.mark.parametrize("channel", ["email", "webhook"])
@pytest.mark.parametrize("data", [LAWFUL, ENDLESS])
async def test_what_somebody_prefers_leaves_others_their_room(
    pool: asyncpg.Pool, log: DeliveryLog, channel: str, data: dict[str, Any]
) -> None:
    await pool.execute(DIGEST, channel)
    await _prefer(pool, data, *(f"user-{number}" for number in range(6)))
    claimed = 0
    log = DeliveryLog(Sidecar(pool))
    while (due := await log.claim(Channel(channel), set(), 50, 200, LEASE)).claimed:
        claimed += len(due.claimed)
    assert claimed == USERS * EACH


async def test_a_whole_digest_is_claimed_with_what_its_reader_prefers(
    pool: asyncpg.Pool, log: DeliveryLog
) -> None:
    await pool.execute(DIGEST, "email")
    await pool.execute("UPDATE notifications.deliveries SET user_id = 'ada'")
    await _prefer(pool, LAWFUL, "ada")
    due = await DeliveryLog(Sidecar(pool)).claim(Channel.EMAIL, set(), 2, 200, LEASE)
    assert len(due.claimed) == 200
    assert {one.preferences.email for one in due.claimed} == {"ada@example.org"}


@pytest.mark.parametrize("text", ["<", "\u2028", '"', "\\"])
async def test_what_is_claimed_is_counted_as_a_sidecar_spells_it_out(
    pool: asyncpg.Pool, log: DeliveryLog, text: str
) -> None:
    await pool.execute(DIGEST, "email")
    await pool.execute("DELETE FROM notifications.deliveries WHERE user_id > 'user-13'")
    await pool.execute("UPDATE notifications.deliveries SET data = $1", json.dumps({"text": text * 10_000}))
    log, claimed = DeliveryLog(Sidecar(pool)), 0
    while (due := await log.claim(Channel.EMAIL, set(), 50, 200, LEASE)).claimed:
        claimed += len(due.claimed)
    assert claimed == 6 * EACH


async def test_a_notice_that_is_too_large_to_be_sent_fails_and_leaves_a_digest_whole(
    pool: asyncpg.Pool, log: DeliveryLog
) -> None:
    await pool.execute(DIGEST, "email")
    await pool.execute("UPDATE notifications.deliveries SET user_id = 'ada'")
    log = DeliveryLog(Sidecar(pool))
    await _tell_also(pool, "too large", "<" * 700_000)
    due = await log.claim(Channel.EMAIL, set(), 2, 200, LEASE)
    assert (len(due.claimed), due.too_large) == (199, 1)
    row = await pool.fetchrow("SELECT * FROM notifications.deliveries WHERE id = 'too large'")
    assert (row["status"], row["answer"], row["attempts"]) == ("failed", "too large to be sent", 0)
    assert row["ended_at"] is not None
    due = await log.claim(Channel.EMAIL, set(), 2, 200, LEASE)
    assert (len(due.claimed), due.too_large) == (200, 0)


@pytest.mark.parametrize("characters", [400_000, 600_000, 697_000])
async def test_a_large_notice_that_a_sidecar_answers_with_is_claimed_beside_others(
    pool: asyncpg.Pool, log: DeliveryLog, characters: int
) -> None:
    await pool.execute(DIGEST, "email")
    await pool.execute("UPDATE notifications.deliveries SET user_id = 'ada', data = $1", f'"{"x" * 20_000}"')
    log = DeliveryLog(Sidecar(pool))
    await _tell_also(pool, "large", "<" * characters)
    claimed = []
    while (due := await log.claim(Channel.EMAIL, set(), 2, 200, LEASE)).claimed:
        claimed += [one.id for one in due.claimed]
        assert due.too_large == 0
    assert (len(claimed), claimed.count("large")) == (USERS * EACH + 1, 1)


async def _tell_also(pool: asyncpg.Pool, name: str, text: str) -> None:
    """Insert a delivery to Ada that is due after some of the others."""
    await pool.execute(
        "UPDATE notifications.deliveries SET due = due - interval '1 day' WHERE id < 'digest-14'"
    )
    await pool.execute(
        """INSERT INTO notifications.deliveries
             (id, tenant, event_id, user_id, channel, kind, data, occurred, status, due)
           SELECT $1, 'default', $1, 'ada', 'email', '', $2, now(), 'pending', max(due) - interval '1 hour'
           FROM notifications.deliveries""",
        name,
        json.dumps({"text": text}),
    )


@pytest.mark.parametrize(("data", "watching"), [(LAWFUL, 150), (ENDLESS, 4)])
async def test_of_many_who_watch_everything_all_are_found(
    pool: asyncpg.Pool, log: DeliveryLog, data: dict[str, Any], watching: int
) -> None:
    users = [f"user-{number}" for number in range(watching)]
    await _prefer(pool, data, *users)
    await _prefer(pool, {"subscriptions": []}, "concerned")
    log = DeliveryLog(Sidecar(pool))
    notices = [
        Notice("default", kind, kind, frozenset({"concerned", "user-1", "unknown"}), {}, datetime.now(UTC))
        for kind in ("task.created", "task.updated", "member.joined")
    ]
    found = await asyncio.gather(*(log.interested(one) for one in notices))
    every = sorted([*users, "concerned"])
    assert [sorted(preferences) for _, preferences in found] == [every, every, ["concerned", "user-1"]]
    assert len(found[2][1]["user-1"].subscriptions) == len(data["subscriptions"])
    _, preferences = await log.interested(replace(notices[0], addressed=True))
    assert sorted(preferences) == ["concerned", "user-1"], "what is addressed to them is told to nobody else"


async def test_a_channel_that_was_named_without_end_is_kept_once(pool: asyncpg.Pool) -> None:
    database = PoolDatabase(pool)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS[:7])
    await _prefer(pool, ENDLESS, "eve")
    await _prefer(pool, LAWFUL, "ada")
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    kept = {
        row["user_id"]: json.loads(row["data"]) for row in await pool.fetch("TABLE notifications.preferences")
    }
    subscription = {"events": "task.*", "channels": ["inbox", "webhook"], "mine": False}
    assert kept == {"ada": LAWFUL, "eve": ENDLESS | {"subscriptions": [subscription]}}


async def test_only_the_webhook_that_somebody_has_is_switched_off_for_what_failed(
    pool: asyncpg.Pool, log: DeliveryLog
) -> None:
    """A claim made before may end after the webhook was replaced or removed; then nothing is switched off."""
    users, unused = Users(PoolDatabase(pool)), cast("Any", None)

    class Hooks:
        async def send(self, _webhook: Webhook, _one: Claimed) -> str:
            raise NotDelivered("410: gone", final=True)

    dispatcher = Dispatcher(log, users, cast("Any", Hooks()), unused, [], lambda: False)

    async def claimed(most: int) -> list[Claimed]:
        return (await log.claim(Channel.WEBHOOK, set(), 1, most, LEASE)).claimed

    async def fail(claimed: list[Claimed]) -> None:
        await dispatcher._send(Channel.WEBHOOK, claimed)

    async def told() -> int:
        return int(await pool.fetchval("SELECT count(*) FROM notifications.inbox WHERE user_id = 'ada'"))

    old, new = (
        Preferences(webhook=Webhook(url=f"https://example.org/{name}", secret="x" * 16))
        for name in ("old", "new")
    )
    await pool.execute(DIGEST, "webhook")
    await pool.execute("UPDATE notifications.deliveries SET user_id = 'ada'")
    await users.prefer("default", "ada", old)
    before = await claimed(6)
    await users.prefer("default", "ada", Preferences())
    await fail(await claimed(6))
    await users.prefer("default", "ada", new)
    await fail(before)
    assert await users.preferences("default", "ada") == new
    assert await told() == 0
    await fail(await claimed(4))
    await users.webhook_works("default", "ada", "https://example.org/old")
    await fail(await claimed(1))
    assert await users.preferences("default", "ada") == Preferences()
    assert await told() == 1


async def test_a_webhook_that_is_stored_as_it_was_typed_is_switched_off_too(
    pool: asyncpg.Pool, log: DeliveryLog
) -> None:
    users = Users(PoolDatabase(pool))
    typed = {"webhook": {"url": "https://EXAMPLE.org", "secret": "x" * 16}}
    await _prefer(pool, typed, "ada")
    failures = "SELECT webhook_failures FROM notifications.preferences"

    async def fail() -> None:
        webhook = (await users.preferences("default", "ada")).webhook
        assert webhook is not None
        await users.webhook_fails("default", "ada", webhook.url, "410: gone")

    await fail()
    assert await pool.fetchval(failures) == 1
    webhook = (await users.preferences("default", "ada")).webhook
    assert webhook is not None
    await users.webhook_works("default", "ada", webhook.url)
    assert await pool.fetchval(failures) == 0
    for _ in range(5):
        await fail()
    assert (await users.preferences("default", "ada")).webhook is None


async def test_of_a_large_notice_all_are_told_at_once(pool: asyncpg.Pool) -> None:
    database = Sidecar(pool)
    await migrate(database, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
    users = [f"user-{number}" for number in range(500)]
    notice = Notice(
        "default", "event", "task.created", frozenset(users), {"text": "x" * 50_000}, datetime.now(UTC)
    )
    added = await DeliveryLog(database).add(
        notice, [Planned(one, Channel.INBOX, datetime.now(UTC)) for one in users]
    )
    assert added == {"inbox": 500}
    assert (
        await pool.fetchval(
            "SELECT count(*) FROM notifications.inbox WHERE data = $1", json.dumps(notice.data)
        )
        == 500
    )


@pytest.mark.parametrize(
    ("zone", "occurred"),
    [
        ("Europe/Berlin", datetime(9999, 12, 31, 23, 30, tzinfo=UTC)),
        ("America/New_York", datetime(1, 1, 1, 0, 30, tzinfo=UTC)),
    ],
)
async def test_what_happened_at_an_end_of_the_calendar_is_claimed_whatever_the_databases_zone(
    database: str, zone: str, occurred: datetime
) -> None:
    async with asyncpg.create_pool(database, min_size=1, server_settings={"timezone": zone}) as pool:
        tables = PoolDatabase(pool)
        await migrate(tables, migrations.SCHEMA, migrations.LOCK, migrations.MIGRATIONS)
        log = DeliveryLog(tables)
        notice = Notice("default", "event", "task.created", frozenset({"ada"}), {}, occurred)
        await log.add(notice, [Planned("ada", Channel.EMAIL, datetime.now(UTC) - timedelta(seconds=1))])
        [claimed] = (await log.claim(Channel.EMAIL, set(), 1, 1, LEASE)).claimed
    assert claimed.occurred == occurred


def _of(due: Due, receiver: Receiver) -> list[Claimed]:
    return [one for one in due.claimed if one.receiver == receiver]
