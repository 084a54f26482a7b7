"""The servers a profile needs, each as a `Spec` and what must be done once it runs."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg
import nats
import nats.errors
import nats.js.errors
from nats.js.api import StreamConfig

from suite import ports, runtime
from suite.paths import BIN
from suite.process import Spec

TOPICS = (
    *("domain-events", "saga-events", "integration-events"),
    *("projector.dead-letters", "notification.dead-letters"),
)
KAFKA_VERSION = "4.0.0"
ZIPKIN_VERSION = "3.5.1"
_KAFKA_PARTITIONS = 8


def _unprivileged(*paths: Path) -> str | None:
    """PostgreSQL refuses to run as root; then it runs as nobody, who must reach these paths."""
    if os.geteuid() != 0:
        return None
    for path in paths:
        for parent in path.resolve().parents:
            if parent.exists() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o001)
    return "nobody"


class Postgres:
    """PostgreSQL on a loopback port, with a password made at its first start."""

    def __init__(self, directory: Path, port: int) -> None:
        self._data = directory / "postgres"
        self._password_file = directory / "postgres.password"
        self._bin = runtime.postgres_bin()
        self._user = _unprivileged(self._data, self._bin / "postgres")
        self.port = port

    @property
    def dsn(self) -> str:
        """The connection string of its one database, `annals`."""
        return f"postgresql://annals:{self._password_file.read_text()}@127.0.0.1:{self.port}/annals"

    def initialise(self) -> None:
        """Create the data directory, unless it is there."""
        if (self._data / "PG_VERSION").exists():
            return
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if self._user:
            for path in (self._data, self._password_file):
                shutil.chown(path, self._user)
        subprocess.run(
            [
                str(self._bin / "initdb"),
                *("-D", str(self._data), "-U", "annals", "--auth=scram-sha-256"),
                *(f"--pwfile={self._password_file}", "--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            cwd="/",
        )

    def spec(self) -> Spec:
        """How to run it."""
        return Spec(
            "postgres",
            [
                str(self._bin / "postgres"),
                *("-D", str(self._data), "-p", str(self.port)),
                *(
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "max_connections=200",
                ),
            ],
            self._ready,
            cwd=Path("/"),
            user=self._user,
            # "Fast": the sidecars' connections are ended rather than waited for.
            stop_signal=signal.SIGINT,
        )

    async def _ready(self) -> bool:
        """Whether it takes queries; makes the database at the first start."""
        try:
            connection = await asyncpg.connect(self.dsn.removesuffix("annals") + "postgres", timeout=2)
        except (OSError, asyncpg.exceptions.PostgresError, TimeoutError):
            return False
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'annals'"):
                await connection.execute("CREATE DATABASE annals")
        finally:
            await connection.close()
        return True


class Nats:
    """NATS with JetStream, and the stream that pubsub.jetstream needs to be there."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "nats"
        self.port = port

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def spec(self) -> Spec:
        """How to run it."""
        argv = [str(BIN / "nats-server"), "-js", "-a", "127.0.0.1", "-p", str(self.port)]
        return Spec("nats", [*argv, "-sd", str(self._directory)], self._ready)

    async def _ready(self) -> bool:
        """Whether it takes messages; makes the stream at the first start, with the topics of today."""
        if not await ports.open_port(self.port):
            return False
        try:
            client = await nats.connect(self.url, connect_timeout=2, allow_reconnect=False)
        except (OSError, nats.errors.Error):
            return False
        try:
            stream = StreamConfig(name="annals", subjects=list(TOPICS))
            try:
                await client.jetstream().add_stream(stream)
            except nats.js.errors.BadRequestError:  # it is there, with other topics
                await client.jetstream().update_stream(stream)
        except (nats.errors.Error, TimeoutError):
            return False
        finally:
            await client.close()
        return True


class Kafka:
    """One Kafka broker in KRaft mode. Topics are made when they are first used."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "kafka"
        self._config = self._directory / "server.properties"
        self._java = runtime.java()
        jars = runtime.jars(
            "kafka",
            KAFKA_VERSION,
            f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
            "org.slf4j:slf4j-simple:1.7.36",
        )
        self._classpath = ":".join(map(str, jars))
        self.port = port

    def initialise(self) -> None:
        """Write its configuration and format its storage, unless that was done."""
        data = self._directory / "data"
        controller = ports.free_port()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            "\n".join(
                [
                    "process.roles=broker,controller",
                    "node.id=1",
                    f"controller.quorum.voters=1@127.0.0.1:{controller}",
                    f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
                    "controller.listener.names=CONTROLLER",
                    f"log.dirs={data}",
                    f"num.partitions={_KAFKA_PARTITIONS}",
                    "offsets.topic.replication.factor=1",
                    "offsets.topic.num.partitions=4",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "group.initial.rebalance.delay.ms=0",
                    "message.max.bytes=2097152",
                ]
            )
        )
        if not (data / "meta.properties").exists():
            argv = [
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "YW5uYWxzLWxvY2FsLWthZg",
                "-c",
                str(self._config),
            ]
            subprocess.run([*self._command("128m"), *argv], check=True, capture_output=True)

    def _command(self, heap: str) -> list[str]:
        return [str(self._java), f"-Xmx{heap}", "-cp", self._classpath]

    def spec(self) -> Spec:
        """How to run it."""
        return Spec(
            "kafka",
            [*self._command("512m"), "kafka.Kafka", str(self._config)],
            lambda: ports.open_port(self.port),
        )


class ControlPlane:
    """Dapr's own servers: placement says where actors are, the scheduler drives workflows and jobs.

    Their ports are not those of `dapr init`, whose servers may run beside these.
    """

    def __init__(self, directory: Path, first_port: int) -> None:
        self._directory = directory / "scheduler"
        names = (
            *("placement", "placement_raft", "placement_health", "placement_metrics"),
            *("scheduler", "scheduler_etcd", "scheduler_peer", "scheduler_health", "scheduler_metrics"),
        )
        self.ports = {name: first_port + index for index, name in enumerate(names)}

    @property
    def placement(self) -> str:
        """The address of placement."""
        return f"127.0.0.1:{self.ports['placement']}"

    @property
    def scheduler(self) -> str:
        """The address of the scheduler."""
        return f"127.0.0.1:{self.ports['scheduler']}"

    def specs(self) -> list[Spec]:
        """How to run them. The scheduler keeps what is scheduled on disk."""
        return [
            Spec(
                "placement",
                [
                    str(runtime.dapr("placement")),
                    *("--initial-cluster", f"dapr-placement-0=127.0.0.1:{self.ports['placement_raft']}"),
                    *self._flags("placement"),
                ],
                lambda: ports.http_ok(self.ports["placement_health"], "/healthz"),
            ),
            Spec(
                "scheduler",
                [
                    str(runtime.dapr("scheduler")),
                    *("--etcd-data-dir", str(self._directory)),
                    *("--etcd-client-port", str(self.ports["scheduler_etcd"])),
                    "--etcd-initial-cluster",
                    f"dapr-scheduler-server-0=http://127.0.0.1:{self.ports['scheduler_peer']}",
                    *("--override-broadcast-host-port", self.scheduler),
                    *self._flags("scheduler"),
                ],
                lambda: ports.http_ok(self.ports["scheduler_health"], "/healthz"),
            ),
        ]

    def _flags(self, name: str) -> list[str]:
        return [
            *("--listen-address", "127.0.0.1", "--port", str(self.ports[name])),
            *("--healthz-listen-address", "127.0.0.1", "--healthz-port", str(self.ports[f"{name}_health"])),
            *("--metrics-listen-address", "127.0.0.1", "--metrics-port", str(self.ports[f"{name}_metrics"])),
            "--log-as-json",
        ]


def zipkin(port: int) -> Spec:
    """Zipkin, which keeps its traces in memory."""
    jar = runtime.jar("io.zipkin", "zipkin-server", ZIPKIN_VERSION, "slim")
    return Spec(
        "zipkin",
        [str(runtime.java()), "-Xmx256m", "-jar", str(jar)],
        lambda: ports.http_ok(port, "/health"),
        env={"QUERY_PORT": str(port), "SERVER_ADDRESS": "127.0.0.1", "LOGGING_LEVEL_ROOT": "WARN"},
    )
