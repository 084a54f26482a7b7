"""Reads what a suite left behind from its servers: tables, topics, the state of the workflow engine."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import nats
from dapr.ext.workflow._durabletask.internal import protos

Stream = tuple[str, str]
"""Tenant and name."""

_TOPICS = ("domain-events", "saga-events")
_MODELS = ("tasks", "members", "sagas")


@dataclass
class Evidence:
    """Everything that the checks look at, as plain data."""

    streams: dict[Stream, dict[int, dict[str, Any]]] = field(default_factory=dict)
    heads: dict[Stream, dict[str, Any]] = field(default_factory=dict)
    lanes: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    letters: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    """The broker's consumers, and how many messages each has not yet acknowledged."""
    read_models: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {m: [] for m in _MODELS})
    index: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    inbox: list[dict[str, Any]] = field(default_factory=list)
    reminders: list[dict[str, Any]] = field(default_factory=list)
    recurrences: list[dict[str, Any]] = field(default_factory=list)
    held: list[dict[str, Any]] = field(default_factory=list)
    since: datetime = datetime(1, 1, 1, tzinfo=UTC)
    """Nobody is told of events before this moment."""
    workflows: dict[str, str] = field(default_factory=dict)
    """Maps an instance id to the status it ended with, or else to the kind of its last history event."""

    @property
    def events(self) -> int:
        """The number of stored events."""
        return sum(map(len, self.streams.values()))


async def read_database(dsn: str, evidence: Evidence) -> None:
    """Read everything in the database, in one snapshot."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await _read_store(connection, evidence)
            await _read_workflows(connection, evidence)
            for model in _MODELS:
                evidence.read_models[model] = await _rows(connection, f"readmodels.{model}")
            evidence.index = await _rows(connection, "readmodels.event_index")
            evidence.deliveries = await _rows(connection, "notifications.deliveries")
            evidence.inbox = await _rows(connection, "notifications.inbox")
            evidence.reminders = await _rows(connection, "notifications.reminders")
            evidence.recurrences = await _rows(connection, "notifications.recurrences")
            evidence.since = await connection.fetchval("SELECT since FROM notifications.service")
            evidence.held = await _rows(connection, "notifications.held_events")
    finally:
        await connection.close()


async def _rows(connection: Any, table: str) -> list[dict[str, Any]]:
    return [json.loads(row[0]) for row in await connection.fetch(f"SELECT to_jsonb(t)::text FROM {table} t")]


async def _read_store(connection: Any, evidence: Evidence) -> None:
    streams: dict[Stream, dict[int, dict[str, Any]]] = defaultdict(dict)
    lanes: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    raw: dict[str, str] = {}
    for row in await connection.fetch("SELECT key, value FROM annals_state"):
        kind, *rest = row["key"].split("/")
        if kind == "log":
            lanes[int(rest[0])][int(rest[1])] = json.loads(row["value"])
        elif kind == "stream" and rest[-1] == "head":
            evidence.heads[rest[0], rest[1]] = json.loads(row["value"])
        elif kind == "stream":
            streams[rest[0], rest[1]][int(rest[2])] = json.loads(row["value"])
        elif kind == "command":
            evidence.outcomes[rest[0], "/".join(rest[1:])] = json.loads(row["value"])
        elif kind == "dead-letters" and len(rest) == 1:
            evidence.letters += json.loads(row["value"])["parked"]
        elif kind == "dead-letters":
            raw[rest[1]] = json.loads(row["value"])["raw"] or ""
    evidence.streams, evidence.lanes = dict(streams), dict(lanes)
    evidence.letters = [{**letter, "raw": raw.get(letter["id"], "")} for letter in evidence.letters]


async def _read_workflows(connection: Any, evidence: Evidence) -> None:
    """Read how each workflow ended, or else the kind of the last event in its history."""
    last: dict[str, tuple[str, bytes]] = {}
    for row in await connection.fetch("SELECT key, value FROM workflow_state WHERE key LIKE '%||history-%'"):
        _, kind, instance, place = row["key"].split("||")
        if kind.endswith(".workflow"):
            last[instance] = max(last.get(instance, ("", b"")), (place, row["value"]))
    for instance, (_, value) in last.items():
        event = protos.HistoryEvent.FromString(value)
        evidence.workflows[instance] = event.WhichOneof("eventType") or ""
        if event.HasField("executionCompleted"):
            ended = protos.OrchestrationStatus.Name(event.executionCompleted.workflowStatus)
            evidence.workflows[instance] = ended.removeprefix("ORCHESTRATION_STATUS_").lower()


async def read_broker(url: str, evidence: Evidence) -> None:
    """Read the topics' messages, in the broker's order, and how many each consumer has not acknowledged."""
    connection = await nats.connect(url)
    try:
        stream = connection.jetstream()
        evidence.messages = []
        for topic in _TOPICS:
            info = await stream.stream_info("annals", subjects_filter=topic)
            left = (info.state.subjects or {}).get(topic, 0)
            consumer = await stream.subscribe(topic, ordered_consumer=True)
            for _ in range(left):
                evidence.messages.append(_message(topic, (await consumer.next_msg(timeout=10)).data))
        evidence.waiting = {
            str(one.name): (one.num_pending or 0) + (one.num_ack_pending or 0)
            for one in await stream.consumers_info("annals")
            if one.config.durable_name
        }
    finally:
        await connection.close()


def _message(topic: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    fields = value if isinstance(value, Mapping) else {"text": repr(data)}
    return {"topic": topic, "id": None, **fields}
