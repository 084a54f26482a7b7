"""What all servers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from suite.process import Spec


class Server(Protocol):
    """A server on loopback ports, with its data below a directory of its own."""

    @property
    def port(self) -> int:
        """Where its clients reach it."""
        ...

    @property
    def secrets(self) -> Mapping[str, str]:
        """What the components that reach it ask the secret store for."""
        ...

    def initialise(self) -> None:
        """Make its configuration and its data directory, unless that was done. Raises runtime.Missing."""

    def spec(self) -> Spec:
        """How to run it."""
        ...
