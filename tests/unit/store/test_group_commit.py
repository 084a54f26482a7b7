"""What is written together, and who is refused because of whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
import pytest
from structlog.testing import capture_logs

from annals.dapr import DaprSidecar, StateTooLong, Write
from annals.events import StreamId
from annals.store import Appended, ConflictError, DaprEventStore, StoreUnavailable, Undecodable, keys, lane
from annals.store.group_commit import GroupCommit, Waiting
from annals.testing.fake import FakeSidecar
from event_store_conformance import new_stream, numbers, to_append
from event_stores import lane_held, opened


class ShortKeys(DaprSidecar):
    """A client on a store that accepts no longer keys than MySQL does."""

    def __init__(self, grpc_port: int) -> None:
        super().__init__(grpc_port)
        self.refused: list[int] = []

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        writes = list(writes)
        names = [write.key for write in writes]
        if any(len(name) > 255 for name in names):
            self.refused.append(sum(name.startswith("log/") for name in names))
            raise StateTooLong(grpc.StatusCode.INTERNAL, "Error 1406 (22001): Data too long")
        await super().transact(store, writes)


async def test_what_is_too_long_for_the_store_is_refused_alone() -> None:
    async with FakeSidecar() as sidecar:
        client = ShortKeys(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        too_long = StreamId.of("t" * 63, "a" * 63, "i" * 128)
        streams = [new_stream(), too_long, new_stream()]
        with capture_logs() as logs:
            outcomes = await asyncio.gather(
                *(store.append(to_append(one, 0)) for one in streams), return_exceptions=True
            )
        assert [type(one) for one in outcomes] == [Appended, StoreUnavailable, Appended]
        named = [log["streams"] for log in logs if log["event"] == "the state store refused an append"]
        assert named == [[str(too_long)]]
        assert client.refused == [3, 1], "with the others, and by itself"
        later = await asyncio.gather(*(store.append(to_append(new_stream(), 0)) for _ in range(2)))
        assert [one.position.seq for one in later] == [3, 4]
        await store.drain()
        await running
        await client.close()


@pytest.mark.parametrize("damaged", ["head", "log"])
async def test_who_is_refused_by_what_was_damaged_stops_nobody_else(
    monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    monkeypatch.setattr(lane, "_DRAIN_SECONDS", 0.1)  # nobody can publish a damaged value
    async with (
        FakeSidecar() as sidecar,
        opened(sidecar.grpc_port, "other") as other,
        opened(sidecar.grpc_port) as store,
    ):
        stream = new_stream()
        taken = await other.append(to_append(stream, 0))
        if damaged == "head":
            client, key = DaprSidecar(sidecar.grpc_port), keys.head(stream)
            await client.save("eventstore", Write(key, b'{"version": 1}'))
            refused = Undecodable
        else:
            # As a former owner may leave it: at the end of the lane of the instance that writes there now.
            (mine,) = {0, 1} - {taken.position.lane}
            client, key = DaprSidecar(sidecar.grpc_port), keys.log(mine, 1)
            await client.save("eventstore", Write(key, b"?"))
            refused = ConflictError
        with pytest.raises(refused):
            await store.append(to_append(stream, 0))

        assert await store.append(to_append(new_stream(), 0))
        await client.close()


async def test_what_was_written_is_not_taken_for_anothers_while_it_cannot_be_read_back() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        stream = new_stream()
        sidecar.faults.lose_reply("ExecuteStateTransaction")
        sidecar.faults.fail("GetBulkState", times=3)
        appended = await store.append(to_append(stream, 0))
        assert (appended.version, appended.position.seq) == (1, 1)
        assert await numbers(store, stream) == [1]


async def test_many_events_behind_a_version_that_is_taken_are_a_conflict() -> None:
    async with (
        FakeSidecar() as sidecar,
        opened(sidecar.grpc_port, "other") as other,
        opened(sidecar.grpc_port) as store,
    ):
        stream = new_stream()
        await other.append(to_append(stream, 0))
        outcomes = await asyncio.gather(
            store.append(to_append(stream, 0, count=3)),
            store.append(to_append(new_stream(), 0, count=3)),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [ConflictError, Appended]
        assert await numbers(store, stream) == [1]


class Recording(DaprSidecar):
    """Keeps the keys of each transaction."""

    def __init__(self, grpc_port: int) -> None:
        super().__init__(grpc_port)
        self.written: list[list[str]] = []

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        writes = list(writes)
        self.written.append([write.key for write in writes])
        await super().transact(store, writes)


async def test_every_transaction_takes_its_keys_in_the_same_order() -> None:
    """Two that lock the same keys in different orders could wait for each other."""
    async with FakeSidecar() as sidecar:
        client = Recording(sidecar.grpc_port)
        stream = new_stream()
        append = to_append(stream, 0, command_id="key")
        loop = asyncio.get_running_loop()
        batch = [Waiting(one, "", 100, loop.create_future()) for one in (append, to_append(new_stream(), 0))]
        await GroupCommit(client, "eventstore", 60).commit(0, 0, batch)
        (written,) = client.written
        assert written == sorted(written)
        assert {keys.head(stream), keys.event(stream, 1), keys.command("acme", "key")} < set(written)
        await client.close()
