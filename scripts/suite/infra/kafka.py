"""Apache Kafka, from Maven Central."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from annals.free_ports import free_port
from suite import ports, runtime
from suite.infra import first_start
from suite.infra.passwords import password, write_private
from suite.process import Spec

KAFKA_VERSION = "4.0.0"
_PARTITIONS = 8
# Relative to the folder that Kafka runs in. In an absolute path, Java would take each letter that is not
# ASCII for two others, and Kafka would take a comma for the end of the path.
_CONFIG = "server.properties"
_DATA = "data"


class Kafka:
    """One Kafka broker in KRaft mode. Topics are created on first use."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "kafka"
        self._password_file = directory / "kafka.password"
        self._java = runtime.java()
        jars = runtime.jars(
            "kafka",
            KAFKA_VERSION,
            f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
            "org.slf4j:slf4j-simple:1.7.36",
        )
        self._classpath = ":".join(map(str, jars))
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/kafka."""
        return {
            "kafka": f"127.0.0.1:{self.port}",
            "kafka-user": "annals",
            "kafka-password": password(self._password_file),
            "kafka-mechanism": "PLAINTEXT",
            "kafka-disable-tls": "true",
        }

    def initialise(self) -> None:
        """Write the configuration, and format the storage if it is not formatted yet."""
        write_private(self._directory / _CONFIG, self._properties())
        if not (self._directory / _DATA / "meta.properties").exists():
            argv = [
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "YW5uYWxzLWxvY2FsLWthZg",
                "-c",
                _CONFIG,
            ]
            first_start.run([*self._command("128m"), *argv], cwd=self._directory)

    def _properties(self) -> str:
        controller = free_port()
        secret = password(self._password_file)
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        users = f'username="annals" password="{secret}" user_annals="{secret}"'
        return "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller}",
                f"listeners=CLIENTS://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
                "listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
                "controller.listener.names=CONTROLLER",
                "inter.broker.listener.name=CLIENTS",
                "sasl.enabled.mechanisms=PLAIN",
                "sasl.mechanism.inter.broker.protocol=PLAIN",
                f"listener.name.clients.plain.sasl.jaas.config={login} {users};",
                f"log.dirs={_DATA}",
                f"num.partitions={_PARTITIONS}",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=4",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "group.initial.rebalance.delay.ms=0",
                "message.max.bytes=2097152",
            ]
        )

    def _command(self, heap: str) -> list[str]:
        return [str(self._java), f"-Xmx{heap}", "-cp", self._classpath]

    def spec(self) -> Spec:
        """Return the spec of the broker."""
        return Spec(
            "kafka",
            [*self._command("512m"), "kafka.Kafka", _CONFIG],
            lambda: ports.open_port(self.port),
            cwd=self._directory,
        )
