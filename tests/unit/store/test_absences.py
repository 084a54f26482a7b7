"""What a bulk read leaves out decides nothing: see `DaprSidecar.get_bulk`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import pytest

from annals.aggregates import CommandBus, CommandRequest, CommandResult
from annals.dapr import DaprSidecar, StateValue, Write
from annals.events import DomainEvent, StreamId
from annals.store import Append, DaprEventStore, StoreUnavailable, keys, records
from annals.store.protocol import Head
from annals.testing.fake import FakeSidecar
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from event_stores import lane_held
from sealing import sealed


class BrokenOff(DaprSidecar):
    """Leaves keys out of what it reads in bulk, as state.postgresql may."""

    left_out: frozenset[str] = frozenset()

    async def get_bulk(self, store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        values = await super().get_bulk(store, keys)
        return {key: value for key, value in values.items() if key not in self.left_out}


@pytest.fixture
async def client() -> AsyncIterator[BrokenOff]:
    async with FakeSidecar() as sidecar:
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
    with pytest.raises(StoreUnavailable, match="3 events were asked for, 2 came"):
        _ = [event async for event in store.read_stream(stream)]


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
