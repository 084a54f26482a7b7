"""A projection that fails on everything parks up to the limit, and stops no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters, TooManyParked
from annals.events import DomainEvent, RecordedEvent
from annals.projections import (
    Applier,
    Change,
    Generation,
    Generations,
    GenerationStatus,
    Replays,
    replays,
)
from annals.projections.folded_rows import FoldedRows
from annals.projections.generations import CatalogueEntry
from annals.store import Append, MemoryEventStore
from annals.testing.fake import FakeSidecar
from annals_projector.read_models import PROJECTIONS, TASKS
from rows_written import TakesEveryRow


def broken(event: RecordedEvent) -> Change:
    raise KeyError(event.event_type)


async def created(store: MemoryEventStore, count: int) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    for number in range(count):
        event = DomainEvent(
            event_type="task.created",
            source="test",
            aggregate_type="task",
            aggregate_id=f"t{number}",
            data={"title": "a"},
        )
        await store.append(Append(event.stream, (event,), 0))
        events += [event async for event in store.read_stream(event.stream)]
    return events


@pytest.mark.parametrize("rebuilt", [True, False])
async def test_a_faulty_version_stops_itself_at_the_bound(
    rebuilt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MAX_PARKED", 5)
    store, database = MemoryEventStore(), TakesEveryRow()
    events = await created(store, 20)
    faulty = Generation(replace(TASKS, changes={"task.created": broken}, version=3), 3)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        letters, of_another = (DeadLetters(client, "eventstore", "projector") for _ in range(2))
        await letters.refresh()
        if rebuilt:
            rows = FoldedRows(database, store, faulty, letters)
            await rows.take(events)
            with pytest.raises(TooManyParked):
                await rows.write()
        else:
            with pytest.raises(TooManyParked):
                await Applier(database, store, lambda: [faulty], letters).apply(events)
        await of_another.refresh()
        assert len(of_another.parked("default")) == 5

        live = Applier(database, store, lambda: [Generation(TASKS, 2)], of_another, lambda _: None)
        assert not await live.apply(events)

        assert sorted(database.written) == sorted(event.aggregate_id for event in events)
        await client.close()


@pytest.mark.parametrize("bound", ["_MAX_PARKED", "_MOST_PARKED"])
@pytest.mark.parametrize("status", [GenerationStatus.LIVE, GenerationStatus.BUILDING])
async def test_what_was_parked_up_to_the_bound_is_handled_once_it_is_released(
    bound: str, status: GenerationStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"annals.deadletters.index.{bound}", 5)
    monkeypatch.setattr(replays, "SETTLED_SECONDS", 0)
    store, database = MemoryEventStore(), TakesEveryRow()
    events = await created(store, 7)
    faulty = Generation(replace(TASKS, changes={"task.created": broken}), 1)
    mended = Generation(TASKS, 1)
    generations = Generations(database, PROJECTIONS)
    generations.all = (
        CatalogueEntry("tasks", 1, TASKS.version, status, "", True, None, True, "2030", False, {}),
    )
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        letters = DeadLetters(client, "eventstore", "projector")
        await letters.refresh()
        fails = Applier(database, store, lambda: [faulty], letters, lambda _: None)
        with pytest.raises(TooManyParked):
            await fails.apply(events)
        await letters.refresh()
        await letters.release(letters.parked("default"), "ada", "mended")
        with pytest.raises(TooManyParked):  # a released letter may fail again, so there is no room for more
            await fails.apply(events[5:])
        assert len(letters.released()) == 5

        applier = Applier(database, store, lambda: [mended], letters, lambda _: None)
        again = Replays(database, store, applier, generations, letters)
        for letter in letters.released():
            await again._replay(letter)

        assert sorted(database.written) == [f"t{number}" for number in range(5)]
        assert not letters.parked("default")
        assert not await applier.apply(events[5:])
        await client.close()


async def test_a_release_that_becomes_known_in_the_midst_of_a_batch_holds_from_the_next_one_on() -> None:
    store = MemoryEventStore()
    events = await created(store, 1)
    faulty = Generation(replace(TASKS, changes={"task.created": broken}), 1)
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        letters, of_another = (DeadLetters(client, "eventstore", "projector") for _ in range(2))
        await letters.refresh()
        await Applier(TakesEveryRow(), store, lambda: [faulty], letters).apply(events)
        await of_another.refresh()
        await of_another.release(of_another.parked("default"), "ada", "mended")

        class Refreshing(TakesEveryRow):
            """A database in which the release becomes known in the middle of a statement."""

            async def fetch(self, sql: str, *params: str | None) -> Any:
                await letters.refresh()
                if "wanted" in sql:
                    return []
                tables = [orjson.loads(rows or "[]") for rows in params[1:]]
                self.written += [f"{place}" for place, rows in enumerate(tables) if rows]
                return [
                    [place, row["tenant"], f"task-{row['id']}"]
                    for place, rows in enumerate(tables)
                    for row in rows
                ]

        database, tables = Refreshing(), [Generation(TASKS, 1), Generation(TASKS, 2)]
        applier = Applier(database, store, lambda: tables, letters, lambda _: None)

        assert not await applier.apply(events)
        assert letters.released()
        assert database.written == ["1"]
        await client.close()
