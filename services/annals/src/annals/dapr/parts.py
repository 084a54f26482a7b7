"""What is to be handed over, cut into parts that one message to the sidecar takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def parts(
    items: Iterable[T], size: Callable[[T], int], most_bytes: int, most: int | None = None
) -> list[list[T]]:
    """Items in their order, so many and of so many bytes at most together; alone what is larger by itself."""
    found: list[list[T]] = []
    held = 0
    for item in items:
        held += (own := size(item))
        if not found or len(found[-1]) == most or held > most_bytes:
            found.append([])
            held = own
        found[-1].append(item)
    return found
