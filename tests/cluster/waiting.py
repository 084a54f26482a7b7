"""Waits for a condition in the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 300.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; fail after `_SECONDS`."""
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {_SECONDS:.0f} s: {what}"
        time.sleep(1)
