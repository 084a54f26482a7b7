"""Redis, from the system's package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from suite import packages, ports
from suite.infra.passwords import password, write_private
from suite.process import Spec


class Redis:
    """One Redis server that logs every write to disk and has one user. Streams are created on first use."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "redis"
        self._config = self._directory / "redis.conf"
        self._password_file = directory / "redis.password"
        self._server = packages.program("redis-server")
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/redis."""
        return {
            "redis": f"127.0.0.1:{self.port}",
            "redis-user": "annals",
            "redis-password": password(self._password_file),
            "redis-tls": "false",
        }

    def initialise(self) -> None:
        """Write the configuration."""
        write_private(
            self._config,
            f"""bind 127.0.0.1
port {self.port}
dir "{self._directory}"
appendonly yes
maxmemory-policy noeviction
user default off
user annals on >{password(self._password_file)} ~* &* +@all
""",
        )

    def spec(self) -> Spec:
        """Return the spec of the server."""
        return Spec("redis", [str(self._server), str(self._config)], lambda: ports.open_port(self.port))
