"""How long a query waits for a position; it looks once even if it must not wait."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from annals.dapr import Database
from annals.events import DomainEvent, Position
from annals.projections import Visibility, visibility
from annals.projections.visibility import NotVisible
from annals.store import Append, MemoryEventStore


class Index:
    """Has all events of a commit or none, and takes its time to answer."""

    def __init__(self, events: int, seconds: float = 0.01) -> None:
        self.events = events
        self.seconds = seconds
        self.looks = 0

    async def fetch(self, _sql: str, *_: str | None) -> Any:
        self.looks += 1
        await asyncio.sleep(self.seconds)
        return {"settled": True, "passed": False, "events": self.events}


async def wait(index: Index, seconds: float) -> None:
    event = DomainEvent(event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id="1")
    store = MemoryEventStore()
    await store.append(Append(event.stream, (event, event), 0))
    await Visibility(cast("Database", index), store).wait(Position(0, 1), seconds)


async def test_what_is_visible_is_seen_without_any_wait() -> None:
    index = Index(events=2)
    await wait(index, 0)
    assert index.looks == 1


async def test_what_is_not_visible_is_looked_for_once_where_nobody_is_to_wait() -> None:
    index = Index(events=1)
    async with asyncio.timeout(30):
        with pytest.raises(NotVisible, match="after 0 s"):
            await wait(index, 0)
    assert index.looks == 1


async def test_what_is_not_visible_is_looked_for_again_as_long_as_is_to_be_waited() -> None:
    index = Index(events=1)
    with pytest.raises(NotVisible, match=r"after 1 s"):
        await wait(index, 1)
    assert index.looks > 1


async def test_a_look_does_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "_LOOK_SECONDS", 0.05)
    async with asyncio.timeout(30):
        with pytest.raises(NotVisible):
            await wait(Index(events=2, seconds=60), 0)
