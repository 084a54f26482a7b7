"""Messages from other systems are accepted as docs/api/asyncapi.json says."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from annals.dapr import DaprSidecar, StatementRefused
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, RecordedEvent
from annals.testing.fake import FakeSidecar
from annals_notification.deliveries.plan import Notice
from annals_notification.subscription import Inbound
from conftest import until

CONTRACT = Path(__file__).resolve().parents[3] / "docs" / "api" / "asyncapi.json"
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Notices:
    def __init__(self) -> None:
        self.told: list[Notice] = []

    async def tell(self, notice: Notice) -> None:
        self.told.append(notice)


class Kept:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def park(self, *letter: Any) -> None:
        self.reasons.append(letter[0].reason)


class Subscribed:
    """The service's message handling, and what came of the messages."""

    def __init__(self) -> None:
        self.notices, self.dead_letters, unused = Notices(), Kept(), cast("Any", None)
        self.inbound = Inbound(
            cast("Any", self.notices), unused, unused, unused, cast("Any", self.dead_letters)
        )

    async def deliver(self, data: dict[str, Any], **attributes: Any) -> None:
        cloudevent = {"specversion": "1.0", "id": "c-1", "source": "a", "type": "a.b", "data": data}
        assert await self.inbound.delivered(cloudevent | attributes) == "SUCCESS"


@pytest.fixture
def subscribed() -> Subscribed:
    return Subscribed()


def required() -> dict[str, Any]:
    """Return an envelope with only the fields that the contract requires."""
    schema = json.loads(CONTRACT.read_text())["components"]["schemas"]["IntegrationEvent"]
    examples = {"event_type": "order.paid", "source": "shop"}
    return {name: examples[name] for name in schema["required"]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"version": 2},
        {"aggregate_id": "7"},
        {"command_type": "order.pay"},
        {"query_type": "no query"},
    ],
    ids=lambda more: next(iter(more), "nothing"),
)
async def test_an_event_with_what_the_contract_asks_for_is_told(
    subscribed: Subscribed, more: dict[str, Any]
) -> None:
    await subscribed.deliver(required() | {"data": {"user": "ada"}} | more, traceparent=TRACEPARENT)
    assert subscribed.dead_letters.reasons == []
    [notice] = subscribed.notices.told
    assert (notice.kind, notice.concerns) == ("order.paid", frozenset({"ada"}))
    assert notice.traceparent == TRACEPARENT


async def test_an_event_without_id_and_time_has_those_of_its_message_each_time_it_comes(
    subscribed: Subscribed,
) -> None:
    """An event with a new id each time would be told twice."""
    for _ in range(2):
        await subscribed.deliver(required(), id="c-7", time="2030-01-01T10:00:00+01:00")
    first, again = subscribed.notices.told
    assert first == again
    assert (first.event_id, first.occurred) == ("c-7", datetime(2030, 1, 1, 9, tzinfo=UTC))
    assert first.correlation_id == "c-7"


async def test_an_event_keeps_its_own_id_and_time(subscribed: Subscribed) -> None:
    own = {"event_id": "e-1", "timestamp": "2030-01-01T09:00:00Z"}
    await subscribed.deliver(required() | own, id="c-7", time="2031-01-01T09:00:00Z")
    [notice] = subscribed.notices.told
    assert (notice.event_id, notice.occurred) == ("e-1", datetime(2030, 1, 1, 9, tzinfo=UTC))


async def test_what_the_contract_does_not_know_is_kept(subscribed: Subscribed) -> None:
    await subscribed.deliver({"event_type": "order.paid"})
    assert subscribed.notices.told == []
    assert "source" in subscribed.dead_letters.reasons[0]


async def test_a_text_that_no_database_holds_is_kept_at_once_and_says_so(subscribed: Subscribed) -> None:
    for fields, path in (
        ({"event_id": "a\0b"}, "event_id"),
        ({"correlation_id": "a\0b"}, "correlation_id"),
        ({"target_services": ["a", "a\0b"]}, "target_services[1]"),
        ({"sent_by": {"office": ["a\0b"]}}, "sent_by.office[0]"),
        ({"sent_by": {"a\0b": 1}}, "sent_by"),
        ({"sent\0by": "a"}, "event"),
    ):
        await subscribed.deliver(required() | fields)
        [reason] = subscribed.dead_letters.reasons[-1:]
        assert f"{path}: PostgreSQL and others hold no text with a NUL" in reason
    assert subscribed.notices.told == []


async def test_a_number_that_brokers_round_is_kept_at_once_and_says_so(subscribed: Subscribed) -> None:
    await subscribed.deliver(required() | {"sent_by": {"office": 2**53}})
    assert "sent_by.office: a number beyond 2^53-1" in subscribed.dead_letters.reasons[0]
    assert subscribed.notices.told == []


class Refused:
    """Notices that the database refuses."""

    async def tell(self, _notice: Notice) -> None:
        raise StatementRefused("the statement failed")


async def test_what_the_database_refuses_is_kept_at_last_and_parked_again_when_it_is_replayed() -> None:
    async with FakeSidecar() as fake:
        sidecar, unused = DaprSidecar(fake.grpc_port), cast("Any", None)
        letters = DeadLetters(sidecar, "eventstore", "notification")
        inbound = Inbound(cast("Any", Refused()), unused, unused, unused, letters)
        cloudevent = {"specversion": "1.0", "id": "c-1", "source": "a", "type": "a.b", "data": required()}
        assert await inbound.delivered(cloudevent) == "RETRY"
        assert letters.parked("default") == []
        assert await inbound.delivered(cloudevent, last=True) == "SUCCESS"
        await letters.release(letters.parked("default"), "ada", "mended")
        reading = asyncio.create_task(inbound.read_again())

        async def parked_again() -> bool:
            return not letters.released()

        try:
            await until(parked_again)
        finally:
            reading.cancel()
            await sidecar.close()
        [letter] = letters.parked("default")
        assert (letter.attempts, letter.reason) == (2, "the statement failed")


class Users:
    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []

    async def forget(self, tenant: str, user: str) -> None:
        self.forgotten.append((tenant, user))


class Reminders:
    async def on_event(self, _event: RecordedEvent) -> None: ...

    async def on_imported(self, _event: RecordedEvent) -> None: ...


@pytest.mark.parametrize("imported", [False, True])
async def test_who_is_erased_is_forgotten_also_by_an_import(imported: bool) -> None:
    """The tables may have been put back from a backup of before the erasure."""
    users, unused = Users(), cast("Any", None)
    inbound = Inbound(cast("Any", Notices()), cast("Any", Reminders()), unused, cast("Any", users), unused)
    handle = inbound.imported if imported else inbound.recorded
    for kind, subject in (("subject.erased", "zoe"), ("member.left", "ada")):
        event = DomainEvent(
            event_type=kind,
            source="command",
            tenant_id="acme",
            aggregate_type=kind.partition(".")[0],
            aggregate_id=subject,
        )
        await handle(RecordedEvent.record(event, version=1, lane=0, seq=1))
    assert users.forgotten == [("acme", "zoe")]
