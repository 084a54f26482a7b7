"""The servers that each profile needs beside the services: a broker, a store, and those of all profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from suite import infra, ports, runtime
from suite.process import Spec
from suite.progress import console

POSTGRES_PORT = 15432
NATS_PORT = 14222
KAFKA_PORT = 19092
RABBITMQ_PORT = 15673
REDIS_PORT = 16379
MQTT_PORT = 11883
SNSSQS_PORT = 14566
PUBSUB_PORT = 18085
MARIADB_PORT = 13306
ZIPKIN_PORT = 9411
CONTROL_PLANE_PORT = 15050  # the first of nine consecutive ports

# The mail server is expected here, on this machine. Without one, e-mails wait to be sent.
MAIL = {"smtp-host": "127.0.0.1", "smtp-port": "11025", "smtp-user": "", "smtp-password": ""}

# Each profile stands for a broker: its folder below components/brokers.
PROFILES = {
    "embedded": "nats",
    "kafka-postgres": "kafka",
    "rabbitmq": "rabbitmq",
    "redis": "redis",
    "mqtt": "mqtt",
    "snssqs": "snssqs",
    "gcp-pubsub": "gcp-pubsub",
}
DEFAULT_PROFILE = "embedded"
_BY_BROKER = {broker: profile for profile, broker in PROFILES.items()}
# The folders below components/stores that can run on this machine.
STORES = ("postgresql", "sqlite", "mysql")
DEFAULT_STORE = "postgresql"

_SERVERS: Mapping[str, Callable[[Path], infra.Server]] = {
    "nats": lambda directory: infra.Nats(directory, NATS_PORT),
    "kafka": lambda directory: infra.Kafka(directory, KAFKA_PORT),
    "rabbitmq": lambda directory: infra.RabbitMq(directory, RABBITMQ_PORT),
    "redis": lambda directory: infra.Redis(directory, REDIS_PORT),
    "mqtt": lambda directory: infra.Mosquitto(directory, MQTT_PORT),
    "snssqs": lambda directory: infra.SnsSqs(directory, SNSSQS_PORT),
    "gcp-pubsub": lambda directory: infra.PubSubEmulator(directory, PUBSUB_PORT),
}


class Unknown(Exception):
    """Raised for an unknown profile or store; the text lists the known ones."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile and a store, by name, and whether the services run too or only the servers."""

    profile: str
    store: str
    services: bool = True

    @classmethod
    def of(cls, profile: str, store: str, *, services: bool = True) -> Choice:
        """Return the choice for these names; a broker's name stands for its profile. Raises Unknown."""
        profile = _BY_BROKER.get(profile, profile)
        if profile not in PROFILES:
            raise Unknown(f"There is no profile {profile}; there are: {', '.join(PROFILES)}.")
        if store not in STORES:
            raise Unknown(f"There is no store {store} to run here; there are: {', '.join(STORES)}.")
        return cls(profile, store, services)

    @property
    def broker(self) -> str:
        """The broker's folder below components/brokers."""
        return PROFILES[self.profile]

    @property
    def state(self) -> str:
        """The data's folder below .annals, one for each store: read models fit only the store they fold."""
        return self.profile if self.store == DEFAULT_STORE else f"{self.profile}-{self.store}"


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The servers of a choice, their ports, and the secrets that components read.

    The sidecars start when all `needed` servers are ready; those `beside` are optional.
    """

    needed: Sequence[Spec]
    beside: Sequence[Spec]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    control_plane: infra.ControlPlane


def servers_of(choice: Choice, directory: Path) -> dict[str, infra.Server]:
    """Return the servers of a choice, by name. Programs that are missing are fetched or built.

    Raises runtime.Missing.
    """
    # Read models and notifications are in PostgreSQL whatever the store is: they are written in its SQL.
    servers: dict[str, infra.Server] = {
        "postgres": infra.Postgres(directory, POSTGRES_PORT),
        choice.broker: _SERVERS[choice.broker](directory),
    }
    if choice.store == "mysql":
        servers["mariadb"] = infra.MariaDb(directory, MARIADB_PORT)
    return servers


def prepare(choice: Choice, directory: Path) -> Infrastructure:
    """Prepare the servers of a choice, so that they can be started. Raises runtime.Missing."""
    servers = servers_of(choice, directory)
    secrets = dict(MAIL)
    if choice.store == "sqlite":
        # SQLite reads the path as part of a URI: an unquoted # or ? would end it, and % start an escape.
        secrets |= {
            f"sqlite-{name}": quote(str(directory / f"{name}.db")) for name in ("events", "workflows")
        }
    for server in servers.values():
        server.initialise()
        secrets |= server.secrets
    control_plane = infra.ControlPlane(directory, CONTROL_PLANE_PORT)
    return Infrastructure(
        [*(server.spec() for server in servers.values()), *control_plane.specs()],
        zipkin(),
        {name: server.port for name, server in servers.items()} | control_plane.ports,
        secrets,
        control_plane,
    )


def zipkin() -> list[Spec]:
    """Return the spec of Zipkin; none if its port is taken (as by that of `dapr init`) or it is missing.

    Everything else works without Zipkin.
    """
    if ports.busy(ZIPKIN_PORT):
        console.print(
            f"Zipkin is not started: port {ZIPKIN_PORT} is used by {ports.owner(ZIPKIN_PORT)}. "
            "If that is a Zipkin, it receives the traces.",
            highlight=False,
            markup=False,
        )
        return []
    try:
        return [infra.zipkin(ZIPKIN_PORT)]
    except runtime.Missing as error:
        console.print(f"Going on without Zipkin: {error}")
        return []
