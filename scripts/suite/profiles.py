"""What each profile needs beside the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite import infra, runtime
from suite.process import Spec
from suite.progress import console

POSTGRES_PORT = 15432
NATS_PORT = 14222
KAFKA_PORT = 19092
ZIPKIN_PORT = 9411

PROFILES = ("embedded", "kafka-postgres")


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Servers, those that the sidecars cannot start without first; ports; and what components read."""

    needed: Sequence[Spec]
    beside: Sequence[Spec]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]


def prepare(profile: str, directory: Path) -> Infrastructure:
    """Make a profile's servers ready to be started. Raises runtime.Missing."""
    postgres = infra.Postgres(directory, POSTGRES_PORT)
    postgres.initialise()
    if profile == "kafka-postgres":
        kafka = infra.Kafka(directory, KAFKA_PORT)
        kafka.initialise()
        return Infrastructure(
            [postgres.spec(), kafka.spec()],
            [infra.zipkin(ZIPKIN_PORT)],
            {"postgres": POSTGRES_PORT, "kafka": KAFKA_PORT, "zipkin": ZIPKIN_PORT},
            {"postgres": postgres.dsn, "kafka": f"127.0.0.1:{KAFKA_PORT}"},
        )
    nats = infra.Nats(directory, NATS_PORT)
    beside = []
    try:
        beside.append(infra.zipkin(ZIPKIN_PORT))
    except runtime.Missing as error:
        console.print(f"Without Zipkin: {error}")
    return Infrastructure(
        [postgres.spec(), nats.spec()],
        beside,
        {"postgres": POSTGRES_PORT, "nats": NATS_PORT} | ({"zipkin": ZIPKIN_PORT} if beside else {}),
        {"postgres": postgres.dsn, "nats": nats.url},
    )
