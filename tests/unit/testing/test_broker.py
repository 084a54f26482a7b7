"""The fake broker: groups, replicas, crashes, and disorder that repeats itself for a seed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta

import pytest

from annals.dapr import DaprError, DaprSidecar, Message
from annals.testing.fake import (
    Disorder,
    FakeBroker,
    FakeDapr,
    FakeSidecar,
    Retry,
    Subscription,
    VirtualClock,
    read_retries,
    read_subscriptions,
)
from conftest import COMPONENTS, until
from recording_app import RecordingApp, recording_app

TOPIC = "numbers"


def machine(
    *, disorder: Disorder | None = None, clock: VirtualClock | None = None, retry: Retry | None = None
) -> FakeDapr:
    return FakeDapr(
        broker=FakeBroker(clock=clock, disorder=disorder),
        subscriptions=[Subscription(TOPIC, TOPIC, "/numbers")],
        retries={} if retry is None else {TOPIC: retry},
    )


async def publish(sidecar: FakeSidecar, count: int, key: str | None = "k") -> frozenset[str]:
    metadata = {} if key is None else {"partitionKey": key}
    client = DaprSidecar(sidecar.grpc_port)
    messages = [
        Message(str(number), json.dumps(number).encode(), "application/json", metadata)
        for number in range(count)
    ]
    failed = await client.publish(TOPIC, messages)
    await client.close()
    return failed


def got(*apps: RecordingApp) -> list[int]:
    return [call.json["data"] for app in apps for call in app.to("/numbers")]


async def test_messages_of_a_key_come_in_their_order() -> None:
    dapr = machine()
    async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr) as sidecar:
        await publish(sidecar, 20)
        await app.called("/numbers", times=20)
        await dapr.broker.idle()
        assert got(app) == list(range(20))


async def test_replicas_share_the_work_and_each_app_gets_all() -> None:
    dapr = machine()
    async with (
        recording_app() as one,
        recording_app() as two,
        recording_app() as other,
        FakeSidecar("app", one.port, dapr=dapr) as sidecar,
        FakeSidecar("app", two.port, dapr=dapr),
        FakeSidecar("other", other.port, dapr=dapr),
    ):
        await publish(sidecar, 40, key=None)
        await other.called("/numbers", times=40)
        await until(lambda: asyncio.sleep(0, len(got(one, two)) >= 40))
        await dapr.broker.idle()
        assert sorted(got(one, two)) == sorted(got(other)) == list(range(40))
        assert got(one)
        assert got(two)


async def test_a_new_group_gets_the_history() -> None:
    dapr = machine()
    async with FakeSidecar("publisher", dapr=dapr) as sidecar:
        await publish(sidecar, 3)
        async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr):
            await app.called("/numbers", times=3)
            assert got(app) == [0, 1, 2]


async def test_what_a_killed_sidecar_was_delivering_is_delivered_again() -> None:
    clock = VirtualClock()
    dapr = machine(clock=clock, retry=Retry(-1, timedelta(hours=1)))
    async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr) as sidecar:
        app.answer("/numbers", (500, ""))
        await publish(sidecar, 1)
        await app.called("/numbers")
        await sidecar.kill()
        port = sidecar.grpc_port
        await sidecar.start()
        assert sidecar.grpc_port == port
        await app.called("/numbers", times=2)
        await dapr.broker.idle()
        assert got(app) == [0, 0]


async def test_a_broker_that_is_away_takes_nothing_and_forgets_nothing() -> None:
    dapr = machine()
    async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr) as sidecar:
        await publish(sidecar, 1)
        await app.called("/numbers")
        await dapr.broker.idle()
        dapr.broker.down()
        with pytest.raises(DaprError, match="the broker is down"):
            await publish(sidecar, 2)
        dapr.broker.up()
        assert not await publish(sidecar, 2)
        await app.called("/numbers", times=3)
        assert got(app) == [0, 0, 1]


async def test_retries_wait_for_the_clock() -> None:
    clock = VirtualClock()
    dapr = machine(clock=clock, retry=Retry(2, timedelta(minutes=1)))
    async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr) as sidecar:
        app.answer("/numbers", (500, ""), (500, ""))
        await publish(sidecar, 1)
        await app.called("/numbers")
        await clock.advance(timedelta(seconds=59))
        assert len(got(app)) == 1
        await clock.advance(timedelta(minutes=1, seconds=1))
        assert len(got(app)) == 3


async def disordered(seed: int) -> list[int]:
    clock = VirtualClock()
    disorder = Disorder(seed, duplicate=0.2, reorder=0.4, lose=0.1, late=0.1)
    dapr = machine(disorder=disorder, clock=clock)
    async with FakeSidecar("publisher", dapr=dapr) as sidecar:
        await publish(sidecar, 100)
        async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr):
            await app.called("/numbers", times=50)
            await clock.advance(timedelta(seconds=1))
            return got(app)


async def test_disorder_is_chosen_by_its_seed() -> None:
    first = await disordered(7)
    times = Counter(first)
    assert 75 <= len(times) < 100, "some are lost"
    assert max(times.values()) == 2, "some come twice"
    assert first != sorted(first), "not in order"
    assert await disordered(7) == first
    assert await disordered(8) != first


def test_the_files_of_the_suite_are_read() -> None:
    subscriptions = read_subscriptions(COMPONENTS / "shared" / "subscriptions.yaml")
    projector = [one for one in subscriptions if one.concerns("projector")]
    assert {(one.topic, one.bulk, one.raw) for one in projector} == {
        ("domain-events", 200, False),
        ("saga-events", 200, False),
        ("projector.dead-letters", 0, True),
    }
    retries = read_retries(COMPONENTS / "shared")
    assert retries["domain-events"] == Retry(30, timedelta(milliseconds=500), timedelta(seconds=5))
    assert retries["dead-letters"] == Retry(-1, timedelta(seconds=5))
