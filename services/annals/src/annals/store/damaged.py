"""Keeps track of the lanes and streams that wait until a damaged value is repaired; all others go on."""

from __future__ import annotations

import structlog

from annals.events import StreamId
from annals.store.protocol import Undecodable

_log = structlog.get_logger(__name__)


class Damaged:
    """The lanes and streams that a follower cannot read on. Each damaged value is logged once."""

    def __init__(self) -> None:
        self._values: dict[int | StreamId, str] = {}

    def __contains__(self, where: int | StreamId) -> bool:
        return where in self._values

    def add(self, where: int | StreamId, error: Undecodable) -> None:
        """Record that a lane or stream waits; it may be for another value than before."""
        if self._values.get(where) != error.key:
            named = {"lane": where} if isinstance(where, int) else {"stream": str(where)}
            _log.error(
                "nothing more is read here until a damaged value is repaired", **named, error=str(error)
            )
        self._values[where] = error.key

    def remove(self, where: int | StreamId) -> None:
        """Record that a lane or stream goes on."""
        self._values.pop(where, None)
