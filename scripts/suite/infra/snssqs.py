"""SNS, SQS and STS as moto imitates them: their protocols on one port, in memory. It is not AWS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from suite import ports
from suite.infra.passwords import password
from suite.paths import BIN
from suite.process import Spec


class SnsSqs:
    """A moto server, which keeps everything in memory and accepts any access key."""

    def __init__(self, directory: Path, port: int) -> None:
        self._password_file = directory / "snssqs.password"
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/snssqs."""
        return {
            "aws-endpoint": f"http://127.0.0.1:{self.port}",
            "aws-region": "eu-central-1",
            "aws-access-key": "annals",
            "aws-secret-key": password(self._password_file),
        }

    def initialise(self) -> None:
        """Do nothing: the server has no files."""

    def spec(self) -> Spec:
        """Return the spec of the server."""
        return Spec(
            "snssqs",
            [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)],
            lambda: ports.http_ok(self.port, "/moto-api/data.json"),
        )
