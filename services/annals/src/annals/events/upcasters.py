"""Upcasters: each turns one old version of an event's data into the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Upcaster:
    """`upcast` is given a copy of the old data and returns the new."""

    event_type: str
    from_version: str
    to_version: str
    upcast: Callable[[dict[str, Any]], dict[str, Any]]
