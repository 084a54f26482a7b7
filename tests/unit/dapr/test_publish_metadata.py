"""What a broker is told beside an event: one key, under each broker's name for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from annals.dapr import publish_metadata

ANY = st.text(max_size=300)


def test_a_key_is_given_by_the_name_of_every_broker_that_has_one() -> None:
    metadata = publish_metadata("acme", "task-1", "e-1")
    assert {metadata[name] for name in ("partitionKey", "orderingKey", "SessionId")} == {"acme/task-1"}


def test_two_tenants_may_name_their_events_alike() -> None:
    assert publish_metadata("acme", "k", "e")["MessageId"] != publish_metadata("other", "k", "e")["MessageId"]


@given(ANY, ANY)
def test_service_bus_is_given_ids_of_at_most_128_characters(key: str, event_id: str) -> None:
    metadata = publish_metadata("acme", key, event_id)
    assert len(metadata["SessionId"]) <= 128
    assert len(metadata["MessageId"]) <= 128


def test_long_keys_that_begin_alike_stay_apart() -> None:
    first, second = (publish_metadata("acme", "k" * 200 + end, "e")["SessionId"] for end in "ab")
    assert first != second
