"""The event store on the fake sidecar: what passes on a real one passes here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from annals.dapr import DaprSidecar
from annals.store import DaprEventStore, UnfitStore
from annals.store.probe import probe
from annals.testing.fake import FakeDapr, FakeSidecar, FakeState, Flavour
from event_store_conformance import EventStoreConformance
from event_stores import opened


class TestOnTheFake(EventStoreConformance):
    @pytest.fixture(params=[Flavour.POSTGRESQL, Flavour.SQLITE])
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
