"""Events that come before the catalogue was read come again."""

from __future__ import annotations

from typing import Any

import orjson

from annals.events import RecordedEvent, to_cloudevent_json
from annals.projections import Applier, Generations
from annals.store import MemoryEventStore
from annals_projector.read_models import PROJECTIONS
from annals_projector.subscription import Inbound


class Letters:
    """Dead letters that have been read, so what is parked is known."""

    def require_fresh(self, *_: object) -> None:
        pass


class Database:
    """Fails the test when it is asked."""

    async def fetch(self, sql: str, *_: str | None) -> Any:
        raise AssertionError(sql)


async def test_what_comes_before_the_catalogue_was_read_is_not_indexed() -> None:
    database, letters = Database(), Letters()
    made: Any = letters
    generations = Generations(made, PROJECTIONS)
    store = MemoryEventStore()
    applier = Applier(database, store, lambda: generations.live, made, lambda _: None)
    event = RecordedEvent(
        event_type="task.created",
        source="test",
        aggregate_type="task",
        aggregate_id="a",
        data={"title": "early"},
        version=1,
        lane=0,
        seq=1,
    )
    assert await Inbound(applier, store, made).deliver({"e": orjson.loads(to_cloudevent_json(event))}) == {
        "e": "RETRY"
    }
