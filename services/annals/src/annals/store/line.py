"""The line before a lane: what waits to be written, in its order. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from annals.store.group_commit import Waiting


class Line:
    """Whoever leaves it is out of it at once, with all that they brought."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiting: Waiting) -> None:
        """Be the last."""
        self._waiting[waiting] = None
        self.bytes += waiting.size

    def leave(self, waiting: Waiting) -> None:
        """Be in the line no more; it may be that its turn has come already."""
        if waiting in self._waiting:
            del self._waiting[waiting]
            self.bytes -= waiting.size

    def take(self) -> Waiting:
        """The first."""
        waiting, _ = self._waiting.popitem(last=False)
        self.bytes -= waiting.size
        return waiting

    def put_back(self, taken: Sequence[Waiting]) -> None:
        """Those that were taken and of which nothing was begun after all are the first again."""
        for waiting in reversed(taken):
            waiting.begun = False
            if not waiting.done.done():
                self.join(waiting)
                self._waiting.move_to_end(waiting, last=False)
