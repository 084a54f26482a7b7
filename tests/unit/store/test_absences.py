"""A key that a bulk read leaves out proves nothing: see `DaprSidecar.get_bulk`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from annals.aggregates import CommandBus, CommandRequest, CommandResult
from annals.audit import Checkpoint, Progress, VerificationKeys, verify
from annals.dapr import Write
from annals.events import DomainEvent, StreamId
from annals.sagas.events import SagaStarted
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.start import beginning
from annals.store import (
    Append,
    DaprEventReader,
    DaprEventStore,
    Export,
    StoreError,
    StoreUnavailable,
    Undecodable,
    keys,
    records,
)
from annals.store.protocol import Head
from annals.testing.fake import FakeDapr, FakeSidecar, FakeState
from annals.testing.fake.state import Operation
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from conftest import until
from event_stores import BrokenOff, lane_held
from sealing import sealed


@pytest.fixture
def state() -> FakeState:
    return FakeState()


@pytest.fixture
async def client(state: FakeState) -> AsyncIterator[BrokenOff]:
    async with FakeSidecar(dapr=FakeDapr(stores={"eventstore": state})) as sidecar:
        client = BrokenOff(sidecar.grpc_port)
        yield client
        await client.close()


@pytest.fixture
async def store(client: BrokenOff) -> AsyncIterator[DaprEventStore]:
    store = DaprEventStore(client, owner="test")
    running = asyncio.create_task(store.run())
    await lane_held(store)
    yield store
    await store.drain()
    await running


async def append(store: DaprEventStore, name: str, count: int = 1) -> StreamId:
    event = DomainEvent(event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=name)
    await store.append(Append(event.stream, (event,) * count, 0))
    return event.stream


async def test_a_stream_is_read_whole_or_not_at_all(client: BrokenOff, store: DaprEventStore) -> None:
    stream = await append(store, "x", count=3)
    client.left_out = frozenset({keys.event(stream, 2)})
    with pytest.raises(StoreUnavailable, match="only 2 of 3 events could be read"):
        _ = [event async for event in store.read_stream(stream)]


async def test_what_cannot_be_decoded_is_named(client: BrokenOff, store: DaprEventStore) -> None:
    stream = await append(store, "x", count=3)

    async def all_of(stream: StreamId) -> None:
        _ = [event async for event in store.read_stream(stream)]

    for key, read in (
        (keys.event(stream, 2), lambda: all_of(stream)),
        (keys.event(stream, 2), lambda: store.read_events([(stream, 1), (stream, 2)])),
        (keys.log(0, 1), lambda: store.read_log(0, 1, 1)),
        (keys.head(stream), lambda: store.load(stream)),
        (keys.command("default", "once"), lambda: store.load(StreamId("default", "thing-y"), "once")),
    ):
        for data in (b"{", b"[]", b"{}"):
            await client.save("eventstore", Write(key, data))
            with pytest.raises(Undecodable, match=f"^{key} cannot be decoded"):
                await read()


async def test_nothing_is_decided_on_a_state_that_lacks_an_event(
    client: BrokenOff, store: DaprEventStore
) -> None:
    def execute(command: str, **data: object) -> Awaitable[CommandResult]:
        bus = CommandBus(store, REGISTRY, HANDLERS, source="command", protect=sealed)
        return bus.execute(CommandRequest(command, data))

    await execute("member.register", id="zoe", name="Zoe", capacity=1)
    await execute("member.reserve", id="zoe", task_id="t1")
    stream = StreamId("default", "member-zoe")
    head, _ = await store.load(stream)
    assert head is not None
    older = Head(head.version, head.state, head.state_schema - 1, head.hash)
    await client.save("eventstore", Write(keys.head(stream), records.encode_head(older)))
    client.left_out = frozenset({keys.event(stream, 2)})

    with pytest.raises(StoreUnavailable):
        await execute("member.reserve", id="zoe", task_id="t2")

    assert (await store.load(stream))[0] == older


async def test_no_saga_is_taken_for_one_that_has_not_begun(client: BrokenOff, store: DaprEventStore) -> None:
    key, at = SagaKey("s", "default"), datetime(2030, 1, 1, tzinfo=UTC)
    started = SagaStarted(started_at=at, saga_type="t", saga_version=1, input={}, steps=("a",))
    await SagaHistory(store).record(key, [beginning(started)], None)
    client.left_out = frozenset({keys.head(key.stream)})
    version, state = await SagaHistory(store).load(key)
    assert (version, state.saga_type) == (1, "t")


@pytest.fixture
async def lanes(client: BrokenOff, store: DaprEventStore) -> DaprEventReader:
    """Fill two lanes, that of the store with three commits and another with one, and return a reader."""
    other = DaprEventStore(client, owner="other")
    running = asyncio.create_task(other.run())
    await lane_held(other)
    for number in range(3):
        await append(store, f"x{number}")
    await append(other, "y")
    await other.drain()
    await running

    async def marked() -> bool:
        mark = await client.get("eventstore", keys.published(0))
        return mark is not None and mark.data == b"3"

    await until(marked)  # an idle publisher saves its mark later
    return DaprEventReader(client)


@pytest.mark.parametrize("left_out", [keys.log(0, 1), keys.log(1, 1), keys.log(0, 2), keys.log(0, 3)])
async def test_every_lane_is_found_to_its_end(
    client: BrokenOff, lanes: DaprEventReader, left_out: str
) -> None:
    client.left_out = frozenset({left_out})
    await client.save(
        "eventstore", Write(keys.lease(0), orjson.dumps({"owner": "a", "expires": 0, "tail": 0}))
    )
    assert list(await lanes.tails()) == [0, 1]
    assert await lanes.reached() == {0: 3, 1: 1}


@pytest.mark.parametrize("left_out", [frozenset(), frozenset({keys.lease(0), keys.published(0)})])
async def test_a_lane_whose_first_commit_is_missing_is_found_to_its_end(
    client: BrokenOff, state: FakeState, lanes: DaprEventReader, left_out: frozenset[str]
) -> None:
    state.write(Operation(keys.log(0, 1)), datetime.now(UTC))
    client.left_out = left_out
    assert list(await lanes.tails()) == [0, 1]
    assert await lanes.reached() == {0: 3, 1: 1}


@pytest.mark.usefixtures("lanes")
async def test_no_backup_leaves_out_a_lane_whose_first_commit_is_missing(
    client: BrokenOff, state: FakeState
) -> None:
    state.write(Operation(keys.log(0, 1)), datetime.now(UTC))
    with pytest.raises(StoreError, match="the log of lane 0 has a hole between 1 and 1"):
        _ = [page async for page in Export(client, "eventstore", with_keys=False).pages()]


async def test_how_far_lanes_are_is_known_roughly_in_one_read(
    client: BrokenOff, lanes: DaprEventReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = client.get_bulk
    monkeypatch.setattr(client, "get_bulk", lambda *asked: reads.append(asked) or read(*asked))
    lease = Write(keys.lease(0), orjson.dumps({"owner": "a", "expires": 0, "tail": 2}))
    await client.save("eventstore", lease)
    await client.save("eventstore", Write(keys.published(0), b"1"))
    await client.save("eventstore", Write(keys.published(7), b"900"))  # imported, and never written to since

    assert await lanes.tails(certain=False) == {0: 2, 1: 1, 7: 900}
    assert len(reads) == 1


async def test_a_verification_looks_at_every_event(client: BrokenOff, lanes: DaprEventReader) -> None:
    client.left_out = frozenset({keys.log(1, 1), keys.event(StreamId("default", "thing-x1"), 1)})

    async def none(_lane: int, _first: int) -> list[Checkpoint]:
        return []

    async def no_last(_lane: int) -> None:
        return None

    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    trusted = VerificationKeys(base64.b64encode(public).decode())
    told = [one async for one in verify(lanes, none, no_last, trusted)]

    assert [one for one in told if isinstance(one, Progress)][-1] == Progress(1, 1, 0, 4)
    assert len(told) == 2


@pytest.mark.usefixtures("lanes")
async def test_an_export_has_every_event(client: BrokenOff) -> None:
    client.left_out = frozenset({keys.log(1, 1), keys.event(StreamId("default", "thing-x1"), 1)})
    pages = [page async for page in Export(client, "eventstore", with_keys=False).pages()]
    end = orjson.loads(pages[-1])["end"]
    assert (end["commits"], end["events"]) == (4, 4)
