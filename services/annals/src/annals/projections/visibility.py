"""Read your writes: wait until a position is in the read models, whichever replica put it there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from annals.events import Position
from annals.projections.database import ReadModelDatabase

_POLL_SECONDS = (0.02, 0.05, 0.1, 0.2)

_VISIBLE = """
SELECT (EXISTS (SELECT FROM readmodels.event_index
                WHERE lane = $1::text::integer AND seq = $2::text::bigint))::text"""


class NotVisible(Exception):
    """The position did not become visible in time."""


class Visibility:
    """Knows what this replica applied, and asks the database about what others did."""

    def __init__(self, database: ReadModelDatabase) -> None:
        self._database = database
        self._waiting: dict[Position, set[asyncio.Future[None]]] = {}

    def applied(self, positions: Iterable[Position]) -> None:
        """Wake those who wait for positions that became visible."""
        for position in positions:
            for waiting in self._waiting.pop(position, ()):
                if not waiting.done():
                    waiting.set_result(None)

    async def wait(self, position: Position, seconds: float) -> None:
        """Wait until a position is visible. Raises NotVisible."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(position, set()).add(waiting)
        try:
            async with asyncio.timeout(seconds):
                await self._poll(position, waiting)
        except TimeoutError:
            raise NotVisible(f"{position} is not in the read models after {seconds:g} s") from None
        finally:
            others = self._waiting.get(position)
            if others is not None:
                others.discard(waiting)
                if not others:
                    del self._waiting[position]

    async def _poll(self, position: Position, waiting: asyncio.Future[None]) -> None:
        look = 0
        while not await self._database.fetch(_VISIBLE, str(position.lane), str(position.seq)):
            pause = _POLL_SECONDS[min(look, len(_POLL_SECONDS) - 1)]
            done, _ = await asyncio.wait([waiting], timeout=pause)
            if done:
                return
            look += 1
