"""NATS with JetStream, from its wheel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
from nats.js.api import StreamConfig

from suite import ports
from suite.infra.passwords import password, write_private
from suite.infra.topics import TOPICS
from suite.paths import BIN
from suite.process import Spec


class Nats:
    """A NATS server with JetStream, and the JetStream stream that Dapr's pubsub.jetstream expects."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "nats"
        self._config = directory / "nats.conf"
        self._password_file = directory / "nats.password"
        self.port = port

    @property
    def url(self) -> str:
        """The server's address, with the user and the password."""
        return f"nats://annals:{password(self._password_file)}@127.0.0.1:{self.port}"

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/brokers/nats."""
        return {"nats": self.url}

    def initialise(self) -> None:
        """Write the configuration."""
        write_private(
            self._config,
            f"""listen: "127.0.0.1:{self.port}"
jetstream {{ store_dir: "{self._directory}" }}
authorization {{ user: annals, password: "{password(self._password_file)}" }}
""",
        )

    def spec(self) -> Spec:
        """Write the configuration and return the spec of the server."""
        self.initialise()
        argv = [str(BIN / "nats-server"), "-c", str(self._config)]
        # Sidecars give NATS up after two minutes (components/README.md); 100 s leaves a margin.
        return Spec("nats", argv, self._ready, given_up_seconds=100)

    async def _ready(self) -> bool:
        """Return whether NATS takes messages; create the JetStream stream, or update its topics."""
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
            except nats.js.errors.BadRequestError:  # the stream exists, with other topics
                await client.jetstream().update_stream(stream)
        except (nats.errors.Error, TimeoutError):
            return False
        finally:
            await client.close()
        return True
