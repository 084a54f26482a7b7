"""The conformance suite of sidecars on the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from annals.testing.fake import (
    FakeBroker,
    FakeConfiguration,
    FakeDapr,
    FakeSidecar,
    FakeState,
    Flavour,
    Retry,
    Subscription,
)
from recording_app import recording_app
from sidecar_conformance import (
    RETRIES,
    JobsConformance,
    OthersConformance,
    PubSubConformance,
    Sidecar,
    StateConformance,
    connected,
)

SUBSCRIPTIONS = [
    Subscription("messages", "single", "/single", dead_letter_topic="dead"),
    Subscription("messages", "bulk", "/bulk", bulk=100, dead_letter_topic="dead"),
    Subscription("messages", "raw", "/raw", raw=True),
    Subscription("messages", "dead", "/dead", raw=True),
]


@pytest.fixture(scope="module")
async def sidecar() -> AsyncIterator[Sidecar]:
    configuration = FakeConfiguration()
    dapr = FakeDapr(
        broker=FakeBroker(pubsubs=frozenset({"messages"})),
        stores={flavour.name.lower(): FakeState(flavour) for flavour in Flavour},
        subscriptions=SUBSCRIPTIONS,
        retries={"messages": Retry(RETRIES, timedelta(milliseconds=20))},
        secrets={"secrets": {"password": "open sesame"}},
        configuration={"configuration": configuration},
    )

    async def configure(key: str, value: str) -> None:
        configuration.set(key, value)

    async with (
        recording_app() as app,
        FakeSidecar("app", app.port, dapr=dapr) as fake,
        connected(fake.grpc_port, app, configure) as sidecar,
    ):
        yield sidecar


class TestState(StateConformance):
    pass


class TestPubSub(PubSubConformance):
    pass


class TestJobs(JobsConformance):
    pass


class TestOthers(OthersConformance):
    pass
