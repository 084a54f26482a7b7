"""The envelopes: an event's metadata round its data."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from annals.events.chain import chained
from annals.events.identity import Position, StreamId, new_id

# JSON numbers beyond this are rounded by whoever reads them as a double, Dapr's bulk delivery among them.
_SAFE_INTEGER = 2**53 - 1
# Deeper than anybody means it; JSON's readers and writers on the way end at some hundreds.
_DEEPEST = 100
_LANE_AT_MOST = 2**31 - 1
# What goes into headers on the way.
_VISIBLE = r"^[\x20-\x7e]*$"


class Priority(StrEnum):
    """How urgent an event is to those who handle it."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


def portable(value: Any, path: str = "data", depth: int = 0) -> Any:
    """An event's data, if every broker and database takes it. Raises ValueError."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{path}: PostgreSQL and others hold no text with a NUL in it")
    elif depth > _DEEPEST:
        raise ValueError(f"data: nested more than {_DEEPEST} deep")
    elif isinstance(value, int | float):
        # Such a float is whole, and Go and PostgreSQL write it as an integer.
        if abs(value) > _SAFE_INTEGER:
            raise ValueError(f"{path}: a number beyond 2^53-1 is rounded on its way; send it as a string")
        if math.isnan(value):
            raise ValueError(f"{path}: {value} is not a JSON number")
    elif isinstance(value, dict):
        for key, item in value.items():
            portable(key, path)
            portable(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            portable(item, f"{path}[{index}]", depth + 1)
    else:
        raise ValueError(f"{path}: {type(value).__name__} is not a JSON value")
    return value


Data = Annotated[dict[str, Any], AfterValidator(portable)]
"""A JSON object that survives every broker and fits every database."""

EventType = Annotated[
    str,
    StringConstraints(to_lower=True, max_length=200, pattern=r"(?i)^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$"),
]
"""`domain.event_name`, in lower case."""

AggregateType = Annotated[str, StringConstraints(to_lower=True, pattern=r"(?i)^[a-z][a-z0-9_]{0,62}$")]
"""One word, in lower case: a stream's name begins with it."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
"""`major.minor`: 1.0, 1.1, 2.0 and what comes."""


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _dated(moment: Any) -> Any:
    # Pydantic takes digits, in a text too, for Unix time: 20270131 for a day in 1970.
    if isinstance(moment, datetime) or (isinstance(moment, str) and _DATE.match(moment)):
        return moment
    raise ValueError("expected a date and a time with its zone, like 2027-01-31T09:00:00Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # the first and the last hours that a clock with a zone can show
        raise ValueError("a moment that UTC has no year for") from error


Utc = Annotated[AwareDatetime, BeforeValidator(_dated), AfterValidator(_in_utc)]
"""A moment with a time zone, kept in UTC."""

_EVENT_TYPE: TypeAdapter[str] = TypeAdapter(EventType)
_AGGREGATE_TYPE: TypeAdapter[str] = TypeAdapter(AggregateType)


def require_event_type(name: str) -> None:
    """Raises ValueError for the type of an event, or of a command, that no envelope has as it is declared.

    It would be refused when it is first used, or be stored as another that nobody has declared.
    """
    if not _as_it_is(_EVENT_TYPE, name):
        raise ValueError(f"{name!r} is no type such as task.created: small letters, digits, _ and a dot")


def require_aggregate_type(name: str) -> None:
    """See `require_event_type`. Raises ValueError."""
    if not _as_it_is(_AGGREGATE_TYPE, name):
        raise ValueError(f"{name!r} is no type of an aggregate such as task: small letters, digits and _")


def _as_it_is(kind: TypeAdapter[str], name: str) -> bool:
    try:
        return kind.validate_python(name) == name
    except ValidationError:
        return False


Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _now() -> datetime:
    return datetime.now(UTC)


class Event(BaseModel):
    """What every event carries. Fields it does not know are kept."""

    # An error is logged, and kept with a dead letter: it says nothing of what may be personal.
    model_config = ConfigDict(frozen=True, extra="allow", validate_default=False, hide_input_in_errors=True)

    event_id: Name = Field(default_factory=new_id)
    event_type: EventType
    event_version: Version = "1.0"
    timestamp: Utc = Field(default_factory=_now)
    correlation_id: str | None = Field(default=None, max_length=256)
    causation_id: str | None = Field(default=None, max_length=256)
    source: Name
    user_id: str | None = Field(default=None, max_length=256)
    tenant_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"
    session_id: str | None = Field(default=None, max_length=256)
    client: str | None = Field(default=None, max_length=256)
    """From where it was asked for: the calling app, or the address that the edge saw."""
    priority: Priority = Priority.NORMAL
    retry_count: Count = 0
    max_retries: Count = 3
    delay_until: Utc | None = None
    schema_version: Version = "1.0"
    traceparent: str | None = Field(default=None, max_length=64, pattern=_VISIBLE)
    tracestate: str | None = Field(default=None, max_length=512, pattern=_VISIBLE)

    @model_validator(mode="before")
    @classmethod
    def _correlate(cls, fields: Any) -> Any:
        """Without a correlation id an event belongs to what caused it, else it starts one."""
        if not isinstance(fields, dict) or fields.get("correlation_id"):
            return fields
        event_id = fields.get("event_id") or new_id()
        return fields | {"event_id": event_id, "correlation_id": fields.get("causation_id") or event_id}

    @property
    def trace_id(self) -> str | None:
        """The trace that it is of, out of `traceparent`."""
        return self.traceparent[3:35] if self.traceparent else None

    def with_context(self, **changes: Any) -> Self:
        """A copy with other metadata. Raises pydantic's ValidationError for values that do not fit."""
        return type(self).model_validate(self.model_dump() | changes)

    def to_json(self) -> bytes:
        """The envelope as JSON, unknown fields included."""
        return self.__pydantic_serializer__.to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """See `to_json`. Raises pydantic's ValidationError."""
        return cls.model_validate_json(data)


class DomainEvent(Event):
    """A fact about one aggregate."""

    aggregate_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
    aggregate_type: AggregateType
    command_type: EventType | None = None
    """The type of the command that led to it; `causation_id` is that command's id."""
    data: Data = Field(default_factory=dict)

    @property
    def stream(self) -> StreamId:
        """The stream that the event belongs to."""
        return StreamId.of(self.tenant_id, self.aggregate_type, self.aggregate_id)


class RecordedEvent(DomainEvent):
    """A domain event as the store holds it: with its version in the stream and its position."""

    version: Annotated[int, Field(ge=1, le=_SAFE_INTEGER)]
    lane: Annotated[int, Field(ge=0, le=_LANE_AT_MOST)]
    seq: Annotated[int, Field(ge=1, le=_SAFE_INTEGER)]
    hash: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    """See `annals.events.chain`."""

    @classmethod
    def record(cls, event: DomainEvent, *, version: int, lane: int, seq: int, previous: str = "") -> Self:
        """The event with its place, chained to the hash of the event before it.

        It was validated when it was made, and is not again.
        """
        place = {"version": version, "lane": lane, "seq": seq, "hash": ""}
        recorded = cls._of(event.__dict__ | place, event.model_fields_set, event.__pydantic_extra__)
        recorded.__dict__["hash"] = chained(orjson.loads(recorded.to_json()), previous)
        return recorded

    @classmethod
    def stored(cls, data: bytes) -> Self:
        """The event that the store holds as `to_json` wrote it: `from_json`, in a third of the time.

        It was validated when it was made, and is not again, unless another version with other fields
        wrote it. Raises ValueError.
        """
        fields = orjson.loads(data)
        if fields.keys() != cls.__pydantic_fields__.keys():
            return cls.from_json(data)
        fields["timestamp"] = datetime.fromisoformat(fields["timestamp"])
        fields["priority"] = Priority(fields["priority"])
        if fields["delay_until"] is not None:
            fields["delay_until"] = datetime.fromisoformat(fields["delay_until"])
        return cls._of(fields, set(fields), {})

    @classmethod
    def _of(cls, fields: dict[str, Any], given: set[str], extra: dict[str, Any] | None) -> Self:
        """What `model_construct` makes of fields that are all there, in a tenth of its time."""
        made = cls.__new__(cls)
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_fields_set__", given)
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", None)
        return made

    @property
    def position(self) -> Position:
        """Where the event's commit stands in the log."""
        return Position(self.lane, self.seq)


class IntegrationEvent(Event):
    """A fact for other services."""

    target_services: tuple[Name, ...] = ()
    routing_key: str = ""
    message_format: Name = "json"
    data: Data = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _route(cls, fields: Any) -> Any:
        if (
            isinstance(fields, dict)
            and not fields.get("routing_key")
            and isinstance(fields.get("event_type"), str)
        ):
            return fields | {"routing_key": fields["event_type"].lower().replace(".", "/")}
        return fields

    @model_validator(mode="after")
    def _require_portable_fields(self) -> Self:
        """Check every other field as `data` is checked: unknown fields too are stored and passed on."""
        for field, value in self.model_dump(mode="json", exclude={"data"}).items():
            portable(field, "event")
            portable(value, field)
        return self


def _suffixed(suffix: str) -> AfterValidator:
    return AfterValidator(lambda name: name if name.endswith(suffix) else name + suffix)


class CommandEvent(Event):
    """A request to change, as a message."""

    command_type: Annotated[EventType, _suffixed(".command")]
    command_data: Data = Field(default_factory=dict)
    expected_version: Count | None = None


class QueryEvent(Event):
    """A request to read, as a message."""

    query_type: Annotated[EventType, _suffixed(".query")]
    query_params: Data = Field(default_factory=dict)
    result_topic: str | None = Field(default=None, max_length=256)
