"""The conformance suite of event stores. A test module subclasses it and provides a `store` fixture."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from annals.events import DomainEvent, StreamId
from annals.store import Append, Appended, ConflictError, DuplicateCommand, EventStore
from feed import read_feed


def new_stream(tenant: str = "acme") -> StreamId:
    return StreamId(tenant, f"thing-{uuid.uuid4()}")


def happened(stream: StreamId, number: int) -> DomainEvent:
    kind, _, name = stream.name.partition("-")
    return DomainEvent(
        event_type="thing.happened",
        source="test",
        tenant_id=stream.tenant,
        aggregate_type=kind,
        aggregate_id=name,
        data={"number": number},
    )


def saying(name: str, text: str, **fields: str) -> DomainEvent:
    """Return an event of the thing `name` with a text of any length."""
    return DomainEvent(
        event_type="thing.happened",
        source="test",
        aggregate_type="thing",
        aggregate_id=name,
        data={"text": text},
        **fields,  # type: ignore[arg-type]
    )


def to_append(stream: StreamId, expected: int, count: int = 1, **fields: object) -> Append:
    events = tuple(happened(stream, expected + step) for step in range(1, count + 1))
    return Append(stream, events, expected, state={"count": expected + count}, **fields)  # type: ignore[arg-type]


async def numbers(store: EventStore, stream: StreamId, **bounds: object) -> list[int]:
    return [event.data["number"] async for event in store.read_stream(stream, **bounds)]  # type: ignore[misc, arg-type]


class EventStoreConformance:
    async def test_events_come_back_as_they_were_appended(self, store: EventStore) -> None:
        stream = new_stream()
        append = to_append(stream, 0, count=3)
        appended = await store.append(append)

        events = [event async for event in store.read_stream(stream)]

        assert [event.event_id for event in events] == [event.event_id for event in append.events]
        assert [event.version for event in events] == [1, 2, 3]
        assert {event.position for event in events} == {appended.position}
        assert events[0].data == {"number": 1}
        assert events[0].timestamp == append.events[0].timestamp
        assert appended.version == 3

    async def test_a_new_stream_has_no_head_and_no_events(self, store: EventStore) -> None:
        stream = new_stream()
        assert await store.load(stream) == (None, None)
        assert await numbers(store, stream) == []

    async def test_the_head_holds_version_and_state(self, store: EventStore) -> None:
        stream = new_stream()
        await store.append(to_append(stream, 0, count=2, state_schema=7))

        head, _ = await store.load(stream)

        assert head is not None
        assert (head.version, head.state, head.state_schema) == (2, {"count": 2}, 7)

    @pytest.mark.parametrize("expected", [0, 1, 3, 9])
    async def test_another_expected_version_is_a_conflict(self, store: EventStore, expected: int) -> None:
        stream = new_stream()
        await store.append(to_append(stream, 0, count=2))

        with pytest.raises(ConflictError) as caught:
            await store.append(to_append(stream, expected))

        assert (caught.value.expected, caught.value.actual) == (expected, 2)
        assert await numbers(store, stream) == [1, 2]

    async def test_a_conflict_punishes_no_one_else(self, store: EventStore) -> None:
        taken = new_stream()
        await store.append(to_append(taken, 0))
        others = [new_stream() for _ in range(20)]

        results = await asyncio.gather(
            store.append(to_append(taken, 0)),
            *(store.append(to_append(stream, 0)) for stream in others),
            return_exceptions=True,
        )

        assert isinstance(results[0], ConflictError)
        assert all(isinstance(result, Appended) for result in results[1:])

    async def test_a_command_id_takes_effect_once(self, store: EventStore) -> None:
        stream, command_id = new_stream(), str(uuid.uuid4())
        first = await store.append(to_append(stream, 0, command_id=command_id, fingerprint="f"))

        with pytest.raises(DuplicateCommand) as caught:
            await store.append(to_append(stream, 1, command_id=command_id, fingerprint="f"))

        assert caught.value.outcome.appended == first
        assert caught.value.outcome.fingerprint == "f"
        assert (await store.load(stream, command_id))[1] == caught.value.outcome
        assert await numbers(store, stream) == [1]

    async def test_a_repeat_is_known_though_its_stream_has_gone_on(self, store: EventStore) -> None:
        stream, command_id = new_stream(), str(uuid.uuid4())
        first = await store.append(to_append(stream, 0, command_id=command_id))
        await store.append(to_append(stream, 1))
        with pytest.raises(DuplicateCommand) as caught:
            await store.append(to_append(stream, 0, command_id=command_id))
        assert caught.value.outcome.appended == first

    async def test_the_longest_command_ids_take_effect_once_each(self, store: EventStore) -> None:
        tenant, scope = "t" * 63, str(uuid.uuid4()).ljust(255, "k")
        for command_id in (f"{scope}1", f"{scope}2"):
            stream = new_stream(tenant)
            first = await store.append(to_append(stream, 0, command_id=command_id))
            with pytest.raises(DuplicateCommand) as caught:
                await store.append(to_append(stream, 1, command_id=command_id))
            assert caught.value.outcome.appended == first
            assert (await store.load(stream, command_id))[1] == caught.value.outcome

    async def test_command_ids_of_two_tenants_are_apart(self, store: EventStore) -> None:
        for command_id in (str(uuid.uuid4()), str(uuid.uuid4()).ljust(256, "k")):
            await store.append(to_append(new_stream("acme"), 0, command_id=command_id))
            other = new_stream("globex")
            assert (await store.load(other, command_id))[1] is None
            await store.append(to_append(other, 0, command_id=command_id))
            assert await numbers(store, other) == [1]

    async def test_streams_of_two_tenants_are_apart(self, store: EventStore) -> None:
        stream = new_stream("acme")
        await store.append(to_append(stream, 0))
        assert await numbers(store, StreamId("globex", stream.name)) == []

    async def test_a_stream_is_read_between_versions_and_backwards(self, store: EventStore) -> None:
        stream = new_stream()
        await store.append(to_append(stream, 0, count=300))

        assert await numbers(store, stream, from_version=2, to_version=4) == [2, 3, 4]
        assert await numbers(store, stream, from_version=298) == [298, 299, 300]
        assert await numbers(store, stream, limit=2) == [1, 2]
        assert await numbers(store, stream, backwards=True, limit=2) == [300, 299]
        assert await numbers(store, stream) == list(range(1, 301))

    async def test_writers_on_one_stream_lose_and_double_nothing(self, store: EventStore) -> None:
        stream = new_stream()

        async def write() -> int:
            while True:
                head, _ = await store.load(stream)
                try:
                    return (await store.append(to_append(stream, head.version if head else 0))).version
                except ConflictError:
                    continue

        versions = await asyncio.gather(*(write() for _ in range(20)))

        assert sorted(versions) == list(range(1, 21))
        assert await numbers(store, stream) == list(range(1, 21))

    async def test_the_log_is_dense_and_names_every_commit(self, store: EventStore) -> None:
        appended = await asyncio.gather(
            *(store.append(to_append(new_stream(), 0, count=2)) for _ in range(30))
        )
        lane = appended[0].position.lane
        seqs = sorted(one.position.seq for one in appended)
        assert seqs == list(range(seqs[0], seqs[0] + 30))

        commits = await store.read_log(lane, seqs[0], seqs[-1])

        assert [commit.position.seq for commit in commits] == seqs
        assert {commit.stream for commit in commits} == {one.stream for one in appended}
        assert {(commit.first, commit.last) for commit in commits} == {(1, 2)}
        assert {commit.types for commit in commits} == {("thing.happened", "thing.happened")}

    async def test_the_feed_replays_everything_behind_a_position(self, store: EventStore) -> None:
        stream = new_stream()
        before = await store.append(to_append(stream, 0))
        await store.append(to_append(stream, 1, count=2))

        feed = [
            (commit, events)
            async for commit, events in read_feed(store, {before.position.lane: before.position.seq})
            if commit.stream == stream
        ]

        assert [[event.version for event in events] for _, events in feed] == [[2, 3]]

    async def test_events_are_read_by_stream_and_version(self, store: EventStore) -> None:
        one, two = new_stream(), new_stream()
        await store.append(to_append(one, 0, count=2))
        await store.append(to_append(two, 0))

        events = await store.read_events([(two, 1), (one, 2), (one, 3)])

        assert [(event.stream, event.version) for event in events] == [(two, 1), (one, 2)]
