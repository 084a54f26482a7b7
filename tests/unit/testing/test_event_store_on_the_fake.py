"""The event store passes the same tests on the fake sidecar as on a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import grpc
import orjson
import pytest

from annals.dapr import DaprError, DaprSidecar, StateValue, Write
from annals.store import Appended, DaprEventStore, DuplicateCommand, StoreUnavailable, UnfitStore, keys
from annals.store.probe import probe
from annals.testing.fake import FakeDapr, FakeSidecar, FakeState, Flavour, VirtualClock
from annals.testing.fake.state import Operation, StateRefused
from event_store_conformance import EventStoreConformance, new_stream, numbers, to_append
from event_stores import lane_held, opened

WRITES = "ExecuteStateTransaction"


class TestOnTheFake(EventStoreConformance):
    @pytest.fixture(params=[Flavour.POSTGRESQL, Flavour.SQLITE, Flavour.MYSQL])
    async def store(self, request: pytest.FixtureRequest) -> AsyncIterator[DaprEventStore]:
        dapr = FakeDapr(stores={"eventstore": FakeState(request.param)})
        async with FakeSidecar("command", dapr=dapr) as sidecar, opened(sidecar.grpc_port) as store:
            yield store


async def test_a_store_with_the_rules_of_redis_is_refused() -> None:
    dapr = FakeDapr(stores={"eventstore": FakeState(Flavour.REDIS)})
    async with FakeSidecar(dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        with pytest.raises(UnfitStore) as refused:
            await probe(client, "eventstore")
        await client.close()
    said = str(refused.value)
    assert "state.redis" in said
    assert "does not refuse to insert" in said
    assert "keeps a part" in said


class OtherWords(FakeState):
    """A store that refuses what it should, in the words of Cosmos DB (components-contrib 1.18.3)."""

    def transact(self, operations: Iterable[Operation], now: datetime) -> None:
        try:
            super().transact(operations, now)
        except StateRefused as error:
            text = "transaction failed due to operation 1 which failed with status code 412"
            raise StateRefused(text, mismatch=False) from error


async def test_a_store_that_refuses_in_unknown_words_is_refused() -> None:
    """A command that came second would be sent again for ever."""
    dapr = FakeDapr(stores={"eventstore": OtherWords()})
    async with FakeSidecar(dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        with pytest.raises(UnfitStore, match=r"in words that this release does not know .*status code 412"):
            await probe(client, "eventstore")
        await client.close()


async def test_a_store_without_transactions_is_refused() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        text = "state store eventstore doesn't support transactions"
        sidecar.faults.fail(WRITES, grpc.StatusCode.UNIMPLEMENTED, text)
        with pytest.raises(UnfitStore, match=rf"it has no transactions .*{text}"):
            await probe(client, "eventstore")
        await client.close()


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("made", [False, True])
async def test_a_store_that_fails_while_it_is_probed_is_not_called_unfit(before: int, made: bool) -> None:
    """A store that restarts fails like this, whether or not it made the transaction."""

    class Restarting(FakeState):
        calls = 0

        def transact(self, operations: Iterable[Operation], now: datetime) -> None:
            self.calls += 1
            fails = self.calls == before + 1
            if made or not fails:
                super().transact(operations, now)
            if fails:
                raise StateRefused("unexpected EOF", mismatch=False)

    async with FakeSidecar(dapr=FakeDapr(stores={"eventstore": Restarting()})) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        with suppress(DaprError):
            await probe(client, "eventstore")
        await probe(client, "eventstore")
        await client.close()


async def test_a_command_id_is_known_for_seven_days() -> None:
    clock, stream = VirtualClock(), new_stream()
    async with FakeSidecar(dapr=FakeDapr(clock=clock)) as sidecar, opened(sidecar.grpc_port) as store:
        await store.append(to_append(stream, 0, command_id="key"))
        await clock.advance(timedelta(days=7))
        with pytest.raises(DuplicateCommand):
            await store.append(to_append(stream, 1, command_id="key"))
        await clock.advance(timedelta(seconds=1))
        await store.append(to_append(stream, 1, command_id="key"))


class RunsOut(DaprSidecar):
    """Lets the clock go on by `by` between a refusal and the read-back that explains it."""

    clock: VirtualClock
    by = timedelta(0)

    async def get_certain(self, store: str, wanted: Sequence[str]) -> dict[str, StateValue]:
        by, self.by = self.by, timedelta(0)
        await self.clock.advance(by)
        return await super().get_certain(store, wanted)


async def test_a_command_id_that_ends_while_its_repeat_is_refused_is_free() -> None:
    clock, stream = VirtualClock(), new_stream()
    async with FakeSidecar(dapr=FakeDapr(clock=clock)) as sidecar:
        client = RunsOut(sidecar.grpc_port)
        client.clock = clock
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        await store.append(to_append(stream, 0, command_id="key"))
        client.by = timedelta(days=7, seconds=1)
        await store.append(to_append(stream, 1, command_id="key"))
        assert await numbers(store, stream) == [1, 2]
        await store.drain()
        await running
        await client.close()


async def test_a_command_id_that_mysql_did_not_clean_up_yet_is_refused_alone() -> None:
    clock, state, stream = VirtualClock(), FakeState(Flavour.MYSQL), new_stream()
    dapr = FakeDapr(clock=clock, stores={"eventstore": state})
    async with FakeSidecar(dapr=dapr) as sidecar, opened(sidecar.grpc_port) as store:
        await store.append(to_append(stream, 0, command_id="key"))
        await clock.advance(timedelta(days=7, seconds=1))
        outcomes = await asyncio.gather(
            store.append(to_append(new_stream(), 0)),
            store.append(to_append(stream, 1, command_id="key")),
            store.append(to_append(new_stream(), 0)),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [Appended, StoreUnavailable, Appended]
        assert await numbers(store, stream) == [1]
        state.clean_up(clock.now())
        again = await store.append(to_append(stream, 1, command_id="key"))
        assert again.position.seq == 4


async def test_a_write_that_the_store_refuses_is_not_sent_again() -> None:
    stream = new_stream()
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        sidecar.faults.fail(WRITES, grpc.StatusCode.RESOURCE_EXHAUSTED)
        with pytest.raises(StoreUnavailable, match="refused"):
            await store.append(to_append(stream, 0))
        assert await numbers(store, stream) == []
        await store.append(to_append(stream, 0))


async def test_a_refusal_is_not_believed_while_an_earlier_attempt_is_not_answered() -> None:
    stream = new_stream()
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        sidecar.faults.fail(WRITES, grpc.StatusCode.UNAVAILABLE)
        sidecar.faults.fail(WRITES, grpc.StatusCode.RESOURCE_EXHAUSTED)
        await store.append(to_append(stream, 0))
        assert await numbers(store, stream) == [1]


async def test_a_writer_whose_lane_another_has_taken_writes_what_it_took_elsewhere() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port, "one") as one:
        client = DaprSidecar(sidecar.grpc_port)
        lapsed = orjson.dumps({"owner": "one", "expires": 0.0, "tail": 0})
        await client.save("eventstore", Write(keys.lease(0), lapsed))
        await client.close()
        async with opened(sidecar.grpc_port, "other") as other:
            written = [await store.append(to_append(new_stream(), 0)) for store in (other, one)]
            assert other.lane == 0
            for appended in written:
                position = appended.position
                (commit,) = await other.read_log(position.lane, position.seq, position.seq)
                assert commit.stream == appended.stream
