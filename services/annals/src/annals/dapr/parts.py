"""Cuts a sequence into parts that each fit into one message to the sidecar. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def parts(
    items: Iterable[T], size: Callable[[T], int], most_bytes: int, most: int | None = None
) -> list[list[T]]:
    """Return the items in order, in lists of at most `most` items and `most_bytes` bytes.

    An item that is larger than `most_bytes` gets a list of its own.
    """
    found: list[list[T]] = []
    held = 0
    for item in items:
        held += (own := size(item))
        if not found or len(found[-1]) == most or held > most_bytes:
            found.append([])
            held = own
        found[-1].append(item)
    return found
