"""A projection that fails on everything parks as much as may be parked, and stops nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters, TooManyParked, dead_letters
from annals.events import DomainEvent, RecordedEvent
from annals.projections import Applier, Change, Generation
from annals.projections.folded_rows import FoldedRows
from annals.store import Append, MemoryEventStore
from annals.testing.fake import FakeSidecar
from annals_projector.read_models import TASKS
from rows_written import TakesEveryRow


def broken(event: RecordedEvent) -> Change:
    raise KeyError(event.event_type)


@pytest.mark.parametrize("rebuilt", [True, False])
async def test_a_faulty_version_stops_itself_at_the_bound(
    rebuilt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_MAX_PARKED", 5)
    store, database = MemoryEventStore(), TakesEveryRow()
    events: list[RecordedEvent] = []
    for number in range(20):
        created = DomainEvent(
            event_type="task.created",
            source="test",
            aggregate_type="task",
            aggregate_id=f"t{number}",
            data={"title": "a"},
        )
        await store.append(Append(created.stream, (created,), 0))
        events += [event async for event in store.read_stream(created.stream)]
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
