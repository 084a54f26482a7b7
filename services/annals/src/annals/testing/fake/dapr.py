"""What the sidecars of a test share, as the sidecars of one machine do."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from annals.testing.fake.broker import FakeBroker
from annals.testing.fake.clock import Clock, SystemClock
from annals.testing.fake.extras import Binding, FakeConfiguration, FakeLocks
from annals.testing.fake.jobs import FakeScheduler
from annals.testing.fake.state import FakeState
from annals.testing.fake.subscriptions import Retry, Subscription
from annals.testing.fake.workflows import FakeWorkflows

if TYPE_CHECKING:
    from annals.testing.fake.server import FakeSidecar


class FakeDapr:
    """A broker, state stores, a scheduler, workflows and name resolution. A test may change them at any time.

    `clock` gives the time; with a `VirtualClock`, time stands still until the test moves it. `seed` decides
    the ids that the sidecars make up. `subscriptions` are the declarative ones; an app's answer to
    GET /dapr/subscribe adds its own. `retries` maps a pub/sub component to its policy; without a policy, a
    message that fails once becomes a dead letter.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        broker: FakeBroker | None = None,
        stores: Mapping[str, FakeState] | None = None,
        subscriptions: Sequence[Subscription] = (),
        retries: Mapping[str, Retry] | None = None,
        bindings: Mapping[str, Binding] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        configuration: Mapping[str, FakeConfiguration] | None = None,
        seed: int = 0,
    ) -> None:
        self.clock: Clock = clock or (broker.clock if broker is not None else SystemClock())
        self.broker = broker or FakeBroker(clock=self.clock)
        self.stores = {"eventstore": FakeState()} if stores is None else dict(stores)
        self.subscriptions = list(subscriptions)
        self.retries = dict(retries or {})
        self.bindings = dict(bindings or {})
        self.secrets = dict(secrets or {})
        self.configuration = dict(configuration or {})
        self.scheduler = FakeScheduler(self.clock)
        self.workflows = FakeWorkflows(self.clock)
        self.locks = FakeLocks(self.clock)
        self.random = random.Random(seed)  # noqa: S311  # a test chooses it
        self.sidecars: list[FakeSidecar] = []
        self._turns = itertools.count()

    def sidecar_of(self, app_id: str) -> FakeSidecar | None:
        """Return a running sidecar of an app, its replicas in turn; None if there is none."""
        running = [
            sidecar for sidecar in self.sidecars if sidecar.app_id == app_id and sidecar.app is not None
        ]
        return running[next(self._turns) % len(running)] if running else None

    def components(self) -> dict[str, str]:
        """Return the components that a sidecar reports as loaded: name to type."""
        pubsubs = self.broker.pubsubs
        if pubsubs is None:
            pubsubs = frozenset(subscription.pubsub for subscription in self.subscriptions)
        return {
            **{name: store.flavour.value for name, store in self.stores.items()},
            **dict.fromkeys(sorted(pubsubs), "pubsub.in-memory"),
            **dict.fromkeys(self.bindings, "bindings.http"),
            **dict.fromkeys(self.secrets, "secretstores.local.file"),
            **dict.fromkeys(self.configuration, "configuration.redis"),
        }
