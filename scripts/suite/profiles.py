"""What each profile needs beside the services: a broker, a store, and what all of them need."""

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
CONTROL_PLANE_PORT = 15050  # and the eight that follow

# Where a mail server on this machine is looked for; without one e-mails wait.
MAIL = {"smtp-host": "127.0.0.1", "smtp-port": "11025", "smtp-user": "", "smtp-password": ""}

# A profile is a broker: the folder below components/brokers that it takes.
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
# The folders below components/stores that a server, or a file, is here for.
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
    """There is no such profile or store; the text says which there are."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile and a store, by the names that they go by, and whether the services run on them."""

    profile: str
    store: str
    services: bool = True

    @classmethod
    def of(cls, profile: str, store: str, *, services: bool = True) -> Choice:
        """The choice that names stand for: a broker is as good a name as its profile's. Raises Unknown."""
        profile = _BY_BROKER.get(profile, profile)
        if profile not in PROFILES:
            raise Unknown(f"There is no profile {profile}; there are: {', '.join(PROFILES)}.")
        if store not in STORES:
            raise Unknown(f"There is no store {store} to run here; there are: {', '.join(STORES)}.")
        return cls(profile, store, services)

    @property
    def broker(self) -> str:
        """The folder below components/brokers."""
        return PROFILES[self.profile]

    @property
    def state(self) -> str:
        """The folder below .annals: read models that belong to one store fit no other."""
        return self.profile if self.store == DEFAULT_STORE else f"{self.profile}-{self.store}"


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Servers, those that the sidecars cannot start without first; ports; and what components read."""

    needed: Sequence[Spec]
    beside: Sequence[Spec]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    control_plane: infra.ControlPlane


def servers_of(choice: Choice, directory: Path) -> dict[str, infra.Server]:
    """The servers of a choice; their programs are fetched, or built, where they are not there yet.

    Raises runtime.Missing.
    """
    # The read models and the notifications are in PostgreSQL whatever the store is: their SQL is its own.
    servers: dict[str, infra.Server] = {
        "postgres": infra.Postgres(directory, POSTGRES_PORT),
        choice.broker: _SERVERS[choice.broker](directory),
    }
    if choice.store == "mysql":
        servers["mariadb"] = infra.MariaDb(directory, MARIADB_PORT)
    return servers


def prepare(choice: Choice, directory: Path) -> Infrastructure:
    """Make the servers of a choice ready to be started. Raises runtime.Missing."""
    servers = servers_of(choice, directory)
    secrets = dict(MAIL)
    if choice.store == "sqlite":
        # SQLite takes the path for a URI's: as it is, a # or a ? would end it, and % begin something.
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
    """Zipkin, without which all else works; none where its port is taken, as by the one of `dapr init`."""
    if ports.busy(ZIPKIN_PORT):
        console.print(
            f"No Zipkin is started: port {ZIPKIN_PORT} is used by {ports.owner(ZIPKIN_PORT)}, "
            "which the traces go to.",
            highlight=False,
            markup=False,
        )
        return []
    try:
        return [infra.zipkin(ZIPKIN_PORT)]
    except runtime.Missing as error:
        console.print(f"Without Zipkin: {error}")
        return []
