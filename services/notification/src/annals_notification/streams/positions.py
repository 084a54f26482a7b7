"""A client's position in a live stream: how far it has seen each lane. Pure.

Its text is like `0-17,48-3`: first the position of the event that it comes with, then those of the other
lanes. Of a lane that is not named nothing was seen, so the position of a single event is valid, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from annals.events import Position

Seen = Mapping[int, int]


def parse(text: str) -> dict[int, int]:
    """Parse the text that a client sends back. Raises ValueError."""
    positions = [Position.parse(part) for part in text.split(",")]
    return {position.lane: position.seq for position in positions}


def render(seen: Seen, first: int | None = None) -> str:
    """Return the text of a position; `first` is the lane that goes first."""
    lanes = sorted(seen, key=lambda lane: (lane != first, lane))
    return ",".join(str(Position(lane, seen[lane])) for lane in lanes)


def beyond(seen: Seen, other: Seen) -> dict[int, int]:
    """Return the part of `seen` that goes beyond `other`."""
    return {lane: seq for lane, seq in seen.items() if seq > other.get(lane, 0)}
