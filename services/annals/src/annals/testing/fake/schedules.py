"""Parses the schedules and due times that Dapr's scheduler accepts.

A schedule is six fields (seconds first), `@every 1h30m`, `@daily` or the like; a due time is RFC 3339 or a
duration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

_MACROS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, 1)}
_DAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_GO_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_ISO_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LAST_YEARS = 8  # the longest time between two 29ths of February

Next = Callable[[datetime], datetime | None]


def duration(text: str) -> timedelta | None:
    """Return a duration in the notation of Go or ISO 8601; None if `text` is neither."""
    if _GO_DURATION.fullmatch(text):
        return timedelta(seconds=sum(float(count) * _UNITS[unit] for count, unit in _GO_PART.findall(text)))
    match = _ISO_DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def moment(text: str, now: datetime) -> datetime:
    """Return a moment that is given in RFC 3339 or as a duration from `now`. Raises ValueError."""
    after = duration(text)
    if after is not None:
        return now + after
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def schedule(text: str) -> Next:
    """Return a function that gives the next tick after a moment, or None. Raises ValueError."""
    if text.startswith("@every "):
        every = duration(text.removeprefix("@every ").strip())
        if not every:
            raise ValueError(f"failed to parse duration {text}")
        return lambda after: after + every
    fields = _MACROS.get(text, text).split()
    if len(fields) != len(_RANGES):
        raise ValueError(f"expected exactly 6 fields, found {len(fields)}: {text}")
    seconds, minutes, hours, days, months, weekdays = (
        _values(field, *bounds, names)
        for field, bounds, names in zip(fields, _RANGES, ({}, {}, {}, {}, _MONTHS, _DAYS), strict=True)
    )
    any_day, any_weekday = fields[3][0] in "*?", fields[5][0] in "*?"

    def fits(day: datetime) -> bool:
        in_month, in_week = day.day in days, (day.weekday() + 1) % 7 in weekdays
        # As in cron: if both the day and the weekday are restricted, one match is enough.
        return day.month in months and (
            in_month and in_week if any_day or any_weekday else in_month or in_week
        )

    def following(after: datetime) -> datetime | None:
        first = (after + timedelta(seconds=1)).replace(microsecond=0)
        midnight = first.replace(hour=0, minute=0, second=0)
        for number in range(366 * _LAST_YEARS):
            day = midnight + timedelta(days=number)
            if not fits(day):
                continue
            ticks = (
                day.replace(hour=hour, minute=minute, second=second)
                for hour in sorted(hours)
                for minute in sorted(minutes)
                for second in sorted(seconds)
            )
            tick = next((tick for tick in ticks if tick >= first), None)
            if tick is not None:
                return tick
        return None

    return following


def _values(field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    return {value for part in field.split(",") for value in _part(part, low, high, names)}


def _part(part: str, low: int, high: int, names: dict[str, int]) -> Iterable[int]:
    span, _, step = part.partition("/")
    first, dash, last = span.partition("-")

    def number(text: str) -> int:
        value = names[text.lower()] if text.lower() in names else int(text)
        value = 0 if names is _DAYS and value == 7 else value  # 7 is Sunday too
        if not low <= value <= high:
            raise ValueError(f"{value} is not between {low} and {high}")
        return value

    if span in ("*", "?"):
        begin, end = low, high
    elif dash:
        begin, end = number(first), number(last)
    else:
        begin = number(first)
        end = high if step else begin
    return range(begin, end + 1, int(step or 1))
