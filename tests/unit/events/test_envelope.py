from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from annals.events import (
    CommandEvent,
    DomainEvent,
    Event,
    IntegrationEvent,
    Position,
    Priority,
    QueryEvent,
    RecordedEvent,
    StreamId,
    from_cloudevent,
    new_id,
    to_cloudevent_json,
)

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
safe_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2**53) + 1, 2**53 - 1)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
data = st.dictionaries(text, safe_json, max_size=5)


def event(**fields: object) -> DomainEvent:
    return DomainEvent.model_validate(
        {
            "event_type": "task.created",
            "source": "test",
            "aggregate_type": "task",
            "aggregate_id": "1",
            **fields,
        }
    )


def recorded(**fields: object) -> RecordedEvent:
    return RecordedEvent.record(event(**fields), version=3, lane=2, seq=7)


def to_cloudevent(before: Event, *, traceparent: str | None = None) -> dict[str, Any]:
    return dict(orjson.loads(to_cloudevent_json(before, traceparent=traceparent)))


@given(data)
def test_an_event_survives_json(content: dict[str, object]) -> None:
    before = recorded(data=content)
    assert RecordedEvent.from_json(before.to_json()) == before


@given(data)
def test_an_event_survives_a_cloudevent(content: dict[str, object]) -> None:
    before = recorded(data=content)
    assert from_cloudevent(to_cloudevent(before), RecordedEvent) == before


def test_an_event_of_before_its_command_was_kept_is_read() -> None:
    stored = orjson.loads(recorded(command_type="task.create").to_json())
    del stored["command_type"]
    assert RecordedEvent.from_json(orjson.dumps(stored)).command_type is None


def test_a_cloudevent_names_the_command_where_there_was_one() -> None:
    assert to_cloudevent(recorded(command_type="task.create"))["commandtype"] == "task.create"
    assert "commandtype" not in to_cloudevent(recorded())


def test_unknown_fields_survive_every_form() -> None:
    before = recorded(invented="later", nested={"deep": [1]})
    after = from_cloudevent(to_cloudevent(RecordedEvent.from_json(before.to_json())), RecordedEvent)
    assert (after.model_extra or {})["invented"] == "later"
    assert (after.model_extra or {})["nested"] == {"deep": [1]}


@pytest.mark.parametrize(
    "content",
    [
        {"n": 2**53},
        {"n": [{"m": -(2**53)}]},
        {"n": 3.9513134008373816e16},
        {"n": 1e300},
        {"n": 10**400},
        {"n": float("nan")},
        {"n": {1, 2}},
    ],
)
def test_data_that_a_broker_would_change_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"data\.n"):
        event(data=content)


def test_a_type_is_domain_and_event_in_lower_case() -> None:
    assert event(event_type="Task.Created").event_type == "task.created"
    for wrong in ("created", "task.", ".created", "task created", "task..x", ""):
        with pytest.raises(ValidationError):
            event(event_type=wrong)


def test_a_timestamp_is_kept_in_utc_and_must_have_a_zone() -> None:
    berlin = timezone(timedelta(hours=1))
    assert event(timestamp=datetime(2026, 1, 1, 12, tzinfo=berlin)).timestamp == datetime(
        2026, 1, 1, 11, tzinfo=UTC
    )
    with pytest.raises(ValidationError):
        event(timestamp=datetime(2026, 1, 1, 12))  # noqa: DTZ001


@pytest.mark.parametrize("digits", ["20270131", "2026", "0", "-1", "1.5", 20270131, 1.5, True])
def test_digits_are_no_moment(digits: object) -> None:
    """Pydantic takes digits for Unix time, which turned a day of the year 2027 into one of 1970."""
    with pytest.raises(ValidationError, match="2027-01-31T09:00:00Z"):
        event(delay_until=digits)
    with pytest.raises(ValidationError, match="2027-01-31T09:00:00Z"):
        DomainEvent.from_json(orjson.dumps(json.loads(event().to_json()) | {"timestamp": digits}))


@pytest.mark.parametrize("text", ["2027-01-31T09:00:00Z", "2027-01-31 10:00:00.0+01:00", "2027-01-31T09:00Z"])
def test_a_moment_is_a_date_and_a_time_with_its_zone(text: str) -> None:
    assert event(delay_until=text).delay_until == datetime(2027, 1, 31, 9, tzinfo=UTC)


def test_the_correlation_is_the_cause_or_the_event_itself() -> None:
    assert event(correlation_id="c", causation_id="x").correlation_id == "c"
    assert event(causation_id="x").correlation_id == "x"
    alone = event()
    assert alone.correlation_id == alone.event_id


def test_with_context_gives_a_checked_copy() -> None:
    before = event()
    after = before.with_context(user_id="ada", priority=Priority.HIGH)
    assert (after.user_id, after.priority, after.event_id) == ("ada", Priority.HIGH, before.event_id)
    assert before.user_id is None
    with pytest.raises(ValidationError):
        before.with_context(tenant_id="Not A Tenant")


def test_the_kinds_of_events_normalise_their_names() -> None:
    common = {"event_type": "task.moved", "source": "test"}
    assert IntegrationEvent.model_validate(common).routing_key == "task/moved"
    assert (
        CommandEvent.model_validate(common | {"command_type": "Task.Create"}).command_type
        == "task.create.command"
    )
    assert (
        QueryEvent.model_validate(common | {"query_type": "task.list.query"}).query_type == "task.list.query"
    )


def test_a_cloudevent_has_what_its_specification_asks_for() -> None:
    cloudevent = to_cloudevent(
        recorded(tenant_id="acme"), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    )
    assert cloudevent["specversion"] == "1.0"
    assert cloudevent["subject"] == "task-1"
    assert cloudevent["partitionkey"] == "acme/task-1"
    assert cloudevent["traceparent"] == cloudevent["traceid"]
    assert all(name.islower() and name.isalnum() for name in cloudevent)


@pytest.mark.parametrize("own", [None, f"00-{'c' * 32}-{'d' * 16}-00"])
def test_what_is_recorded_keeps_its_trace_whatever_the_sidecar_says(own: str | None) -> None:
    before = recorded(traceparent=own)
    delivered = to_cloudevent(before) | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    assert from_cloudevent(delivered, RecordedEvent).traceparent == own


def test_the_span_that_published_an_event_is_taken_where_it_is_of_its_trace() -> None:
    before = recorded(traceparent=f"00-{'a' * 32}-{'c' * 16}-01")
    published = f"00-{'a' * 32}-{'b' * 16}-01"
    assert (
        from_cloudevent(to_cloudevent(before, traceparent=published), RecordedEvent).traceparent == published
    )


@pytest.mark.parametrize("wrong", [{}, {"data": 1}, {"data": {}}, {"data": {"version": 1}}])
def test_what_is_no_event_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"data|validation"):
        from_cloudevent(wrong, Event)


@pytest.mark.parametrize("wrong", [None, "text", 1, [], ["data"]])
def test_what_is_no_object_is_no_cloudevent(wrong: object) -> None:
    with pytest.raises(ValueError, match="no CloudEvent"):
        from_cloudevent(wrong, Event)


def test_ids_are_in_the_order_of_their_creation() -> None:
    ids = [new_id() for _ in range(100)]
    assert sorted(ids) == ids


@given(st.integers(0, 10**6), st.integers(0, 10**12))
def test_a_position_survives_its_text(lane: int, seq: int) -> None:
    assert Position.parse(str(Position(lane, seq))) == Position(lane, seq)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "01-2", "1-2-3", "1-2\n", "-1-2"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("tenant", "name"), [("A", "task-1"), ("a", "task"), ("a", "task-||"), ("a", "task-a/b"), ("", "t-1")]
)
def test_a_malformed_stream_is_refused(tenant: str, name: str) -> None:
    with pytest.raises(ValueError, match="like"):
        StreamId(tenant, name)


def test_every_event_has_an_envelope_of_its_own() -> None:
    one, two = (Event(event_type="a.b", source="test") for _ in range(2))
    assert one.event_id != two.event_id


def _nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "data", [{"title": "a\0b"}, {"a\0b": 1}, _nested(101), _nested(900)], ids=["text", "name", "101", "900"]
)
def test_data_that_no_database_or_reader_takes_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DomainEvent(event_type="a.b", source="s", aggregate_type="a", aggregate_id="1", data=data)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_that_utc_has_no_year_for_is_a_validation_error(moment: str) -> None:
    with pytest.raises(ValidationError):
        Event.model_validate({"event_type": "a.b", "source": "s", "timestamp": moment})


recorded_events = st.builds(
    lambda data, priority, delay, user: RecordedEvent.record(
        DomainEvent(
            event_type="thing.happened",
            source="test",
            aggregate_type="thing",
            aggregate_id="1",
            data=data,
            priority=priority,
            delay_until=delay,
            user_id=user,
        ),
        version=1,
        lane=0,
        seq=7,
    ),
    data,
    st.sampled_from(Priority),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.text(max_size=20),
)


@given(recorded_events)
def test_what_the_store_holds_is_read_as_if_it_was_validated(event: RecordedEvent) -> None:
    stored = event.to_json()
    read = RecordedEvent.stored(stored)
    assert read == RecordedEvent.from_json(stored)
    assert read.to_json() == stored
    assert (read.timestamp, read.priority, read.delay_until) == (
        event.timestamp,
        event.priority,
        event.delay_until,
    )


@pytest.mark.parametrize("change", [{"of_tomorrow": 1}, {"hash": None}, {"client": None}])
def test_what_another_version_stored_is_validated(change: dict[str, Any]) -> None:
    event = DomainEvent(event_type="thing.happened", source="t", aggregate_type="thing", aggregate_id="1")
    fields = json.loads(RecordedEvent.record(event, version=1, lane=0, seq=7).to_json()) | change
    stored = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    assert RecordedEvent.stored(stored) == RecordedEvent.from_json(stored)
    broken = json.dumps(json.loads(stored) | {"version": 0}).encode()
    with pytest.raises(ValidationError):
        RecordedEvent.stored(broken)
