"""The envelopes: the metadata of an event around its data."""

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

# Readers that parse JSON numbers as doubles, such as Dapr's bulk delivery, round integers beyond this.
_SAFE_INTEGER = 2**53 - 1
# Levels of nesting in data. JSON parsers and encoders on the way fail at a few hundred.
_DEEPEST = 100
_LANE_AT_MOST = 2**31 - 1
# The characters of values that travel in headers.
_VISIBLE = r"^[\x20-\x7e]*$"


class Priority(StrEnum):
    """How urgent an event is to its handlers."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


def require_portable(value: Any, path: str = "data", depth: int = 0) -> Any:
    """Return a JSON value unchanged. Raises ValueError for what some broker or database does not take."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{path}: PostgreSQL and others hold no text with a NUL in it")
    elif depth > _DEEPEST:
        raise ValueError(f"data: nested more than {_DEEPEST} deep")
    elif isinstance(value, int | float):
        # A float beyond it is a whole number, which Go and PostgreSQL write as an integer.
        if abs(value) > _SAFE_INTEGER:
            raise ValueError(f"{path}: a number beyond 2^53-1 is rounded on its way; send it as a string")
        if math.isnan(value):
            raise ValueError(f"{path}: {value} is not a JSON number")
    elif isinstance(value, dict):
        for key, item in value.items():
            require_portable(key, path)
            require_portable(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            require_portable(item, f"{path}[{index}]", depth + 1)
    else:
        raise ValueError(f"{path}: {type(value).__name__} is not a JSON value")
    return value


Data = Annotated[dict[str, Any], AfterValidator(require_portable)]
"""A JSON object that survives every broker and fits every database."""

EventType = Annotated[
    str,
    StringConstraints(to_lower=True, max_length=200, pattern=r"(?i)^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$"),
]
"""`domain.event_name`, in lower case."""

AggregateType = Annotated[str, StringConstraints(to_lower=True, pattern=r"(?i)^[a-z][a-z0-9_]{0,62}$")]
"""One word, in lower case: a stream's name begins with it."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
"""`major.minor`, such as 1.0, 1.1 or 2.0."""


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _dated(moment: Any) -> Any:
    # Pydantic reads digits, even in a text, as Unix time: 20270131 would be a day in 1970.
    if isinstance(moment, datetime) or (isinstance(moment, str) and _DATE.match(moment)):
        return moment
    raise ValueError("expected a date and a time with its zone, like 2027-01-31T09:00:00Z")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # in the first hours of year 1 or the last of year 9999
        raise ValueError("the time in UTC is before year 1 or after year 9999") from error


Utc = Annotated[AwareDatetime, BeforeValidator(_dated), AfterValidator(_in_utc)]
"""A moment with a time zone, kept in UTC."""

_EVENT_TYPE: TypeAdapter[str] = TypeAdapter(EventType)
_AGGREGATE_TYPE: TypeAdapter[str] = TypeAdapter(AggregateType)
_VERSION: TypeAdapter[str] = TypeAdapter(Version)


def require_event_type(name: str) -> None:
    """Raise ValueError if the declared type of an event or a command is not what an envelope would hold.

    Such a type would be refused at its first use, or be stored in lower case, as a type that nobody declared.
    """
    if not _as_it_is(_EVENT_TYPE, name):
        raise ValueError(f"{name!r} is not a type such as task.created: small letters, digits, _ and a dot")


def require_aggregate_type(name: str) -> None:
    """Raise ValueError if a declared aggregate type is not what an envelope would hold."""
    if not _as_it_is(_AGGREGATE_TYPE, name):
        raise ValueError(f"{name!r} is not an aggregate type such as task: small letters, digits and _")


def require_version(version: str) -> None:
    """Raise ValueError if a declared version of an event is not what an envelope would hold."""
    if not _as_it_is(_VERSION, version):
        raise ValueError(f"{version!r} is not a version such as 1.0")


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
    """The metadata that every event carries. Unknown fields are kept."""

    # Errors are logged and kept with dead letters, so they must not quote input, which may be personal.
    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        validate_default=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

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
    """Where the request came from: the calling app, or the address that the edge saw."""
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
        """Set a missing correlation id to the causation id, or else to the id of the event itself."""
        if not isinstance(fields, dict) or fields.get("correlation_id"):
            return fields
        event_id = fields.get("event_id") or new_id()
        return fields | {"event_id": event_id, "correlation_id": fields.get("causation_id") or event_id}

    @property
    def trace_id(self) -> str | None:
        """The id of the event's trace, from `traceparent`."""
        return self.traceparent[3:35] if self.traceparent else None

    def with_context(self, **changes: Any) -> Self:
        """Return a copy with changed metadata. Raises pydantic's ValidationError for invalid values."""
        return type(self).model_validate(self.model_dump() | changes)

    def to_json(self) -> bytes:
        """Return the envelope as JSON, with its unknown fields."""
        return self.__pydantic_serializer__.to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the envelope in a JSON text. Raises pydantic's ValidationError."""
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
    """The event's link in the hash chain of its stream; see `annals.events.chain`."""

    @classmethod
    def record(cls, event: DomainEvent, *, version: int, lane: int, seq: int, previous: str = "") -> Self:
        """Return an event with its place, and with its hash chained to `previous`, the hash before it.

        The event was validated when it was made, and is not validated again.
        """
        place = {"version": version, "lane": lane, "seq": seq, "hash": ""}
        recorded = cls._of(event.__dict__ | place, event.model_fields_set, event.__pydantic_extra__)
        recorded.__dict__["hash"] = chained(orjson.loads(recorded.to_json()), previous)
        return recorded

    @classmethod
    def stored(cls, data: bytes) -> Self:
        """Return an event that the store holds as `to_json` wrote it: `from_json` in a third of the time.

        The event was validated when it was made. It is validated again only if its fields are not those of
        this class, because another version wrote it. Raises ValueError.
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
        """Make an event of a complete set of fields: `model_construct` in a tenth of its time."""
        made = cls.__new__(cls)
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_fields_set__", given)
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", None)
        return made

    @property
    def position(self) -> Position:
        """The position of the event's commit."""
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
            require_portable(field, "event")
            require_portable(value, field)
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
