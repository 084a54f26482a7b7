"""How much of the store an export holds at a time, and what it exports while the store is written to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import orjson
import pytest

from annals.dapr import DaprSidecar, StateValue, Write
from annals.events import DomainEvent, StreamId
from annals.store import Append, DaprEventReader, DaprEventStore, Export, Restore, Undecodable, export, keys
from annals.testing.fake import FakeSidecar
from event_store_conformance import saying
from event_stores import opened

TEXT = b"x" * 20_000


def written(stream: StreamId, count: int) -> Append:
    event = {"event_type": "thing.happened", "source": "test", "aggregate_type": "thing"}
    happened = DomainEvent.model_validate(event | {"aggregate_id": "1", "data": {"text": TEXT.decode()}})
    return Append(stream, (happened,) * count, 0, {})


@pytest.mark.parametrize(
    ("commits", "most"),
    [
        ([1] * 100, 19),
        ([3] * 40, 18),
        ([50] * 3, 50),
        ([1, 100, 10, 9, 1], 100),
    ],
)
async def test_an_export_holds_as_many_events_at_a_time_as_their_size_allows(
    commits: list[int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is one line and is never split."""
    monkeypatch.setattr(export, "_BYTES", 400_000)
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        for number, count in enumerate(commits):
            await store.append(written(StreamId.of("default", "thing", str(number)), count))
        client = DaprSidecar(sidecar.grpc_port)
        pages = [page async for page in Export(client, "eventstore", with_keys=False).pages()]
        await client.close()
    lines = [orjson.loads(line) for line in b"".join(pages).splitlines()]
    assert [len(line["events"]) for line in lines if "events" in line] == commits
    assert lines[-1]["end"]["events"] == sum(commits)
    assert max(page.count(TEXT) for page in pages) == most


class Meanwhile(DaprSidecar):
    """Lets something happen before it reads the end of a lane; no other read asks for 256 keys."""

    def __init__(self, grpc_port: int, happen: Callable[[int, int], Awaitable[None]]) -> None:
        super().__init__(grpc_port)
        self._happen = happen
        self._reads: Counter[int] = Counter()

    async def get_bulk(self, store: str, wanted: Sequence[str]) -> dict[str, StateValue]:
        for lane in range(3):
            if len(wanted) == 256 and wanted[0].startswith(keys.log(lane, 1)[:-1]):
                self._reads[lane] += 1
                await self._happen(self._reads[lane], lane)
        return await super().get_bulk(store, wanted)


class Writers:
    """Three replicas that write lanes 0, 1 and 2, and what they wrote."""

    def __init__(self, stores: list[DaprEventStore]) -> None:
        self._stores = stores
        self.versions: Counter[str] = Counter()

    async def write(self, lane: int, name: str) -> None:
        event = DomainEvent(
            event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=name
        )
        await self._stores[lane].append(Append(event.stream, (event,), self.versions[name]))
        self.versions[name] += 1


@asynccontextmanager
async def writers() -> AsyncIterator[tuple[int, Writers]]:
    async with FakeSidecar() as sidecar, AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(sidecar.grpc_port, owner)) for owner in "abc"]
        assert [store.lane for store in stores] == [0, 1, 2]
        yield sidecar.grpc_port, Writers(stores)


async def exported(port: int, happen: Callable[[int, int], Awaitable[None]]) -> dict[str, list[int]]:
    """Export a store, import that into another, and return the versions of each exported stream."""
    client = Meanwhile(port, happen)
    data = b"".join([page async for page in Export(client, "eventstore", with_keys=False).pages()])
    await client.close()
    lines = [orjson.loads(line) for line in data.splitlines()]
    seqs: dict[str, list[int]] = defaultdict(list)
    versions: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if "commit" in line:
            seqs[str(line["lane"])].append(line["seq"])
            commit = orjson.loads(line["commit"])
            versions[commit["stream"].removeprefix("thing-")] += range(commit["first"], commit["last"] + 1)
    assert lines[0]["lanes"] == {lane: max(seq) for lane, seq in seqs.items()}
    assert all(sorted(seq) == list(range(1, len(seq) + 1)) for seq in seqs.values())
    async with FakeSidecar() as empty:
        into = DaprSidecar(empty.grpc_port)
        await Restore(into, "eventstore", lambda *_: ({}, 1)).apply(data)
        for name in versions:
            head, _ = await DaprEventReader(into).load(StreamId.of("default", "thing", name))
            assert head is not None
            assert head.state is not None, f"{name} has a hole"
        await into.close()
    return {name: sorted(found) for name, found in versions.items()}


@pytest.mark.parametrize(("reading", "whole"), [(1, True), (2, False)])
async def test_what_is_written_while_the_ends_of_lanes_are_read_leaves_no_hole(
    reading: int, *, whole: bool
) -> None:
    async with writers() as (port, wrote):
        await wrote.write(0, "x")
        await wrote.write(1, "y")
        await wrote.write(2, "z")

        async def happen(times: int, lane: int) -> None:
            # The export knows the end of lane 0 by then, but not that of lane 1.
            if (times, lane) == (reading, 1):
                await wrote.write(0, "x")
                await wrote.write(1, "x")
                await wrote.write(1, "y")  # in its lane behind x@3, which builds on a missing x@2
                await wrote.write(2, "y")  # builds on that y@2
                await wrote.write(2, "z")

        found = await exported(port, happen)
    assert found == (
        {"x": [1, 2, 3], "y": [1, 2, 3], "z": [1, 2]} if whole else {"x": [1], "y": [1], "z": [1]}
    )


@pytest.mark.parametrize("seed", range(8))
async def test_a_backup_of_a_running_store_has_each_stream_from_its_beginning(seed: int) -> None:
    random = Random(seed)
    async with writers() as (port, wrote):
        for _ in range(10):
            await wrote.write(random.randrange(3), random.choice("uvwxyz"))
        before = dict(wrote.versions)

        async def happen(_times: int, _lane: int) -> None:
            for _ in range(random.randrange(8)):
                await wrote.write(random.randrange(3), random.choice("uvwxyz"))

        found = await exported(port, happen)
    for versions in found.values():
        assert versions == list(range(1, len(versions) + 1))
    assert all(len(found[name]) >= count for name, count in before.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (keys.log(0, 1), b"{"),
        (keys.log(0, 3), b"{}"),
        (keys.event(StreamId("default", "thing-2"), 1), b'{"half'),
        (keys.event(StreamId("default", "thing-2"), 1), b'{"text": "\xff"}'),
        (keys.checkpoint(0, 1), b"{}"),
        (keys.subject("default", "zoe"), b"\xff"),
    ],
)
async def test_a_damaged_value_is_named(key: str, value: bytes) -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        for name in range(4):
            event = DomainEvent(
                event_type="thing.happened",
                source="test",
                aggregate_type="thing",
                aggregate_id=str(name),
                data={"name": "annals-enc.v1/zoe/x"},
            )
            await store.append(Append(event.stream, (event,), 0, {}))
        client = DaprSidecar(sidecar.grpc_port)
        await client.save("eventstore", Write(key, value))
        with pytest.raises(Undecodable) as raised:
            async for _ in Export(client, "eventstore", with_keys=True).pages():
                pass
        assert raised.value.key == key
        await client.close()


@pytest.mark.parametrize("other", [{"event_type": None}, {"timestamp": "yesterday"}, {"seq": 2}, {"lane": 1}])
async def test_an_event_that_no_import_takes_is_not_exported_as_if_whole(other: dict[str, Any]) -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        stream = StreamId.of("default", "thing", "1")
        await store.append(written(stream, 2))
        client = DaprSidecar(sidecar.grpc_port)
        key = keys.event(stream, 1)
        there = await client.get("eventstore", key)
        assert there is not None
        await client.save("eventstore", Write(key, orjson.dumps(orjson.loads(there.data) | other)))
        with pytest.raises(Undecodable) as raised:
            async for _ in Export(client, "eventstore", with_keys=False).pages():
                pass
        assert raised.value.key == key
        await client.close()


async def test_an_export_has_the_keys_of_its_subjects_each_of_its_own_tenant() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        client = DaprSidecar(sidecar.grpc_port)
        for tenant in ("acme", "default", "other"):
            await client.save("eventstore", Write(keys.subject(tenant, "zoe"), f"{tenant}'s".encode()))
        for tenant in ("acme", "other"):
            event = saying("t", "annals-enc.v1/zoe/sealed", tenant_id=tenant)
            await store.append(Append(event.stream, (event,), 0))
        pages = Export(client, "eventstore", with_keys=True).pages()
        lines = [orjson.loads(line) for page in [page async for page in pages] for line in page.splitlines()]
        await client.close()
    assert {line["tenant"]: line["key"] for line in lines if "subject" in line} == {
        "acme": "acme's",
        "other": "other's",
    }


async def test_a_checkpoint_of_commits_that_are_not_exported_is_not_exported() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        client = DaprSidecar(sidecar.grpc_port)
        await store.append(written(StreamId.of("default", "thing", "1"), 1))
        signed = [orjson.dumps({"lane": 0, "number": seq, "seq": seq}).decode() for seq in (1, 2)]
        for number, checkpoint in enumerate(signed, start=1):
            await client.save("eventstore", Write(keys.checkpoint(0, number), checkpoint.encode()))
        pages = Export(client, "eventstore", with_keys=False).pages()
        lines = [orjson.loads(line) for page in [page async for page in pages] for line in page.splitlines()]
        await client.close()
    assert [line["checkpoint"] for line in lines if "checkpoint" in line] == signed[:1]
