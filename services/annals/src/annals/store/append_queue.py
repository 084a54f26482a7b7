"""The queue of appends that wait to be written to a lane. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from annals.store.group_commit import Waiting


class AppendQueue:
    """A first-in, first-out queue of appends. An append that leaves early frees its bytes at once."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiting: Waiting) -> None:
        """Add an append at the end."""
        self._waiting[waiting] = None
        self.bytes += waiting.size

    def leave(self, waiting: Waiting) -> None:
        """Remove an append. Does nothing if `take` has already removed it."""
        if waiting in self._waiting:
            del self._waiting[waiting]
            self.bytes -= waiting.size

    def take(self) -> Waiting:
        """Remove the first append and return it."""
        waiting, _ = self._waiting.popitem(last=False)
        self.bytes -= waiting.size
        return waiting

    def put_back(self, taken: Sequence[Waiting]) -> None:
        """Put taken appends that were not written back at the front, except those that nobody waits for."""
        for waiting in reversed(taken):
            waiting.begun = False
            if not waiting.done.done():
                self.join(waiting)
                self._waiting.move_to_end(waiting, last=False)
