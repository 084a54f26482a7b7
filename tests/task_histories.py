"""Random task histories: as events in a store, as the rows to expect, and as the rows in the database."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable
from typing import Any

import asyncpg

from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.store import Append, MemoryEventStore
from annals_projector.read_models import TASKS


def of_task(stream: StreamId, kind: str, data: dict[str, Any]) -> DomainEvent:
    """Return an event of a task."""
    return DomainEvent(
        event_type=kind,
        source="test",
        tenant_id=stream.tenant,
        aggregate_type="task",
        aggregate_id=stream.name.removeprefix("task-"),
        data=data,
    )


async def history(store: MemoryEventStore, dice: random.Random, streams: int) -> list[RecordedEvent]:
    """Append random histories of tasks to the store and return their events in the order of the log."""
    versions: dict[StreamId, int] = {StreamId("acme", f"task-{uuid.UUID(int=n)}"): 0 for n in range(streams)}
    for _ in range(streams * 6):
        stream = dice.choice(list(versions))
        version = versions[stream]
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("task.updated", {"changes": {"title": f"title {version}", "tags": ["x", str(version)]}}),
            ("task.assigned", {"assignee": f"user{version}"}),
            ("task.unassigned", {"assignee": "x"}),
            ("task.completed", {}),
            ("task.reopened", {}),
            ("task.unheard_of", {"x": 1}),
            ("task.deleted", {}),
        ]
        kind, data = (
            ("task.created", {"title": "new", "priority": "normal"}) if version == 0 else dice.choice(kinds)
        )
        event = of_task(stream, kind, data)
        await store.append(Append(stream, (event,), version))
        versions[stream] += 1
    refs = [(stream, version) for stream, last in versions.items() for version in range(1, last + 1)]
    events = await store.read_events(refs)
    return sorted(events, key=lambda event: event.seq)


def wanted(events: Iterable[RecordedEvent]) -> dict[str, tuple[Any, ...]]:
    """Return the rows that the read model must have after these events."""
    by_stream: dict[str, list[RecordedEvent]] = {}
    for event in sorted(events, key=lambda event: event.version):
        by_stream.setdefault(event.aggregate_id, []).append(event)
    folded = {name: TASKS.fold(stream) for name, stream in by_stream.items()}
    return {
        name: (row["title"], row["status"], row["assignee"], tuple(row["tags"]), row["version"])
        for name, row in folded.items()
        if row is not None
    }


async def found(pool: asyncpg.Pool, table: str = "tasks") -> dict[str, tuple[Any, ...]]:
    """Return the rows of a view or table of tasks."""
    rows = await pool.fetch(
        f"SELECT id, title, status, assignee, tags, version FROM readmodels.{table} WHERE title IS NOT NULL"
    )
    return {
        row["id"]: (
            row["title"],
            row["status"],
            row["assignee"],
            tuple(json.loads(row["tags"])),
            row["version"],
        )
        for row in rows
    }
