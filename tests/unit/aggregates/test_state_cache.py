"""What the cache of the command bus keeps, and what it lets go."""

from __future__ import annotations

from typing import ClassVar, Self

import pytest

from annals.aggregates import Aggregate
from annals.aggregates.state_cache import StateCache
from annals.events import EventData, StreamId


class Note(Aggregate):
    aggregate_type: ClassVar[str] = "note"
    text: str = ""

    def apply(self, event: EventData) -> Self:  # noqa: ARG002 - no test applies one
        return self


class Other(Note):
    aggregate_type: ClassVar[str] = "other"


def stream(name: str) -> StreamId:
    return StreamId("default", f"note-{name}")


def put(cache: StateCache, name: str, *, version: int = 1, text: str = "") -> None:
    note = Note(text=text)
    cache.put(stream(name), version, note, note.model_dump(mode="json"))


def test_the_last_state_that_was_written_is_kept() -> None:
    cache = StateCache()
    put(cache, "a", version=1, text="one")
    put(cache, "a", version=2, text="two")
    assert cache.get(Note, stream("a")) == (2, Note(text="two"))
    cache.remove(stream("a"))
    assert cache.get(Note, stream("a")) is None


def test_states_that_were_not_used_for_longest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.aggregates.state_cache._CACHED_BYTES", 3_500)
    cache = StateCache()
    for name in "abc":
        put(cache, name)
    assert cache.get(Note, stream("a")) is not None
    put(cache, "d")
    assert [name for name in "abcd" if cache.get(Note, stream(name)) is not None] == ["a", "c", "d"]


def test_what_is_removed_or_replaced_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.aggregates.state_cache._CACHED_BYTES", 2_500)
    cache = StateCache()
    put(cache, "a")
    for _ in range(10):
        put(cache, "b")
    cache.remove(stream("b"))
    cache.remove(stream("b"))
    put(cache, "c")
    assert cache.get(Note, stream("a")) is not None
    assert cache.get(Note, stream("c")) is not None


def test_a_state_larger_than_the_cache_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.aggregates.state_cache._CACHED_BYTES", 2_500)
    cache = StateCache()
    put(cache, "a", text="x" * 3_000)
    assert cache.get(Note, stream("a")) is None
    put(cache, "b")
    assert cache.get(Note, stream("b")) is not None


def test_a_stream_is_of_one_aggregate_alone() -> None:
    cache = StateCache()
    put(cache, "a")
    with pytest.raises(TypeError, match="note-a is not a stream of Other"):
        cache.get(Other, stream("a"))
