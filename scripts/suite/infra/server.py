"""The interface of all servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from suite.process import Spec


class Server(Protocol):
    """A server on loopback ports, with its data below a directory of its own."""

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        ...

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets that the server's components read: name to value."""
        ...

    def initialise(self) -> None:
        """Write the configuration, and create the data directory unless it exists. Raises runtime.Missing."""

    def spec(self) -> Spec:
        """Return how to run the server."""
        ...
