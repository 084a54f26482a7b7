"""A Dapr sidecar in the test's own process, and what stands behind it.

State stores, a broker, a scheduler, workflows, and a clock that the test moves. The library's client, the
services and any app with the Dapr SDK run against it unchanged.
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
