"""An event that cannot become a row parks its stream; all other streams go on."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from annals.deadletters import DeadLetter
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.projections import Applier, Change, Generation, Patch, Projection, Put, Table
from annals.projections.folded_rows import FoldedRows
from annals.store import Append, MemoryEventStore
from annals.testing import projected
from rows_written import TakesEveryRow


def nested(depth: int) -> list[Any]:
    """Return lists nested `depth` deep."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


_WRONG = {
    "a set": Put({"words": {"b"}}),
    "a decimal": Put({"words": Decimal("1.5")}),
    "a duration": Patch({"words": timedelta(1)}),
    "a large number": Patch({"words": 2**64}),
    "what is nested too deep": Put({"words": nested(254)}),
    "what is nested too deep for a statement": Put({"words": nested(252)}),
    "a change that is": Patch({"words": nested(253)}),
    "no change": cast("Change", None),
}


class Letters:
    """Dead letters without corrections; what is parked stays parked."""

    def __init__(self) -> None:
        self.parked: dict[str, DeadLetter] = {}

    def require_fresh(self, *_: object) -> None:
        pass

    def find(self, _consumer: str, stream: StreamId, _generation: int) -> DeadLetter | None:
        return self.parked.get(stream.name)

    def corrected(self, _consumer: str, event: RecordedEvent) -> RecordedEvent:
        return event

    async def park(self, letter: DeadLetter, _detail: object) -> None:
        self.parked[letter.stream] = letter


def words(wrong: str) -> Projection:
    """Return a projection that fails on the task `b`."""
    right: Change = Put({"words": "some"})
    return Projection(
        Table("words", {"words": "jsonb"}),
        "task",
        {"task.created": lambda event: _WRONG[wrong] if event.aggregate_id == "b" else right},
    )


@pytest.mark.parametrize("wrong", _WRONG)
@pytest.mark.parametrize("rebuilt", [True, False])
async def test_what_no_row_can_be_made_of_parks_its_stream_alone(wrong: str, rebuilt: bool) -> None:
    store, database, letters = MemoryEventStore(), TakesEveryRow(), Letters()
    events: list[RecordedEvent] = []
    for name in "abc":
        stream = StreamId.of("default", "task", name)
        created = DomainEvent(
            event_type="task.created", source="test", aggregate_type="task", aggregate_id=name, data={}
        )
        await store.append(Append(stream, (created,), 0))
        events += [event async for event in store.read_stream(stream)]
    generation, known = Generation(words(wrong), 1), cast("Any", letters)
    if rebuilt:
        rows = FoldedRows(database, store, generation, known)
        await rows.take(events)
        await rows.write()
    else:
        assert not await Applier(database, store, lambda: [generation], known, lambda _: None).apply(events)
    assert sorted(database.written) == ["a", "c"]
    assert list(letters.parked) == ["task-b"]
    assert letters.parked["task-b"].reason.startswith("TypeError: ")


@pytest.mark.parametrize("wrong", _WRONG)
def test_what_no_row_can_be_made_of_fails_its_test(wrong: str) -> None:
    said = {"task.created": lambda _: _WRONG[wrong]}
    happened = projected(Projection(Table("words", {"words": "jsonb"}), "task", said), ("task.created", {}))
    with pytest.raises(TypeError):
        happened.then(words="some")


@pytest.mark.parametrize(
    "change", [Put({"words": ["some"]}), Patch({"words": None}), Patch({"words": "some"})]
)
def test_what_is_no_object_for_a_column_of_maps_fails_its_test(change: Change) -> None:
    """The database would join it and the existing value to an array."""
    table = Table("words", {"words": "jsonb"}, maps=("words",))
    words = Projection(
        table, "task", {"task.created": lambda _: Put({"words": None}), "task.x": lambda _: change}
    )
    happened = projected(words, ("task.created", {})).then(words=None)
    with pytest.raises(TypeError, match="words"):
        happened.when(("task.x", {})).then(words=None)
