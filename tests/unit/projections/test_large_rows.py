"""Rows that exceed the sidecar's message size together are written in several parts."""

from __future__ import annotations

from typing import Any, cast

import grpc
import orjson
import pytest

from annals.dapr import BindingDatabase, DaprError, DaprSidecar
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.projections import Applier, Generation
from annals.projections.folded_rows import FoldedRows
from annals.store import Append, MemoryEventStore
from annals_projector.read_models import TASKS
from rows_written import NoLetters

_LIMIT = 4 * 1024 * 1024
GENERATION = Generation(TASKS, 2)


class Sidecar:
    """A binding that accepts what a sidecar would accept, and records the ids of the rows."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def invoke_binding(
        self, _name: str, _operation: str, metadata: dict[str, str], **_: object
    ) -> bytes:
        size = sum(map(len, metadata.values()))
        if size > _LIMIT:
            raise DaprError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"received message larger than max ({size})")
        if "wanted" in metadata["sql"]:
            return orjson.dumps([["[]"]])
        rows = orjson.loads(orjson.loads(metadata["params"] or "[]")[-1])
        self.written += [row["id"] for row in rows]
        return orjson.dumps(
            [[orjson.dumps([[0, row["tenant"], f"task-{row['id']}"] for row in rows]).decode()]]
        )


async def _large_tasks(store: MemoryEventStore, count: int) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    for number in range(count):
        stream = StreamId.of("default", "task", f"t{number}")
        created = DomainEvent(
            event_type="task.created",
            source="test",
            aggregate_type="task",
            aggregate_id=f"t{number}",
            data={"title": "large", "description": "x" * 9_000},
        )
        await store.append(Append(stream, (created,), 0))
        events += [event async for event in store.read_stream(stream)]
    return events


@pytest.mark.parametrize("rebuilt", [True, False])
async def test_rows_that_are_too_large_together_are_all_written(rebuilt: bool) -> None:
    store, sidecar = MemoryEventStore(), Sidecar()
    events = await _large_tasks(store, 500)
    database = BindingDatabase(cast("DaprSidecar", sidecar), "readmodels")
    letters: Any = cast("DeadLetters", NoLetters())
    if rebuilt:
        rows = FoldedRows(database, store, GENERATION, letters)
        await rows.take(events)
        await rows.write()
    else:
        applier = Applier(database, store, lambda: [GENERATION], letters, lambda _: None)
        assert not await applier.apply(events)
    assert sorted(sidecar.written) == sorted(event.aggregate_id for event in events)
