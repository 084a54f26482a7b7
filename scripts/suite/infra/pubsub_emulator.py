"""A stand-in for Google Cloud Pub/Sub: the fake server of Google's client library, built like Dapr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from suite import ports, runtime
from suite.process import Spec


class PubSubEmulator:
    """Speaks the real protocol, asks for no credentials, and keeps everything in memory."""

    def __init__(self, _directory: Path, port: int) -> None:
        self._program = runtime.pubsub_emulator()
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/gcp-pubsub."""
        return {"gcp-project": "annals", "gcp-endpoint": f"127.0.0.1:{self.port}"}

    def initialise(self) -> None:
        """Do nothing: the server has no files."""

    def spec(self) -> Spec:
        """Return the spec of the server."""
        argv = [str(self._program), "-port", str(self.port)]
        return Spec("pubsub-emulator", argv, lambda: ports.open_port(self.port))
