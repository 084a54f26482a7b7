"""Of a message that was given up or edited, the projector applies what the store has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import orjson
import pytest

from annals.events import DomainEvent, RecordedEvent, StreamId, to_cloudevent_json
from annals.store import Append, MemoryEventStore
from annals_projector.subscription import Inbound

STREAM = StreamId("acme", "task-a")


class Applied:
    """Stands for the applier, and keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []

    async def apply(self, events: Iterable[RecordedEvent]) -> frozenset[StreamId]:
        self.events += events
        return frozenset()


class Kept:
    """Stands for the dead letters, and keeps the reasons."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def park(self, *letter: Any) -> None:
        self.reasons.append(letter[0].reason)


class Damaged(MemoryEventStore):
    """A store whose events cannot be decoded."""

    async def read_raw_events(self, refs: Any, **_: Any) -> list[bytes | None]:
        return [b"{" for _ in refs]


class Subscribed:
    """The projector's message handling, with one event in the store, and what came of the messages."""

    def __init__(self, store: MemoryEventStore) -> None:
        self.store, self.applied, self.kept = store, Applied(), Kept()
        self.inbound = Inbound(cast("Any", self.applied), store, cast("Any", self.kept))

    async def stored(self) -> RecordedEvent:
        event = DomainEvent(
            event_type="task.created",
            source="test",
            tenant_id=STREAM.tenant,
            aggregate_type="task",
            aggregate_id="a",
            data={"title": "as it is"},
        )
        await self.store.append(Append(STREAM, (event,), 0))
        return (await self.store.read_events([(STREAM, 1)]))[0]


def message(event: RecordedEvent, **other: Any) -> Any:
    return orjson.loads(to_cloudevent_json(event.with_context(**other)))


@pytest.mark.parametrize("other", [{"data": {"title": "forged"}}, {"lane": 7, "seq": 900_000_000}])
async def test_an_event_is_applied_as_the_store_has_it(other: dict[str, Any]) -> None:
    subscribed = Subscribed(MemoryEventStore())
    event = await subscribed.stored()
    assert await subscribed.inbound.given_up(message(event, **other)) == "SUCCESS"
    assert subscribed.applied.events == [event]
    assert subscribed.kept.reasons == []


@pytest.mark.parametrize("other", [{"version": 2}, {"aggregate_id": "forged"}, {"tenant_id": "globex"}])
async def test_an_event_that_the_store_does_not_have_is_kept_and_not_applied(other: dict[str, Any]) -> None:
    subscribed = Subscribed(MemoryEventStore())
    event = await subscribed.stored()
    assert await subscribed.inbound.given_up(message(event, **other)) == "SUCCESS"
    assert subscribed.applied.events == []
    assert subscribed.kept.reasons == ["the event is not in the store"]


async def test_an_event_that_is_damaged_in_the_store_is_kept_and_holds_up_no_other() -> None:
    subscribed = Subscribed(Damaged())
    event = await subscribed.stored()
    assert await subscribed.inbound.given_up(message(event)) == "SUCCESS"
    assert subscribed.applied.events == []
    assert "cannot be decoded" in subscribed.kept.reasons[0]
