"""Upcasters: each turns one old version of an event's data into the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Upcaster:
    """Turns one version of an event type into another; `upcast` takes a copy of the old data."""

    event_type: str
    from_version: str
    to_version: str
    upcast: Callable[[dict[str, Any]], dict[str, Any]]
