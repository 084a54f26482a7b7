"""Raw transactions of a sidecar, loading by length of stream, and replay from the store."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import results

from annals.dapr import DaprSidecar, Write
from annals.events import DomainEvent, StreamId, new_id
from annals.store import Append, DaprEventReader, DaprEventStore
from conftest import until
from feed import read_feed
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
LENGTHS = (10, 1_000, 10_000)


async def test_loading_and_replay(suite: Suite) -> None:
    client = DaprSidecar(13501)
    store = DaprEventStore(client, owner="bench")
    lane = asyncio.create_task(store.run())
    try:

        async def held() -> bool:
            return store.lane is not None

        await until(held)
        transactions = {size: await raw_transactions(client, size) for size in (1, 16)}
        streams = {length: StreamId("bench", f"thing-{uuid.uuid4()}") for length in LENGTHS}
        for length, stream in streams.items():
            for version in range(0, length, 500):
                await store.append(to_append(stream, version, min(500, length)))
        times = await medians({length: partial(store.load, stream) for length, stream in streams.items()})
        reader = DaprEventReader(client, "eventstore")
        started, count = time.perf_counter(), 0
        async for _, events in read_feed(reader):
            count += len(events)
        replay = count / (time.perf_counter() - started)
        await store.drain()
        await lane
    finally:
        lane.cancel()
        await client.close()
    sys.stdout.write(f"transactions {transactions}\nloading {times}\nreplay {replay:.0f} of {count}\n")
    results.write(
        "loading",
        {
            "transactions": transactions,
            "milliseconds": {length: took * 1000 for length, took in times.items()},
            "replay": {"events": count, "rate": replay},
        },
    )


async def raw_transactions(client: DaprSidecar, size: int) -> float:
    """Return the commits per second, with four keys a commit and `size` commits a transaction."""
    done, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + SECONDS:
        writes = [Write(f"bench/{new_id()}", b"x" * 500, insert_only=True) for _ in range(4 * size)]
        await client.transact("eventstore", writes)
        done += size
    return done / (time.perf_counter() - begun)


def to_append(stream: StreamId, version: int, count: int) -> Append:
    kind, _, name = stream.name.partition("-")
    event = {
        "event_type": "thing.happened",
        "source": "bench",
        "tenant_id": stream.tenant,
        "aggregate_type": kind,
        "aggregate_id": name,
        "data": {"text": "x" * 100},
    }
    return Append(
        stream, tuple(DomainEvent.model_validate(event) for _ in range(count)), version, {"count": version}
    )


async def medians(work: dict[int, Callable[[], Any]], times: int = 100) -> dict[int, float]:
    """Return the median seconds that each kind of work takes.

    The kinds run in turn, so that noise hits all alike.
    """
    took: dict[int, list[float]] = {name: [] for name in work}
    for _ in range(times):
        for name, run in work.items():
            started = time.perf_counter()
            await run()
            took[name].append(time.perf_counter() - started)
    return {name: sorted(runs)[times // 2] for name, runs in took.items()}
