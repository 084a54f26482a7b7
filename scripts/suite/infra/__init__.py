"""The servers of the profiles: how each is prepared and run, and which secrets components need for it."""

from suite.infra.control_plane import ControlPlane
from suite.infra.kafka import Kafka
from suite.infra.mariadb import MariaDb
from suite.infra.mosquitto import Mosquitto
from suite.infra.nats import Nats
from suite.infra.postgres import Postgres
from suite.infra.pubsub_emulator import PubSubEmulator
from suite.infra.rabbitmq import RabbitMq
from suite.infra.redis import Redis
from suite.infra.server import Server
from suite.infra.snssqs import SnsSqs
from suite.infra.topics import TOPICS
from suite.infra.zipkin import zipkin, zipkin_jar

__all__ = [
    "TOPICS",
    "ControlPlane",
    "Kafka",
    "MariaDb",
    "Mosquitto",
    "Nats",
    "Postgres",
    "PubSubEmulator",
    "RabbitMq",
    "Redis",
    "Server",
    "SnsSqs",
    "zipkin",
    "zipkin_jar",
]
