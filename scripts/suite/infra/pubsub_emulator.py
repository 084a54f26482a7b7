"""A stand-in for Google Cloud Pub/Sub: the server of Google's own client library, built with Dapr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from suite import ports, runtime
from suite.process import Spec


class PubSubEmulator:
    """It speaks the real protocol, keeps nothing when it ends, and takes anybody."""

    def __init__(self, _directory: Path, port: int) -> None:
        self._program = runtime.pubsub_emulator()
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """For components/brokers/gcp-pubsub."""
        return {"gcp-project": "annals", "gcp-endpoint": f"127.0.0.1:{self.port}"}

    def initialise(self) -> None:
        """Nothing is to be made."""

    def spec(self) -> Spec:
        """How to run it."""
        argv = [str(self._program), "-port", str(self.port)]
        return Spec("pubsub-emulator", argv, lambda: ports.open_port(self.port))
