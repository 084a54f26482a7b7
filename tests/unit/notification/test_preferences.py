from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from annals.events import DomainEvent, Event, IntegrationEvent
from annals_notification.deliveries.channels import signed
from annals_notification.deliveries.plan import Notice, notices_of, plan
from annals_notification.deliveries.preferences import Channel, GivenPreferences, Preferences
from annals_notification.reminders import plan as plan_reminders

NOW = datetime(2030, 6, 1, 21, 30, tzinfo=UTC)
WEBHOOK = {"url": "https://example.com/hook", "secret": "a-secret-of-enough-length"}


def notice(kind: str, *concerns: str) -> Notice:
    return Notice("default", "e1", kind, frozenset(concerns), {}, NOW)


def prefer(**fields: object) -> Preferences:
    return Preferences.model_validate(fields)


def test_without_preferences_a_user_is_told_in_the_inbox_of_what_concerns_them() -> None:
    assert [(one.user, one.channel) for one in plan(notice("task.assigned", "ada"), {}, NOW)] == [
        ("ada", Channel.INBOX)
    ]
    assert plan(notice("task.updated", "ada"), {}, NOW) == []


def test_subscriptions_choose_events_and_channels() -> None:
    everything = prefer(
        email="ada@example.com",
        subscriptions=[
            {"events": "task.*", "channels": ["inbox", "email"], "mine": False},
            {"events": "member.left", "channels": ["webhook"]},
        ],
    )
    told = plan(notice("task.completed", "bob"), {"ada": everything}, NOW)
    assert [(one.user, one.channel) for one in told] == [("ada", Channel.INBOX), ("ada", Channel.EMAIL)]
    assert plan(notice("member.left", "ada"), {"ada": everything}, NOW) == [], "there is no webhook"


def test_what_is_addressed_to_somebody_is_told_to_nobody_else() -> None:
    curious = prefer(subscriptions=[{"events": kind, "mine": False} for kind in ("notification.*", "task.*")])

    def told(event: Event) -> list[str]:
        return [one.user for one in plan(Notice.of(event), {"eve": curious}, NOW)]

    def asked(**data: str) -> IntegrationEvent:
        return IntegrationEvent(event_type="notification.requested", source="test", data=data)

    assert told(asked(user="ada", kind="handover_requested")) == ["ada"]
    assert told(asked(user="eve")) == ["eve"]
    assert told(asked(text="the office is closed")) == ["eve"], (
        "whom nobody names it tells all who ask for it"
    )
    assigned = DomainEvent(
        event_type="task.assigned",
        source="test",
        aggregate_type="task",
        aggregate_id="7",
        data={"assignee": "ada"},
    )
    assert told(assigned) == ["ada", "eve"], "what the store has all of the tenant may see"


@pytest.mark.parametrize(
    "kind", ["member.registered", "member.capacity_set", "member.reserved", "member.left"]
)
def test_what_happens_to_a_member_concerns_them(kind: str) -> None:
    wants = {name: prefer(subscriptions=[{"events": "member.*"}]) for name in ("ada", "eve")}
    event = DomainEvent(
        event_type=kind, source="test", aggregate_type="member", aggregate_id="ada", data={"task_id": "7"}
    )
    assert [one.user for one in plan(Notice.of(event), wants, NOW)] == ["ada"]
    assert plan(Notice.of(event), {}, NOW) == [], "who did not ask for it is told nothing more"


def test_who_is_given_a_task_as_it_is_created_is_told_that_it_was_assigned_to_them() -> None:
    watching = prefer(subscriptions=[{"events": "task.*", "mine": False}])
    assignments = prefer(subscriptions=[{"events": "task.assigned", "mine": False}])

    def noticed(**data: str) -> list[Notice]:
        return notices_of(
            DomainEvent(
                event_type="task.created", source="test", aggregate_type="task", aggregate_id="7", data=data
            )
        )

    def told(**data: str) -> list[tuple[str, str]]:
        return [
            (one.user, notice.kind)
            for notice in noticed(**data)
            for one in plan(notice, {"eve": watching, "ian": assignments}, NOW)
        ]

    def first(**data: str) -> dict[str, str]:
        """Return the kind of notice for each user: the log keeps the first of an event, user and channel."""
        kept: dict[str, str] = {}
        for user, kind in told(**data):
            kept.setdefault(user, kind)
        return kept

    assert first(title="x", assignee="ada") == {
        "ada": "task.assigned",
        "eve": "task.created",
        "ian": "task.assigned",
    }
    assert told(title="x") == [("eve", "task.created")]
    assert noticed(title="x", assignee="ada")[0].data == {
        "assignee": "ada",
        "previous": None,
        "stream": "task-7",
    }
    assert told(title="x", assignee="eve")[0] == ("eve", "task.assigned")


def test_a_channel_that_is_named_again_and_again_is_kept_once() -> None:
    named = ["inbox"] * 130_000 + ["webhook", "inbox"]
    wants = Preferences.stored(
        {"subscriptions": [{"events": "task.*", "channels": named}], "webhook": WEBHOOK}
    )
    assert wants.subscriptions[0].channels == (Channel.INBOX, Channel.WEBHOOK)


def test_quiet_hours_span_midnight_in_the_users_own_zone() -> None:
    quiet = prefer(
        timezone="Europe/Berlin",
        quiet_hours={"start": "22:00", "end": "07:00"},
        webhook=WEBHOOK,
        subscriptions=[{"events": "task.*", "channels": ["inbox", "webhook"]}],
    )
    told = plan(notice("task.assigned", "ada"), {"ada": quiet}, NOW)
    morning = datetime(2030, 6, 2, 5, tzinfo=UTC)
    assert [(one.channel, one.due) for one in told] == [(Channel.INBOX, NOW), (Channel.WEBHOOK, morning)]
    by_day = NOW - timedelta(hours=6)
    assert {one.due for one in plan(notice("task.assigned", "ada"), {"ada": quiet}, by_day)} == {by_day}


def test_quiet_hours_end_after_now_also_where_clocks_are_changed() -> None:
    wants = prefer(timezone="Europe/Berlin", quiet_hours={"start": "22:00", "end": "02:30"})
    # 02:15 comes at 00:15 and at 01:15 UTC; in spring 02:30 does not exist.
    for at, ends in (
        ("2030-10-27T01:15+00:00", "2030-10-27T01:30+00:00"),
        ("2030-10-26T21:00+00:00", "2030-10-27T01:30+00:00"),
        ("2030-10-28T01:15+00:00", "2030-10-28T01:30+00:00"),
        ("2030-03-31T00:45+00:00", "2030-03-31T01:30+00:00"),
    ):
        end = wants.undisturbed(datetime.fromisoformat(at))
        assert end == datetime.fromisoformat(ends)
        assert wants.undisturbed(end) == end
    every_quarter = [datetime(2030, 10, 26, 12, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(192)]
    assert all(wants.undisturbed(at) >= at for at in every_quarter)


@pytest.mark.parametrize(
    ("channel", "digest_at", "held"),
    [
        (Channel.WEBHOOK, None, True),
        (Channel.WEBHOOK, "03:00", True),
        (Channel.EMAIL, None, True),
        (Channel.EMAIL, "18:00", True),
        (Channel.EMAIL, "03:00", False),
    ],
)
def test_what_is_due_goes_out_in_the_quiet_only_as_a_digest_that_is_to_come_then(
    channel: Channel, digest_at: str | None, held: bool
) -> None:
    wants = prefer(quiet_hours={"start": "22:00", "end": "07:00"}, digest_at=digest_at)
    night, morning = datetime(2030, 6, 1, 23, tzinfo=UTC), datetime(2030, 6, 2, 7, tzinfo=UTC)
    assert wants.sendable(channel, night) == (morning if held else night)
    assert wants.sendable(channel, morning) == morning


def test_a_digest_comes_at_its_time() -> None:
    digest = prefer(
        timezone="Europe/Berlin",
        digest_at="08:00",
        email="ada@example.com",
        subscriptions=[{"events": "task.*", "channels": ["email"]}],
    )
    [told] = plan(notice("task.assigned", "ada"), {"ada": digest}, NOW)
    assert told.due == datetime(2030, 6, 2, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": "a@b.c, d@e.f"}, "email"),
        ({"timezone": "Mars/Base"}, "not a time zone"),
        ({"webhook": {"url": "ftp://example.com", "secret": "x" * 16}}, "webhook"),
        ({"webhook": {"url": "http://[x", "secret": "x" * 16}}, "not a URL"),
        ({"webhook": {"url": "http://example.com:99999", "secret": "x" * 16}}, "not a URL"),
        ({"webhook": {"url": "https://example.com", "secret": "short"}}, "secret"),
        ({"subscriptions": [{"events": "task.*", "channels": ["pigeon"]}]}, "channels"),
        ({"quiet_hours": {"start": "22:00Z", "end": "07:00"}}, "has an offset"),
        ({"quiet_hours": {"start": "22:00", "end": "07:00:00+02:00"}}, "has an offset"),
        ({"digest_at": "08:00+02:00"}, "has an offset"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Preferences.model_validate(fields)


def test_of_what_was_stored_all_counts_that_still_holds() -> None:
    stored = {"timezone": "Europe/Atlantis", "email": "ada@example.org", "webhook": {"url": "http://[x"}}
    assert Preferences.stored(stored) == Preferences(email="ada@example.org")


def test_who_was_let_have_quiet_hours_with_an_offset_is_told_all_the_same() -> None:
    stored = {"quiet_hours": {"start": "22:00Z", "end": "07:00"}, "email": "ada@example.org"}
    wants = Preferences.stored(stored | {"subscriptions": [{"events": "task.*", "channels": ["email"]}]})
    [told] = plan(notice("task.assigned", "ada"), {"ada": wants}, NOW)
    assert (told.channel, told.due) == (Channel.EMAIL, NOW)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://example.org", "https://example.org/"),
        ("https://EXAMPLE.org/hook", "https://example.org/hook"),
        ("https://example.org:443/hook", "https://example.org/hook"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
    ],
)
def test_a_url_from_before_it_had_a_normal_form_is_read_as_it_is_stored_and_keeps_its_secret(
    url: str, normal: str
) -> None:
    stored = Preferences.stored({"webhook": WEBHOOK | {"url": url}})
    assert stored.webhook is not None
    assert (stored.webhook.url, stored.webhook.address) == (url, normal)
    given = GivenPreferences.model_validate({"webhook": {"url": url}})
    assert given.kept(stored) == prefer(webhook=WEBHOOK | {"url": normal})


@pytest.mark.parametrize("events", ["saga.failed", "saga.*"])
def test_what_sagas_record_nobody_can_ask_to_be_told_and_who_once_did_keeps_the_rest(events: str) -> None:
    wanted = [{"events": "task.*"}, {"events": events, "channels": ["email"], "mine": False}]
    with pytest.raises(ValidationError) as refused:
        GivenPreferences.model_validate({"subscriptions": wanted})
    [error] = refused.value.errors()
    assert error["loc"] == ("subscriptions", 1, "events")
    assert "live streams only" in error["msg"]
    stored = Preferences.stored({"subscriptions": wanted})
    assert [one.events for one in stored.subscriptions] == ["task.*", events]
    assert GivenPreferences.model_validate({}).kept(stored) == prefer()


def test_reminders_are_planned_for_what_is_still_to_come() -> None:
    before = (timedelta(hours=24), timedelta(hours=1), timedelta(0))
    due = NOW + timedelta(hours=5)
    task = {"status": "todo", "due": due.isoformat()}
    assert [(one.kind, one.fires) for one in plan_reminders(task, before, NOW)] == [
        ("1h", due - timedelta(hours=1)),
        ("due", due),
    ]
    assert plan_reminders(task | {"status": "done"}, before, NOW) == []
    assert plan_reminders({"status": "todo", "due": None}, before, NOW) == []
    assert plan_reminders(None, before, NOW) == []


def test_two_ways_to_say_one_time_before_a_due_date_are_one_reminder() -> None:
    """A statement with two rows of one id would be refused by PostgreSQL."""
    task = {"status": "todo", "due": (NOW + timedelta(days=2)).isoformat()}
    before = (timedelta(hours=24), timedelta(days=1), timedelta(days=1, milliseconds=1), timedelta(0))
    assert [one.kind for one in plan_reminders(task, before, NOW)] == ["24h", "due"]


def test_a_signature_is_that_of_id_time_and_body() -> None:
    headers = signed("secret-secret-secret", "msg_1", datetime(2030, 1, 1, tzinfo=UTC), b'{"a":1}')
    content = b'msg_1.1893456000.{"a":1}'
    expected = base64.b64encode(hmac.new(b"secret-secret-secret", content, "sha256").digest()).decode()
    assert headers["webhook-timestamp"] == "1893456000"
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_signature_is_that_of_the_specifications_own_example() -> None:
    """Every library of Standard Webhooks verifies this test vector (standard-webhooks/libraries)."""
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_says_it_is_encoded_and_is_not_is_refused_and_a_stored_one_signs_as_it_did() -> None:
    for behind in (
        "not-base64!" * 3,
        base64.b64encode(b"x" * 23).decode(),
        base64.b64encode(b"x" * 65).decode(),
    ):
        webhook = {"url": WEBHOOK["url"], "secret": f"whsec_{behind}"}
        with pytest.raises(ValidationError, match="24 to 64 bytes in Base64"):
            GivenPreferences.model_validate({"webhook": webhook})
        stored = Preferences.stored({"webhook": webhook})
        assert stored.webhook is not None
        signature = signed(stored.webhook.secret, "m", datetime.fromtimestamp(1, UTC), b"{}")
        expected = hmac.new(stored.webhook.secret.encode(), b"m.1.{}", "sha256").digest()
        assert signature["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
        same = GivenPreferences.model_validate({"webhook": {"url": WEBHOOK["url"]}})
        assert same.kept(stored).webhook == stored.webhook


def test_a_webhook_that_stays_where_it_was_keeps_its_secret_and_another_needs_one() -> None:
    stored = prefer(webhook=WEBHOOK, timezone="Europe/Berlin", digest_at="08:00")
    url = WEBHOOK["url"]

    def kept(**fields: object) -> Preferences:
        return GivenPreferences.model_validate(fields).kept(stored)

    assert kept(webhook={"url": url}, email="ada@example.com") == prefer(
        webhook=WEBHOOK, email="ada@example.com"
    )
    other = {"url": url, "secret": "another-secret-of-length"}
    assert kept(webhook=other) == prefer(webhook=other)
    assert kept() == prefer(), "they are replaced, not added to"
    for given, before in (({"url": f"{url}/else"}, stored), ({"url": url}, prefer())):
        with pytest.raises(ValidationError, match="secret"):
            GivenPreferences.model_validate({"webhook": given}).kept(before)
    with pytest.raises(ValidationError, match="16 characters"):
        kept(webhook={"url": url, "secret": "short"})
