"""When the soak has examined enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from soak.checks import Violation
from soak.rest import Looks

BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
WRONG = Violation("doubled", "late")


def seen(*found: list[Violation], proved: float = 0.0) -> list[bool]:
    """Return, for looks ten seconds apart, whether each was enough."""
    looks = Looks(BEGAN + timedelta(seconds=proved), most=100, same=30)
    times = range(1, 10 * len(found), 10)
    return [
        looks.enough(one, BEGAN + timedelta(seconds=seconds), seconds)
        for one, seconds in zip(found, times, strict=True)
    ]


def test_it_looks_twice() -> None:
    assert seen([], []) == [False, True]
    assert seen([], [WRONG], [], []) == [False, False, False, True]


def test_it_looks_on_until_all_came_that_was_set_to() -> None:
    assert seen([], [], [], [], proved=15) == [False, False, False, True]


def test_what_stays_wrong_is_told() -> None:
    assert seen(*[[WRONG]] * 5) == [False, False, False, False, True]
    others = [[Violation("doubled", str(number))] for number in range(11)]
    assert seen(*others)[-2:] == [False, True]
