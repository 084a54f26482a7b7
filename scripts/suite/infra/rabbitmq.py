"""RabbitMQ, from the system's package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from annals.free_ports import free_port
from suite import packages, ports, runtime
from suite.infra.passwords import password, write_private
from suite.process import Spec

# By itself, RabbitMQ starts Erlang's name server (epmd) as a daemon that outlives the node, and the package
# may run another one. This script runs epmd in the foreground, on a port of the suite; it dies with the node.
_WITH_NAME_SERVER = """
"$1" --pdeathsig KILL "$2" -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
until "$2" -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.05; done
exec "$3"
"""


class RabbitMq:
    """One RabbitMQ node. Exchanges and queues are created on first use."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "rabbitmq"
        self._config = self._directory / "rabbitmq.conf"
        self._password_file = directory / "rabbitmq.password"
        self._server = packages.program("rabbitmq-server")
        self.port = port

    @property
    def url(self) -> str:
        """The node's address, with the user and the password."""
        return f"amqp://annals:{password(self._password_file)}@127.0.0.1:{self.port}"

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/rabbitmq."""
        return {"rabbitmq": self.url}

    def initialise(self) -> None:
        """Write the configuration; the node creates its one user at its first start."""
        write_private(
            self._config,
            f"""listeners.tcp.1 = 127.0.0.1:{self.port}
default_user = annals
default_pass = {password(self._password_file)}
loopback_users.annals = true
log.console = true
log.console.level = warning
vm_memory_high_watermark.relative = 0.4
disk_free_limit.absolute = 50MB
""",
        )
        (self._directory / "enabled_plugins").write_text("[].\n")

    def spec(self) -> Spec:
        """Return the spec of the node. Raises runtime.Missing without setpriv.

        It runs the package's script rather than Debian's wrapper of it, which would change the user.
        """
        own = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        server = own if own.exists() else self._server
        epmd = packages.beside("rabbitmq-server", "epmd")
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise runtime.Missing("setpriv is needed to run RabbitMQ here: install util-linux.")
        return Spec(
            "rabbitmq",
            ["sh", "-c", _WITH_NAME_SERVER, "sh", setpriv, str(epmd), str(server)],
            lambda: ports.open_port(self.port),
            env={
                "HOME": str(self._directory),  # Erlang keeps its cookie there
                "RABBITMQ_NODENAME": "annals@localhost",
                "RABBITMQ_CONFIG_FILE": str(self._config),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(self._directory / "data"),
                "RABBITMQ_LOG_BASE": str(self._directory / "log"),
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
                "ERL_EPMD_PORT": str(free_port()),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RUNNING_UNDER_SYSTEMD": "true",  # makes the script exec the node, not watch it
            },
            stop_seconds=30,
        )
