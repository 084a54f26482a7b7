"""A fake Dapr sidecar in the test's own process, with the infrastructure behind it.

The infrastructure is state stores, a broker, a job scheduler, a workflow engine, and a clock that the test
moves. The library's client, the services and any app with the Dapr SDK run against the fake unchanged.
"""

from annals.testing.fake.broker import Disorder, FakeBroker, Record
from annals.testing.fake.clock import SystemClock, VirtualClock
from annals.testing.fake.dapr import FakeDapr
from annals.testing.fake.extras import FakeConfiguration
from annals.testing.fake.server import FakeSidecar
from annals.testing.fake.state import FakeState, Flavour
from annals.testing.fake.subscriptions import Retry, Subscription, read_retries, read_subscriptions

__all__ = [
    "Disorder",
    "FakeBroker",
    "FakeConfiguration",
    "FakeDapr",
    "FakeSidecar",
    "FakeState",
    "Flavour",
    "Record",
    "Retry",
    "Subscription",
    "SystemClock",
    "VirtualClock",
    "read_retries",
    "read_subscriptions",
]
