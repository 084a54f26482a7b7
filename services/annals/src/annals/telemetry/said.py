"""Remembers what was logged, so that what lasts is logged once and not at each retry."""

from __future__ import annotations

from collections.abc import Hashable

_MOST = 10_000  # things of which it is remembered what was said; the oldest are forgotten


class Said:
    """What was said last about each thing, such as why it cannot be read now."""

    def __init__(self) -> None:
        self._last: dict[Hashable, str] = {}

    def is_news(self, text: object, about: Hashable = None) -> bool:
        """Return whether something else, or nothing, was said last about a thing. It is said from now on."""
        before, now = self._last.pop(about, None), str(text)
        self._last[about] = now
        if len(self._last) > _MOST:
            del self._last[next(iter(self._last))]
        return before != now

    def is_over(self, about: Hashable = None) -> None:
        """Forget what was said about a thing, which is in order again."""
        self._last.pop(about, None)
