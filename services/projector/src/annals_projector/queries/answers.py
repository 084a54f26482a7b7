"""Models of the answers to queries, for the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from annals.events import RecordedEvent
from annals.web.answers import Answer, Page

SagaStatus = Literal["pending", "running", "completed", "compensating", "compensated", "failed"]


class _Row(Answer):
    id: str
    version: int
    """The version of the stream that the row shows."""
    created_at: datetime
    updated_at: datetime


class Task(_Row):
    """The current state of a task."""

    title: str
    description: str | None
    status: Literal["todo", "done"]
    priority: Literal["low", "normal", "high", "critical"]
    tags: list[str]
    due: datetime | None
    assignee: str | None
    """The member whom the task is assigned to."""
    previous_assignee: str | None
    completed_at: datetime | None


class Member(_Row):
    """The current state of a member."""

    name: str | None
    """Null once the member's personal data was erased."""
    capacity: int
    """How many places the member has for tasks that are handed over to them."""
    reserved: int
    """How many of these places are reserved."""


class SagaFailure(Answer):
    """Why a step failed."""

    kind: Literal["rejected", "failed", "timeout"]
    message: str
    rule: str | None = None
    """The rule that rejected a command."""


class SagaStep(Answer):
    """A step of a saga. Before it begins, it has only a name and a status."""

    name: str
    status: Literal[
        "pending",
        "running",
        "waiting",
        "completed",
        "skipped",
        "failed",
        "compensating",
        "compensated",
        "compensation_failed",
    ]
    at: datetime | None = None
    """When the step reached this status."""
    attempt: int | None = None
    error: SagaFailure | None = None
    waits_for: list[str] | None = None
    """The events that the step waits for; any one of them ends the wait."""


class Saga(_Row):
    """The current state of a saga."""

    type: str
    saga_version: int
    """The version of the saga's declaration."""
    status: SagaStatus
    business_key: str | None
    """What the saga is about; at most one saga of a type runs for a business key at a time."""
    parent: str | None
    """The saga that started this one."""
    user_id: str | None
    correlation_id: str | None
    input: dict[str, Any]
    steps: list[SagaStep]
    waits_for: list[str] | None
    """The events that the waiting steps wait for; each step waits for one of its own."""
    waits_until: datetime | None
    reason: str | None
    """Why the saga is compensated, or has failed."""
    remaining: list[str] | None
    """The steps of a failed saga that were not compensated."""
    output: Any
    suspended: bool
    ended_at: datetime | None


class SagaMoment(Answer):
    """An event in the history of a saga; the data of the event is in further fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    time: datetime
    version: int
    user: str | None
    trace_id: str | None


class SagaWithTimeline(Saga):
    """A saga, and everything that happened to it, in order."""

    timeline: list[SagaMoment]


class StoredEvent(RecordedEvent):
    """An event in the store. Personal data of an erased subject is null."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add `stream` and `position`, which follow from other fields and are in each answer."""
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        described["properties"] |= {
            "stream": {"type": "string", "description": "The name of its stream."},
            "position": {
                "type": "string",
                "description": "The position of its commit; queries can wait for it.",
            },
        }
        described["required"] += ["stream", "position"]
        return schema


class FoundEvent(StoredEvent):
    """An event that a query found."""

    visible_at: datetime | None
    """When the event became visible to queries; null if it was indexed before this was recorded."""


class History(Answer):
    """Some of the events of a stream."""

    items: list[StoredEvent]
    next: int | None
    """Where to read on: the next `from`, or the next `to` if `backwards`; null at the end."""


class AuditEntry(Answer):
    """An entry of the audit trail: who did what, and when."""

    time: datetime
    user: str | None
    type: str
    """The type of the event."""
    stream: str
    version: int
    event_id: str
    position: str
    correlation_id: str | None
    causation_id: str | None
    trace_id: str | None
    session: str | None
    client: str | None
    """Where the request came from: the calling app, or the address that the edge saw."""
    source: str | None


TaskPage = Page[Task]
MemberPage = Page[Member]
SagaPage = Page[Saga]
EventPage = Page[FoundEvent]
AuditPage = Page[AuditEntry]
