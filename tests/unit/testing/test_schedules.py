"""When a job is due, in the syntax of Dapr's scheduler."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from annals.testing.fake.schedules import duration, moment, schedule

NOW = datetime(2030, 1, 1, 9, 30, 15, tzinfo=UTC)  # a Tuesday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@every 1h30m", "2030-01-01T11:00:15"),
        ("@hourly", "2030-01-01T10:00:00"),
        ("@daily", "2030-01-02T00:00:00"),
        ("@yearly", "2031-01-01T00:00:00"),
        ("0 30 * * * *", "2030-01-01T10:30:00"),
        ("*/20 * * * * *", "2030-01-01T09:30:20"),
        ("0 0 9-17/4 * * *", "2030-01-01T13:00:00"),
        ("0 0 8 * * mon,fri", "2030-01-04T08:00:00"),
        ("0 0 0 29 2 *", "2032-02-29T00:00:00"),
        ("0 0 12 15 * sun", "2030-01-06T12:00:00"),  # either of the two days matches
        ("0 0 12 * jun ?", "2030-06-01T12:00:00"),
    ],
)
def test_the_next_tick(text: str, expected: str) -> None:
    assert schedule(text)(NOW) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_day_that_never_comes() -> None:
    assert schedule("0 0 0 31 2 *")(NOW) is None


@pytest.mark.parametrize("text", ["* * * * *", "0 61 * * * *", "@every", "@every x", "nonsense", ""])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError):
        schedule(text)


def test_moments_and_durations() -> None:
    assert duration("1h1m1s500ms") == timedelta(hours=1, minutes=1, seconds=1, milliseconds=500)
    assert duration("P1DT2H") == timedelta(days=1, hours=2)
    assert duration("2030") is None
    assert moment("90s", NOW) == NOW + timedelta(seconds=90)
    assert moment("2030-01-01T10:00:00+01:00", NOW) == datetime(2030, 1, 1, 9, tzinfo=UTC)
