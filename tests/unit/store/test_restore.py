"""What a truncated import leaves, and who keeps away from it until it is complete."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, ClassVar, cast

import grpc
import orjson
import pytest
from structlog.testing import capture_logs

from annals.aggregates import Aggregate, Command, Handler, folding
from annals.dapr import DaprError, DaprSidecar, Workflows, Write
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, EventData, EventRegistry, RecordedEvent, StreamId
from annals.privacy import SubjectErased, SubjectKeys
from annals.sagas import Saga, SagaCatalog, SagaInput, SendCommand, Step
from annals.sagas.claims import Claims
from annals.sagas.events import SagaCompleted, SagaStarted, StepCompleted, StepStarted
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.state import SagaStatus
from annals.sagas.watch import Watch
from annals.store import (
    ALL_LANES,
    SAGA_LANES,
    Append,
    DaprEventReader,
    DaprEventStore,
    Export,
    Follower,
    Head,
    NotImportable,
    Restore,
    Undecodable,
    records,
)
from annals.store import keys as store_keys
from annals.testing.fake import FakeSidecar
from conftest import until
from event_store_conformance import new_stream, to_append
from event_stores import BrokenOff, opened

NOTHING = folding(EventRegistry([]), [])


@asynccontextmanager
async def empty() -> AsyncIterator[tuple[int, BrokenOff]]:
    """Yield the port and a client of a sidecar whose store is empty."""
    async with FakeSidecar() as sidecar:
        client = BrokenOff(sidecar.grpc_port)
        yield sidecar.grpc_port, client
        await client.close()


async def lines_of(client: DaprSidecar) -> list[bytes]:
    pages = Export(client, "eventstore", with_keys=False).pages()
    return b"".join([page async for page in pages]).splitlines(keepends=True)[:-1]


async def test_a_lane_is_being_imported_until_its_last_commit_is_there() -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            for _ in range(3):
                await store.append(to_append(new_stream(), 0))
            lane = store.lane or 0
        lines = await lines_of(source)
    async with empty() as (_, into):
        reader, restore = DaprEventReader(into), Restore(into, "eventstore", NOTHING)
        # A key that a bulk read leaves out exists all the same.
        into.left_out = frozenset({store_keys.imported(lane), store_keys.log(lane, 3)})
        assert not await reader.being_imported()
        await restore.apply(b"".join(lines[:-1]))
        assert await reader.being_imported()
        assert await reader.being_imported([lane])
        assert not await reader.being_imported(one for one in ALL_LANES if one != lane)
        await restore.apply(lines[-1])
        assert not await reader.being_imported()


async def test_a_mark_of_an_import_that_was_damaged_is_named() -> None:
    async with empty() as (_, client):
        mark = store_keys.imported(3)
        await client.save("eventstore", Write(mark, b"{"))
        with pytest.raises(Undecodable, match=f"^{mark} cannot be decoded"):
            await DaprEventReader(client).being_imported()


class Nothing(SagaInput):
    pass


SAGA = Saga("test", Nothing, (Step("a", SendCommand("a", lambda _: {})),))
KEY = SagaKey("s1", "default")


class NoWorkflows:
    """A workflow engine that has lost all its workflows."""

    def __init__(self) -> None:
        self.started: list[str] = []

    async def terminate(self, _instance: str) -> None:
        pass

    async def start(self, _name: str, instance: str, _given: Any, _traceparent: str | None) -> bool:
        self.started.append(instance)
        return True


async def test_a_saga_whose_end_is_still_to_be_imported_is_not_restarted() -> None:
    started = SagaStarted(
        started_at=datetime(2030, 1, 1, tzinfo=UTC), saga_type="test", saga_version=1, input={}, steps=("a",)
    )
    story = (started, StepStarted(step="a", attempt=1), StepCompleted(step="a", attempt=1))
    async with empty() as (port, source):
        async with opened(port, lanes=SAGA_LANES) as store:
            history = SagaHistory(store)
            for event in (*story, SagaCompleted(output=None)):
                await history.decide(KEY, lambda _, event=event: [event])
        lines = await lines_of(source)

    async with empty() as (port, into), opened(port, lanes=SAGA_LANES) as store:
        restore = Restore(into, "eventstore", NOTHING)
        await restore.apply(b"".join(lines[:-1]))
        history, workflows, time = SagaHistory(store), NoWorkflows(), [0.0]
        catalog = SagaCatalog(SAGA)
        orchestrator = Orchestrator(
            catalog, history, Claims(into, "eventstore", history), cast("Workflows", workflows)
        )

        async def unmoved() -> list[SagaKey]:
            return [KEY]

        watch = Watch(
            catalog,
            history,
            orchestrator,
            unmoved,
            store.being_imported,
            seconds=60,
            clock=lambda: time[0],
        )
        for _ in range(3):
            await watch.look()
            time[0] += 100
        assert not workflows.started
        assert await restore.apply(b"".join(lines)) == 1, "it goes on where it was broken off"
        _, state = await history.load(KEY)
        assert state.status is SagaStatus.COMPLETED


async def test_an_import_that_is_refused_has_written_nothing() -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            await store.append(to_append(new_stream(), 0))
        lines = await lines_of(source)
    subject = {"subject": "zoe", "tenant": "default", "key": "wrapped"}
    first, begin = b"".join(lines), b"".join([lines[0], orjson.dumps(subject) + b"\n", *lines[1:]])
    key = store_keys.subject("default", "zoe")
    async with empty() as (port, into):
        async with opened(port) as store:
            await store.append(to_append(new_stream(), 0))
        restore = Restore(into, "eventstore", NOTHING)
        with pytest.raises(NotImportable, match="not empty"):
            await restore.apply(begin)
        with pytest.raises(NotImportable, match="did not begin"):
            await restore.apply(begin.removeprefix(lines[0]))
        assert await into.get("eventstore", key) is None
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", NOTHING)
        assert await restore.apply(begin) == 1
        assert await restore.apply(first) == 0
        assert await into.get("eventstore", key) is not None


async def test_an_import_that_another_writer_was_faster_than_says_so() -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            await store.append(to_append(new_stream(), 0))
        lines = await lines_of(source)

    class Slower(DaprSidecar):
        async def transact(self, store: str, writes: Iterable[Write]) -> None:
            async with opened(port) as faster:
                await faster.append(to_append(new_stream(), 0))
            await super().transact(store, writes)

    async with FakeSidecar() as sidecar:
        port = sidecar.grpc_port
        slower = Slower(port)
        with pytest.raises(NotImportable, match="at the same time"):
            await Restore(slower, "eventstore", NOTHING).apply(b"".join(lines))
        assert not await DaprEventReader(slower).half_imported()
        await slower.close()


async def test_a_commit_beyond_the_end_that_its_backup_names_is_refused() -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            for _ in range(3):
                await store.append(to_append(new_stream(), 0))
        header, *commits = await lines_of(source)
    shorter = orjson.dumps(orjson.loads(header) | {"lanes": {"0": 2}}) + b"\n"
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", NOTHING)
        assert await restore.apply(b"".join([shorter, *commits[:2]])) == 2
        with pytest.raises(NotImportable, match="did not begin"):
            await restore.apply(commits[2])
        assert await DaprEventReader(into).reached() == {0: 2}


class Put(EventData, type="box.put"):
    weight: int


class PutIn(Command):
    command_type: ClassVar[str] = "box.put"


class Box(Aggregate):
    aggregate_type: ClassVar[str] = "box"

    count: int = 0

    def apply(self, event: EventData) -> Box:  # noqa: ARG002 - it only counts them
        return self.model_copy(update={"count": self.count + 1})


class WeighedBox(Box):
    state_schema: ClassVar[int] = 2

    weight: int = 0

    def apply(self, event: EventData) -> WeighedBox:
        weight = self.weight + cast("Put", event).weight
        return self.model_copy(update={"count": self.count + 1, "weight": weight})


class WeighedBoxOfTheSameSchema(WeighedBox):
    state_schema: ClassVar[int] = 1


def release(box: type[Box]) -> Any:
    return folding(EventRegistry([Put]), [Handler(PutIn, box, lambda _: "x", lambda _, __: ())])


BOX = StreamId.of("default", "box", "x")


def putting(weight: int) -> DomainEvent:
    return DomainEvent(
        event_type="box.put",
        source="test",
        aggregate_type="box",
        aggregate_id="x",
        data={"weight": weight},
    )


async def put(store: DaprEventStore, version: int) -> None:
    await store.append(Append(BOX, (putting(10 * (version + 1)),), version, {}))


@pytest.mark.parametrize("newer", [WeighedBox, WeighedBoxOfTheSameSchema])
@pytest.mark.parametrize("pieces", [(4, 3), (4, 1, 1, 1)])
async def test_an_import_that_another_release_goes_on_with_has_the_states_of_that_one(
    pieces: tuple[int, ...], newer: type[Box]
) -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            for version in range(6):
                await put(store, version)
        lines = await lines_of(source)
    async with empty() as (_, into):
        releases = [release(Box), *[release(newer)] * (len(pieces) - 1)]
        for fold, piece in zip(releases, pieces, strict=True):
            await Restore(into, "eventstore", fold).apply(b"".join(lines[:piece]))
            del lines[:piece]
        head, _ = await DaprEventReader(into).load(BOX)
        assert head is not None
        assert (head.version, head.state_schema) == (6, newer.state_schema)
        assert head.state == {"count": 6, "weight": 210}


async def written(*owners: str) -> list[bytes]:
    """Return the export of a store with a box whose events these owners wrote in turn."""
    async with empty() as (port, source):
        async with AsyncExitStack() as stack:
            stores = {
                owner: await stack.enter_async_context(opened(port, owner)) for owner in sorted(set(owners))
            }
            for version, owner in enumerate(owners):
                await put(stores[owner], version)
        return await lines_of(source)


def begun(lines: list[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """Return the lines with which an import begins, and the rest of each lane."""
    lanes = len(orjson.loads(lines[0])["lanes"])
    rest: defaultdict[int, list[bytes]] = defaultdict(list)
    for line in lines[1 + lanes :]:
        rest[orjson.loads(line)["lane"]].append(line)
    return b"".join(lines[: 1 + lanes]), list(rest.values())


def weighed(count: int) -> dict[str, int]:
    return {"count": count, "weight": 5 * count * (count + 1)}


async def is_whole(into: DaprSidecar, count: int) -> bool:
    """Return whether a store has all of a box. Its head has its state then, and none before."""
    reader = DaprEventReader(into)
    there = await reader.read_raw_events([(BOX, version) for version in range(1, count + 1)], certain=True)
    head, _ = await reader.load(BOX, certain=True)
    assert head is not None
    last = max(version for version, raw in enumerate(there, start=1) if raw)
    assert head.version == last, "who reads a stream as far as its head misses none that is there"
    raw = there[last - 1]
    assert raw is not None
    assert head.hash == RecordedEvent.from_json(raw).hash
    whole = all(there[:last])
    assert head.state == (weighed(last) if whole else None)
    return whole and last == count


class Watched(BrokenOff):
    """Checks the box after every transaction."""

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        await super().transact(store, writes)
        await is_whole(self, 8)


@pytest.mark.parametrize("owners", ["abcbacab", "abbbccaa", "aabbaabb", "cccbbaab"])
async def test_a_stream_has_its_state_with_the_commit_that_it_is_whole_by(owners: str) -> None:
    first, lanes = begun(await written(*owners))
    for order in permutations(lanes):
        async with empty() as (port, _):
            into = Watched(port)
            restore = Restore(into, "eventstore", release(WeighedBox))
            await restore.apply(first)
            for line in [line for lane in order for line in lane]:
                assert await restore.apply(line) == 1
                assert await restore.apply(line) == 0
            assert await is_whole(into, 8)
            await into.close()


async def test_lanes_that_come_at_the_same_time_lose_nothing_of_each_other() -> None:
    first, lanes = begun(await written(*"abcabcabc"))
    for order in permutations(lanes):
        async with empty() as (_, into):
            restore = Restore(into, "eventstore", release(WeighedBox))
            await restore.apply(first)
            for lines in zip(*order, strict=True):
                await asyncio.gather(*(restore.apply(line) for line in lines))
            assert await is_whole(into, 9)


class Killed(BrokenOff):
    """Loses the reply to every second transaction, as when the importer is killed."""

    transactions = 0

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        await super().transact(store, writes)
        self.transactions += 1
        if self.transactions % 2 == 0:
            raise RuntimeError("the importer is killed")


async def test_an_import_that_is_killed_at_any_commit_goes_on_there() -> None:
    first, lanes = begun(await written(*"abcbacab"))
    async with empty() as (port, _):
        into = Killed(port)
        for request in [first, *(line for lane in lanes for line in lane)]:
            for last in (False, True):
                try:
                    await Restore(into, "eventstore", release(WeighedBox)).apply(request)
                except RuntimeError:
                    assert not last
        assert into.transactions > 4
        assert await is_whole(into, 8)
        await into.close()


async def test_what_a_read_leaves_out_is_not_taken_for_a_part_that_comes_later() -> None:
    first, lanes = begun(await written(*"abbaabba"))
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", release(WeighedBox))
        await restore.apply(first)
        into.left_out = frozenset(store_keys.event(BOX, version) for version in range(1, 9))
        for lane in lanes:
            await restore.apply(b"".join(lane))
        assert await is_whole(into, 8)


@pytest.mark.parametrize("alternating", [True, False])
async def test_what_is_there_of_a_long_stream_is_not_read_again_for_every_commit(
    *, alternating: bool
) -> None:
    count = 400
    owners = "ab" * (count // 2) if alternating else "a" + "b" * (count - 2) + "a"
    first, lanes = begun(await written(*owners))
    for order in permutations(lanes):
        async with empty() as (_, into):
            restore = Restore(into, "eventstore", release(WeighedBox))
            await restore.apply(first)
            for lane in order:
                for start in range(0, len(lane), 8):
                    await restore.apply(b"".join(lane[start : start + 8]))
            assert await is_whole(into, count)
            read = sum(into.asked[store_keys.event(BOX, version)] for version in range(1, count + 1))
            assert read < 4 * count


async def test_a_head_that_an_earlier_release_left_without_a_state_gets_one_with_the_next_commit() -> None:
    first, lanes = begun(await written(*"ababababab"))
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", release(WeighedBox))
        await restore.apply(first)
        *before, last = [line for lane in lanes for line in lane]
        for line in before:
            await restore.apply(line)
            value = await into.get("eventstore", store_keys.head(BOX))
            assert value is not None
            head = records.decode_head(value.data)
            left = records.encode_head(Head(head.version, None, 0, head.hash))
            await into.save("eventstore", Write(store_keys.head(BOX), left, etag=value.etag))
        await restore.apply(last)
        assert await is_whole(into, 10)


class Picky(WeighedBox):
    """The box of a release that does not accept a weight of 30."""

    def apply(self, event: EventData) -> Picky:
        if cast("Put", event).weight == 30:
            raise ValueError("no release of this one put that in")
        weighed = super().apply(event)
        return self.model_copy(update={"count": weighed.count, "weight": weighed.weight})


@pytest.mark.parametrize("owners", ["aaaaaa", "ababab", "bbbaaa", "aabbaa"])
async def test_a_stream_that_cannot_be_read_has_no_state_and_the_import_goes_on(owners: str) -> None:
    first, lanes = begun(await written(*owners))
    for order in permutations(lanes):
        async with empty() as (_, into):
            restore = Restore(into, "eventstore", release(Picky))
            with capture_logs() as logs:
                await restore.apply(first)
                for line in [line for lane in order for line in lane]:
                    assert await restore.apply(line) == 1
                    assert await restore.apply(line) == 0
            assert {"stream": str(BOX), "version": 6}.items() <= logs[-1].items()
            reader = DaprEventReader(into)
            assert not await reader.being_imported()
            head, _ = await reader.load(BOX)
            [last] = await reader.read_events([(BOX, 6)])
            assert head == Head(6, None, 0, last.hash)


async def test_a_release_that_can_read_a_stream_goes_on_with_it_where_another_could_not() -> None:
    first, [*lanes] = begun(await written(*"ababab"))
    lines = [line for lane in lanes for line in lane]
    async with empty() as (_, into):
        picky = Restore(into, "eventstore", release(Picky))
        await picky.apply(first)
        for line in lines[:-1]:
            await picky.apply(line)
        await Restore(into, "eventstore", release(WeighedBox)).apply(lines[-1])
        assert await is_whole(into, 6)


@pytest.mark.parametrize("wrong", ["number", "place"])
async def test_events_that_are_not_those_of_their_commit_are_refused(wrong: str) -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            await store.append(Append(BOX, (putting(1),) * 2, 0, {}))
        lines = [orjson.loads(line) for line in await lines_of(source)]
    [commit] = [line for line in lines if "commit" in line]
    if wrong == "number":
        commit["events"].pop()
    else:
        first = orjson.loads(commit["events"][0])
        commit["events"][0] = orjson.dumps(first | {"seq": first["seq"] + 1}).decode()
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", release(Box))
        with pytest.raises(NotImportable, match="the events in the line of commit 0-1 do not belong to it"):
            await restore.apply(b"".join(orjson.dumps(line) + b"\n" for line in lines))


@pytest.mark.parametrize("damaged", [0, 1])
async def test_a_commit_that_is_none_is_refused_and_named(damaged: int) -> None:
    async with empty() as (port, source):
        async with opened(port) as store:
            await put(store, 0)
            await store.append(Append(BOX, (putting(1),) * 2, 1, {}))
        *lines, last = await lines_of(source)
    line = orjson.loads(last)
    line["events"][damaged] = line["events"][damaged][:-20]
    async with empty() as (_, into):
        restore = Restore(into, "eventstore", release(Box))
        await restore.apply(b"".join(lines))
        with pytest.raises(NotImportable, match="commit 0-2 is not a commit"):
            await restore.apply(orjson.dumps(line) + b"\n")
        assert await restore.apply(last) == 1


class Sheet(Box):
    aggregate_type: ClassVar[str] = "sheet"

    text: str = ""

    def apply(self, event: EventData) -> Sheet:
        text = self.text or "x" * cast("Put", event).weight
        return self.model_copy(update={"count": self.count + 1, "text": text})


class Narrow(BrokenOff):
    """Refuses transactions larger than a sidecar takes by default."""

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        writes = list(writes)
        if (size := sum(write.item().ByteSize() for write in writes)) > 4 * 1024 * 1024:
            raise DaprError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"received message larger than max ({size})")
        await super().transact(store, writes)


async def test_commits_that_are_small_beside_the_states_of_their_streams_are_taken() -> None:
    streams = [StreamId.of("default", "sheet", str(number)) for number in range(64)]
    async with empty() as (port, source):
        async with opened(port) as store:
            for version in range(2):
                for stream in streams:
                    event = DomainEvent(
                        event_type="box.put",
                        source="test",
                        aggregate_type="sheet",
                        aggregate_id=stream.name.removeprefix("sheet-"),
                        data={"weight": 150_000},
                    )
                    await store.append(Append(stream, (event,), version, {}))
        lines = await lines_of(source)
    async with FakeSidecar() as sidecar:
        into = Narrow(sidecar.grpc_port)
        assert await Restore(into, "eventstore", release(Sheet)).apply(b"".join(lines)) == 2 * len(streams)
        reader = DaprEventReader(into)
        for stream in streams:
            head, _ = await reader.load(stream)
            assert head is not None
            assert head.state == {"count": 2, "text": "x" * 150_000}
        await into.close()


async def test_nothing_of_a_backup_is_published() -> None:
    async with FakeSidecar() as old, FakeSidecar() as new:
        source, target = DaprSidecar(old.grpc_port), DaprSidecar(new.grpc_port)
        async with opened(old.grpc_port) as store:
            for _ in range(3):
                await store.append(to_append(new_stream(), 0))
        lines = [page async for page in Export(source, "eventstore", with_keys=False).pages()]
        await Restore(target, "eventstore", lambda *_: (None, 0)).apply(b"".join(lines))
        async with opened(new.grpc_port) as store:
            appended = await store.append(to_append(new_stream(), 0))
            assert appended.position.seq == 4

            async def published() -> bool:
                return bool(new.dapr.broker.log("domain-events"))

            await until(published)
        assert len(new.dapr.broker.log("domain-events")) == 1
        await source.close()
        await target.close()


async def test_an_erasure_is_not_undone_by_lines_that_come_again() -> None:
    wrapping = base64.b64encode(os.urandom(32)).decode()

    async def secret() -> str:
        return wrapping

    async with FakeSidecar() as old, FakeSidecar() as new:
        source, target = DaprSidecar(old.grpc_port), DaprSidecar(new.grpc_port)
        stream = new_stream("acme")
        token = (await SubjectKeys(source, "eventstore", secret).protect("acme", "zoe", {"name": "Zoe"}))[
            "name"
        ]
        async with opened(old.grpc_port) as store:
            append = to_append(stream, 0)
            named = append.events[0].with_context(data={"name": token})
            await store.append(replace(append, events=(named,)))
        lines = b"".join([page async for page in Export(source, "eventstore", with_keys=True).pages()])
        assert b'"subject"' in lines
        restore = Restore(target, "eventstore", lambda *_: (None, 0))
        await restore.apply(lines)
        await SubjectKeys(target, "eventstore", secret).shred("acme", "zoe")
        await restore.apply(lines)
        with pytest.raises(SubjectErased):
            await SubjectKeys(target, "eventstore", secret).protect("acme", "zoe", {"name": "Zoe"})
        await source.close()
        await target.close()


@pytest.mark.parametrize("placed", ["before", "during", "after"])
async def test_who_follows_first_is_given_what_was_imported_whenever_it_begins(placed: str) -> None:
    """Events appended after the import, before anybody followed, are not new to a first follower."""
    async with empty() as (port, source):
        async with opened(port) as store:
            for version in range(6):
                await put(store, version)
        lines = await lines_of(source)
    async with empty() as (port, into):
        given: list[tuple[str, int]] = []

        async def handle(event: RecordedEvent) -> None:
            given.append(("new", event.seq))

        async def imported(event: RecordedEvent) -> None:
            given.append(("imported", event.seq))

        @asynccontextmanager
        async def following(owner: str) -> AsyncIterator[None]:
            letters = DeadLetters(into, "eventstore", "test")
            one = Follower(into, "eventstore", "test", owner, handle, letters, imported=imported)
            tasks = [asyncio.create_task(letters.run()), asyncio.create_task(one.run())]

            async def is_placed() -> bool:
                return one.placed

            try:
                await until(is_placed)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        async def all_given() -> bool:
            return set(given) >= set(expected)

        restore = Restore(into, "eventstore", NOTHING)
        expected = [("imported", seq) for seq in range(1, 7)] + [("new", 8)]
        async with AsyncExitStack() as stack:
            if placed == "before":
                await stack.enter_async_context(following("a"))
            await restore.apply(b"".join(lines[:3]))
            if placed == "during":
                await stack.enter_async_context(following("a"))
            await restore.apply(b"".join(lines[3:]))
            async with opened(port) as store:
                await put(store, 6)
                if placed == "after":
                    # The follower stops before it has come that far; when it is back, it goes on from its
                    # place.
                    into.left_out = frozenset({store_keys.log(0, 4)})
                    async with following("a"):
                        pass
                    into.left_out = frozenset()
                    await stack.enter_async_context(following("a"))
                else:
                    expected.insert(6, ("new", 7))
                await put(store, 7)
                await until(all_given)
        assert list(dict.fromkeys(given)) == expected
