"""Followers of the store on a real sidecar: one at a time, from a saved place, leaving nothing out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters, Status
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.store import Append, DaprEventStore, Follower
from conftest import copy_components, until, write_secrets
from event_stores import lane_held


@pytest.fixture
async def store(
    bare_sidecar: Callable[..., Any], database: str, tmp_path: Path
) -> AsyncIterator[tuple[DaprSidecar, DaprEventStore]]:
    write_secrets(tmp_path, postgres=database)
    needed = ("shared/secretstore.yaml", "stores/postgresql/eventstore.yaml")
    _, at = await bare_sidecar(copy_components(tmp_path / "components", *needed))
    client = DaprSidecar(at.grpc)
    store = DaprEventStore(client, owner="writer")
    running = asyncio.create_task(store.run())

    await lane_held(store)
    yield client, store
    running.cancel()
    await client.close()


async def append(store: DaprEventStore, name: str, count: int) -> None:
    events = [
        DomainEvent(event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=name)
        for _ in range(count)
    ]
    for version, event in enumerate(events):
        await store.append(Append(StreamId("default", f"thing-{name}"), (event,), version))


def follower(client: DaprSidecar, owner: str, handle: Any) -> asyncio.Task[None]:
    letters = DeadLetters(client, "eventstore", "test")
    following = Follower(client, "eventstore", "test", owner, handle, letters)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(letters.run())
            tasks.create_task(following.run())

    return asyncio.create_task(run())


async def test_it_begins_where_the_store_ends_and_then_misses_nothing(
    store: tuple[DaprSidecar, DaprEventStore],
) -> None:
    client, events = store
    await append(events, "old", 5)
    seen: list[tuple[str, int]] = []

    async def handle(event: RecordedEvent) -> None:
        seen.append((event.aggregate_id, event.version))

    first = follower(client, "one", handle)
    await until(lambda: _exists(client))
    await asyncio.gather(*(append(events, name, 40) for name in ("a", "b", "c")))
    await until(lambda: _count(seen, 120))
    for name in ("a", "b", "c"):
        assert [version for one, version in seen if one == name] == list(range(1, 41)), "in order"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await append(events, "d", 7)
    again = follower(client, "one", handle)
    await until(lambda: _count([one for one in seen if one[0] == "d"], 7))
    again.cancel()
    assert "old" not in {name for name, _ in seen}


async def test_a_lane_that_is_new_is_followed_beside_those_that_are_known(
    store: tuple[DaprSidecar, DaprEventStore],
) -> None:
    client, events = store
    seen: list[tuple[str, int]] = []

    async def handle(event: RecordedEvent) -> None:
        seen.append((event.aggregate_id, event.version))

    following = follower(client, "one", handle)
    await until(lambda: _exists(client))
    await append(events, "known", 3)
    await until(lambda: _count(seen, 3))
    other = DaprEventStore(client, owner="another writer")
    running = asyncio.create_task(other.run())
    await lane_held(other)
    assert other.lane != events.lane
    await asyncio.gather(append(other, "new", 20), append(events, "known-too", 20))
    await until(lambda: _count(seen, 43))
    for name in ("new", "known-too"):
        assert [version for one, version in seen if one == name] == list(range(1, 21)), "in order"
    running.cancel()
    following.cancel()


async def test_another_takes_over_when_the_first_is_gone_and_only_then(
    store: tuple[DaprSidecar, DaprEventStore],
) -> None:
    client, events = store
    seen: dict[str, list[int]] = {"one": [], "two": []}

    def handler(owner: str) -> Any:
        async def handle(event: RecordedEvent) -> None:
            seen[owner].append(event.version)

        return handle

    one = follower(client, "one", handler("one"))
    await until(lambda: _exists(client))
    two = follower(client, "two", handler("two"))
    await append(events, "x", 20)
    await until(lambda: _count(seen["one"], 20))
    assert seen["two"] == []
    one.cancel()  # as after a crash: the lease has to run out
    await asyncio.gather(one, return_exceptions=True)
    await append(events, "y", 20)
    await until(lambda: _count(seen["two"], 20), 30)
    two.cancel()
    assert max(Counter(seen["two"]).values()) <= 2, "what one had not saved may come again, no more"


async def test_an_event_that_cannot_be_handled_now_is_handled_later(
    store: tuple[DaprSidecar, DaprEventStore],
) -> None:
    client, events = store
    tries: Counter[int] = Counter()

    async def handle(event: RecordedEvent) -> None:
        tries[event.version] += 1
        if event.version == 2 and tries[2] < 3:
            raise RuntimeError("not now")

    following = follower(client, "one", handle)
    await until(lambda: _exists(client))
    await append(events, "z", 4)

    async def done() -> bool:
        return set(tries) == {1, 2, 3, 4}

    await until(done)
    following.cancel()
    assert tries == {1: 1, 2: 3, 3: 1, 4: 1}


async def test_what_cannot_be_handled_is_parked_with_what_comes_after_it_and_replayed_in_order(
    store: tuple[DaprSidecar, DaprEventStore],
) -> None:
    client, events = store
    seen: list[tuple[str, int]] = []
    mended = False

    async def handle(event: RecordedEvent) -> None:
        if event.aggregate_id == "bad" and event.version == 2 and not mended:
            raise RuntimeError("poison")
        seen.append((event.aggregate_id, event.version))

    following = follower(client, "one", handle)
    await until(lambda: _exists(client))
    await append(events, "bad", 3)
    letters = DeadLetters(client, "eventstore", "test")

    async def parked() -> bool:
        await letters.refresh()
        return len(letters.parked("default")) == 1

    await until(parked)
    await append(events, "good", 3)
    await until(lambda: _count([one for one in seen if one[0] == "good"], 3))
    (letter,) = letters.parked("default")
    assert (letter.stream, letter.version, letter.attempts) == ("thing-bad", 2, 5)
    assert letter.reason == "RuntimeError: poison"
    mended = True
    await letters.release([letter], "ada", "mended")
    await until(lambda: _count([one for one in seen if one[0] == "bad"], 3))
    assert [version for name, version in seen if name == "bad"] == [1, 2, 3]

    async def done() -> bool:
        known, detail = await letters.get("default", letter.id)
        return known.status is Status.DONE and detail.history[0]["user"] == "ada"

    await until(done)
    following.cancel()


async def _exists(client: DaprSidecar) -> bool:
    return await client.get("eventstore", "follower/test") is not None


async def _count(seen: list[Any], wanted: int) -> bool:
    return len(seen) >= wanted
