"""What queries answer, for the OpenAPI document."""

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
    """The version of its stream that it shows."""
    created_at: datetime
    updated_at: datetime


class Task(_Row):
    """A task as it is."""

    title: str
    description: str | None
    status: Literal["todo", "done"]
    priority: Literal["low", "normal", "high", "critical"]
    tags: list[str]
    due: datetime | None
    assignee: str | None
    """The member who has it."""
    previous_assignee: str | None
    completed_at: datetime | None


class Member(_Row):
    """A member as they are."""

    name: str | None
    """Null once the member was erased."""
    capacity: int
    """How many tasks they take on."""
    reserved: int
    """For how many of those a place is reserved."""


class SagaFailure(Answer):
    """Why a step failed."""

    kind: Literal["rejected", "failed", "timeout"]
    message: str
    rule: str | None = None
    """The rule by which a command was rejected."""


class SagaStep(Answer):
    """A step of a saga. Only its name and status are there before it begins."""

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
    """When it came to this status."""
    attempt: int | None = None
    error: SagaFailure | None = None
    waits_for: list[str] | None = None
    """The events of which it waits for one."""


class Saga(_Row):
    """A saga as it is."""

    type: str
    saga_version: int
    """Of its declaration."""
    status: SagaStatus
    business_key: str | None
    """What it is about; of a type there is one at a time for it."""
    parent: str | None
    """The saga that started it."""
    user_id: str | None
    correlation_id: str | None
    input: dict[str, Any]
    steps: list[SagaStep]
    waits_for: list[str] | None
    """The events that its steps wait for: each waits for one of its own."""
    waits_until: datetime | None
    reason: str | None
    """Why it is compensated, or has failed."""
    remaining: list[str] | None
    """The steps of a failed saga that were not taken back."""
    output: Any
    suspended: bool
    ended_at: datetime | None


class SagaMoment(Answer):
    """Something that happened to a saga, with the fields of that event."""

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
    """An event of the store. Personal data of somebody who was erased is null."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """With what follows from other fields: no fields of an event, and added to each answer."""
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        described["properties"] |= {
            "stream": {"type": "string", "description": "The name of its stream."},
            "position": {"type": "string", "description": "Of its commit; to wait for in queries."},
        }
        described["required"] += ["stream", "position"]
        return schema


class FoundEvent(StoredEvent):
    """An event that was looked for."""

    visible_at: datetime | None
    """When queries saw it first; null for what was there before the index."""


class History(Answer):
    """Events of a stream."""

    items: list[StoredEvent]
    next: int | None
    """The version that there may be more from, or up to when they are asked for backwards."""


class AuditEntry(Answer):
    """Who did what."""

    time: datetime
    user: str | None
    type: str
    """Of the event."""
    stream: str
    version: int
    event_id: str
    position: str
    correlation_id: str | None
    causation_id: str | None
    trace_id: str | None
    session: str | None
    client: str | None
    """From where: the calling app, or the address that the edge saw."""
    source: str | None


TaskPage = Page[Task]
MemberPage = Page[Member]
SagaPage = Page[Saga]
EventPage = Page[FoundEvent]
AuditPage = Page[AuditEntry]
