"""What waits until a stored value is mended: a lane, or a stream, and nothing beside it."""

from __future__ import annotations

import structlog

from annals.events import StreamId
from annals.store.protocol import Undecodable

_log = structlog.get_logger(__name__)


class Damaged:
    """The lanes and streams that wait for whoever follows them. What they wait for is told of once."""

    def __init__(self) -> None:
        self._values: dict[int | StreamId, str] = {}

    def __contains__(self, where: int | StreamId) -> bool:
        return where in self._values

    def add(self, where: int | StreamId, error: Undecodable) -> None:
        """It waits; for something else maybe than before."""
        if self._values.get(where) != error.key:
            named = {"lane": where} if isinstance(where, int) else {"stream": str(where)}
            _log.error("nothing more is followed here until a value is mended", **named, error=str(error))
        self._values[where] = error.key

    def remove(self, where: int | StreamId) -> None:
        """It goes on."""
        self._values.pop(where, None)
