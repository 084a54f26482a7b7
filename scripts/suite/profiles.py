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
CONTROL_PLANE_PORT = 15050  # and the eight that follow

# Where a mail server on this machine is looked for; without one e-mails wait.
MAIL = {"smtp-host": "127.0.0.1", "smtp-port": "11025", "smtp-user": "", "smtp-password": ""}

PROFILES = ("embedded", "kafka-postgres")


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Servers, those that the sidecars cannot start without first; ports; and what components read."""

    needed: Sequence[Spec]
    beside: Sequence[Spec]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    control_plane: infra.ControlPlane


def prepare(profile: str, directory: Path) -> Infrastructure:
    """Make a profile's servers ready to be started. Raises runtime.Missing."""
    postgres = infra.Postgres(directory, POSTGRES_PORT)
    postgres.initialise()
    control_plane = infra.ControlPlane(directory, CONTROL_PLANE_PORT)
    servers = [postgres.spec(), *control_plane.specs()]
    ports = {"postgres": POSTGRES_PORT} | control_plane.ports
    if profile == "kafka-postgres":
        kafka = infra.Kafka(directory, KAFKA_PORT)
        kafka.initialise()
        return Infrastructure(
            [*servers, kafka.spec()],
            [infra.zipkin(ZIPKIN_PORT)],
            ports | {"kafka": KAFKA_PORT, "zipkin": ZIPKIN_PORT},
            {"postgres": postgres.dsn, "kafka": f"127.0.0.1:{KAFKA_PORT}"} | MAIL,
            control_plane,
        )
    nats = infra.Nats(directory, NATS_PORT)
    beside = []
    try:
        beside.append(infra.zipkin(ZIPKIN_PORT))
    except runtime.Missing as error:
        console.print(f"Without Zipkin: {error}")
    return Infrastructure(
        [*servers, nats.spec()],
        beside,
        ports | {"nats": NATS_PORT} | ({"zipkin": ZIPKIN_PORT} if beside else {}),
        {"postgres": postgres.dsn, "nats": nats.url} | MAIL,
        control_plane,
    )
