"""What an owner of a lane finds in it that is not its own."""

from __future__ import annotations

import asyncio

import pytest

from annals.dapr import DaprSidecar, StateValue
from annals.store import Appended, ConflictError, DaprEventStore, keys, lane
from annals.store.group_commit import GroupCommit, Waiting
from annals.testing.fake import FakeSidecar
from conftest import until
from event_store_conformance import new_stream, to_append
from event_stores import lane_held, opened


def waiting_for(append: object) -> Waiting:
    return Waiting(append, "", 100, asyncio.get_running_loop().create_future())  # type: ignore[arg-type]


async def test_what_a_former_owner_wrote_late_is_published_though_nobody_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "LEASE_SECONDS", 0.3)
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        first = await store.append(to_append(new_stream(), 0))
        late = to_append(new_stream(), 0)
        client = DaprSidecar(sidecar.grpc_port)
        former = GroupCommit(client, "eventstore", 60)
        (committed,) = await former.commit(first.position.lane, first.position.seq, [waiting_for(late)])

        async def published() -> bool:
            messages = sidecar.dapr.broker.log("domain-events")
            return any(late.events[0].event_id.encode() in message.body for message in messages)

        await until(published)
        await lane_held(store)
        behind = await store.append(to_append(new_stream(), 0))
        assert behind.position.seq == committed.appended.position.seq + 1
        await client.close()


class BetweenTwoReads(DaprSidecar):
    """Shows, once, an event of a stream whose head was read just before both were written."""

    def __init__(self, grpc_port: int) -> None:
        super().__init__(grpc_port)
        self.unseen: str | None = None

    async def get_certain(self, store: str, wanted: list[str]) -> dict[str, StateValue]:  # type: ignore[override]
        values = await super().get_certain(store, wanted)
        if self.unseen in values:
            del values[self.unseen]
            self.unseen = None
        return values


async def test_a_stream_that_comes_to_be_between_two_reads_is_a_conflict() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port, "other") as other:
        client = BetweenTwoReads(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        stream = new_stream()
        await other.append(to_append(stream, 0))
        client.unseen = keys.head(stream)
        outcomes = await asyncio.gather(
            store.append(to_append(stream, 0)),
            store.append(to_append(new_stream(), 0)),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [ConflictError, Appended]
        assert client.unseen is None
        await store.drain()
        await running
        await client.close()
