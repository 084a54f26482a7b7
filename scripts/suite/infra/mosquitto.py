"""Mosquitto, an MQTT broker, from the system's package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from suite import packages, ports
from suite.infra import first_start
from suite.infra.passwords import password, write_private
from suite.process import Spec


class Mosquitto:
    """One Mosquitto broker, which keeps its sessions on disk and has one user."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "mosquitto"
        self._config = self._directory / "mosquitto.conf"
        self._users = self._directory / "users"
        self._password_file = directory / "mosquitto.password"
        self._server = packages.program("mosquitto")
        self.port = port

    @property
    def url(self) -> str:
        """The broker's address, with the user and the password."""
        return f"mqtt://annals:{password(self._password_file)}@127.0.0.1:{self.port}"

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/mqtt."""
        return {"mqtt": self.url}

    def initialise(self) -> None:
        """Write the configuration and the file of users."""
        write_private(self._users, f"annals:{password(self._password_file)}\n")
        first_start.run([str(packages.beside("mosquitto", "mosquitto_passwd")), "-U", str(self._users)])
        (self._directory / "data").mkdir(exist_ok=True, mode=0o700)
        write_private(
            self._config,
            f"""listener {self.port} 127.0.0.1
allow_anonymous false
password_file {self._users}
persistence true
persistence_location {self._directory}/data/
# Seconds between two writes to disk; a crash of the broker loses the messages since the last one.
autosave_interval 2
max_inflight_messages 1000
# With the default, 1000, the broker drops all further messages while a service is away.
max_queued_messages 1000000
log_dest stderr
{"user root" if os.geteuid() == 0 else ""}
""",
        )

    def spec(self) -> Spec:
        """Return the spec of the broker."""
        argv = [str(self._server), "-c", str(self._config)]
        return Spec("mosquitto", argv, lambda: ports.open_port(self.port))
