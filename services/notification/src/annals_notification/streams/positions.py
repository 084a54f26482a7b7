"""Where a client stands: how far it has seen each lane. Pure.

Its text is `0-17,48-3`: the position of the event it comes with, then those of the other lanes. A
lane that it does not name had nothing yet, so a command's position alone is one too.
"""

from __future__ import annotations

from collections.abc import Mapping

from annals.events import Position

Seen = Mapping[int, int]


def parse(text: str) -> dict[int, int]:
    """What a client sends back. Raises ValueError."""
    positions = [Position.parse(part) for part in text.split(",")]
    return {position.lane: position.seq for position in positions}


def render(seen: Seen, first: int | None = None) -> str:
    """See the module; `first` is the lane that goes first."""
    lanes = sorted(seen, key=lambda lane: (lane != first, lane))
    return ",".join(str(Position(lane, seen[lane])) for lane in lanes)


def beyond(seen: Seen, other: Seen) -> dict[int, int]:
    """As far as one has seen more than another."""
    return {lane: seq for lane, seq in seen.items() if seq > other.get(lane, 0)}
