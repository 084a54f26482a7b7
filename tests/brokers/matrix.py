"""The brokers that the conformance suite runs on, and what each is known to do by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from suite import infra


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker. `name` is its folder below components/brokers."""

    name: str
    server: Callable[[Path, int], infra.Server] | None
    """None for the fake sidecar, which is its own broker."""
    hands_out_again_after: float = 60.0
    """Seconds until a message whose consumer died is delivered to another, by the component's settings."""
    keeps_order: bool = False
    """Whether it promises to deliver a stream's events in order; without the promise, order is luck."""
    drops_repeats: bool = False
    """Whether it recognises a message that it has had by its id and does not deliver it again."""
    replicas: bool = True
    """Whether two replicas of a service can share its subscription."""
    keeps_what_it_has: bool = True
    """Whether the server that stands for it here still has its messages after a crash."""


BROKERS = (
    Broker("fake", None, keeps_order=True),
    Broker("nats", infra.Nats, drops_repeats=True),
    Broker("kafka", infra.Kafka, keeps_order=True),
    Broker("rabbitmq", infra.RabbitMq),
    Broker("redis", infra.Redis, hands_out_again_after=240),
    Broker("mqtt", infra.Mosquitto, replicas=False),
    Broker("snssqs", infra.SnsSqs, hands_out_again_after=210, keeps_what_it_has=False),
    Broker(
        "gcp-pubsub",
        infra.PubSubEmulator,
        hands_out_again_after=90,
        keeps_order=True,
        keeps_what_it_has=False,
    ),
)
