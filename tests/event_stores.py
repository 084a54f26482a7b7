"""Event stores on a sidecar, opened for a test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from annals.dapr import DaprError, DaprSidecar, StateValue, Write
from annals.store import DOMAIN_LANES, DaprEventStore
from conftest import until

# There is no components/stores/redis; this component only serves to show that the service refuses Redis.
REDIS = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: eventstore
spec:
  type: state.redis
  version: v1
  metadata:
    - name: redisHost
      secretKeyRef: {name: redis, key: redis}
    - name: redisUsername
      secretKeyRef: {name: redis-user, key: redis-user}
    - name: redisPassword
      secretKeyRef: {name: redis-password, key: redis-password}
    - name: keyPrefix
      value: none
auth:
  secretStore: secretstore
"""


class BrokenOff(DaprSidecar):
    """A sidecar client whose bulk reads leave out the keys in `left_out`, as state.postgresql may.

    It counts in `asked` how often each key is read.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.left_out: frozenset[str] = frozenset()
        self.asked: Counter[str] = Counter()

    async def get_bulk(self, store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        values = await super().get_bulk(store, keys)
        self.asked.update(keys)
        return {key: value for key, value in values.items() if key not in self.left_out}


class Bounded(DaprSidecar):
    """A sidecar client that refuses transactions of more than 4 MiB, as a real sidecar does."""

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        writes = list(writes)
        if sum(len(write.value) for write in writes) > 4 * 1024 * 1024:
            raise DaprError(grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max")
        await super().transact(store, writes)


async def lane_held(store: DaprEventStore) -> None:
    """Wait until a running store has leased a lane to write."""

    async def held() -> bool:
        return store.lane is not None

    await until(held, what="a lane to be leased")


@asynccontextmanager
async def opened(
    grpc_port: int, owner: str = "test", lanes: range = DOMAIN_LANES
) -> AsyncIterator[DaprEventStore]:
    """Run a store and yield it once it holds a lane; drain it on exit, which publishes all its commits."""
    client = DaprSidecar(grpc_port)
    store = DaprEventStore(client, owner=owner, lanes=lanes)
    running = asyncio.create_task(store.run())
    holding = asyncio.create_task(lane_held(store))
    try:
        await asyncio.wait([running, holding], return_when=asyncio.FIRST_COMPLETED)
        await (running if running.done() else holding)
        yield store
        await store.drain()
        await running
    finally:
        running.cancel()
        holding.cancel()
        await client.close()
