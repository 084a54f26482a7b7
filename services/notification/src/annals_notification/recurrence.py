"""When something recurs: iCalendar's RRULE in a time zone. Pure.

A rule is counted in the zone's own clock, so that nine o'clock stays nine o'clock when the clocks
change. A time that the clock skips is taken as the same time by the clock before the change; one that
comes twice is taken the first time.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from heapq import merge
from itertools import islice, pairwise, takewhile
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from dateutil.rrule import rrule, rruleset, rrulestr
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from annals.events import HeaderId, Utc
from annals_notification.deliveries.preferences import Zone

_MOST_LOOKED_AT = 100_000
_SHORTEST = timedelta(minutes=1)
_MOST_AT_ONCE = 100
"""Missed occurrences that are made before it is written down how far they are made."""
COUNTING_SECONDS = 0.5
_PERIODS = {
    "WEEKLY": timedelta(weeks=1),
    "DAILY": timedelta(days=1),
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
    "SECONDLY": timedelta(seconds=1),
}
_MONTHS = {"YEARLY": 12, "MONTHLY": 1}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ends what counts for too long, by ValueError; in the main thread, where the service runs.

    A rule that matches no day is counted to the end of the calendar before it gives anything, and one
    with a COUNT from its start; nothing else is done meanwhile. There is one timer: what has a time of its
    own, as the making of a `Recurrence` has, is done before.
    """
    if signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        raise RuntimeError("what is counted within a time is not to set one of its own")

    def stop(_signal: int, _frame: object) -> None:
        raise ValueError("rule: expected one that is counted sooner: fewer occurrences, a later start")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class CatchUp(StrEnum):
    """What of that which came due while everything was down is made up for."""

    ONE = "one"
    ALL = "all"
    NONE = "none"


class RecurringCommand(BaseModel):
    """The command that each occurrence sends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")]
    data: dict[str, Any]


class Recurrence(BaseModel):
    """A rule, and what it does.

    `start` is its first moment, from which an interval is counted; it is now where none is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Annotated[str, StringConstraints(min_length=5, max_length=500)]
    timezone: Zone = "UTC"
    command: RecurringCommand
    start: Utc = Field(default_factory=lambda: datetime.now(UTC))
    skip: Annotated[tuple[Utc, ...], Field(max_length=1_000)] = ()
    """Occurrences that are left out."""
    moved: Annotated[dict[Utc, Utc], Field(max_length=1_000)] = {}
    """Occurrences that come at another time."""
    paused: bool = False
    catch_up: CatchUp = CatchUp.ONE
    user: HeaderId | None = None
    """In whose name the command is sent."""

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Recurrence:
        """What was stored of it, as far as it still holds: once any text was taken for a user."""
        try:
            return cls.model_validate(data)
        except ValidationError:
            return cls.model_validate({name: value for name, value in data.items() if name != "user"})

    @model_validator(mode="after")
    def _can_be_counted(self) -> Recurrence:
        try:
            with within(COUNTING_SECONDS):
                first = list(islice(self._rule(), 3))
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"rule: expected an RRULE such as FREQ=WEEKLY;BYDAY=MO: {error}") from None
        for one, other in pairwise(first):
            if other - one < _SHORTEST:
                raise ValueError("rule: expected occurrences at least a minute apart")
        return self

    def _rule(self, after: datetime | None = None) -> rrule | rruleset:
        """All of it; or what comes after a moment of the zone's clock, and perhaps some before it."""
        zone = ZoneInfo(self.timezone)
        start = self.start.astimezone(zone).replace(tzinfo=None)
        # UNTIL is in UTC by the standard; the rule is counted by the zone's clock, without a zone.
        parts = {}
        for part in self.rule.removeprefix("RRULE:").split(";"):
            name, _, value = part.partition("=")
            name = name.upper()
            if name == "UNTIL" and value.endswith("Z"):
                until = datetime.strptime(value, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                value = f"{until.astimezone(zone):%Y%m%dT%H%M%S}"
            if name in ("DTSTART", "EXDATE", "RDATE"):
                raise ValueError(f"{name} has a field of its own here")
            parts[name] = value
        if after is not None and "COUNT" not in parts:
            start = _later_start(start, parts.get("FREQ", "").upper(), int(parts.get("INTERVAL", 1)), after)
        return rrulestr(
            "RRULE:" + ";".join(f"{name}={value}" for name, value in parts.items()), dtstart=start
        )

    def after(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The occurrences that come after a moment, as they come: when by the rule, and when; both UTC."""
        moved = [(one, other) for one, other in self.moved.items() if other > moment and one not in self.skip]
        unmoved = ((exact, exact) for exact in self._unmoved(moment))
        return merge(sorted(moved, key=_comes), unmoved, key=_comes)

    def _unmoved(self, moment: datetime) -> Iterator[datetime]:
        """Those that come after a moment when the rule says."""
        zone = ZoneInfo(self.timezone)
        elsewhere = {*self.skip, *self.moved}
        # From a little before: a clock that is set back makes local times run twice.
        local = moment.astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)
        skipped_by_the_clock: list[datetime] = []
        for occurrence in islice(self._rule(local).xafter(local, inc=True), _MOST_LOOKED_AT):
            try:
                exact = occurrence.replace(tzinfo=zone).astimezone(UTC)
            except OverflowError:  # UTC's last year is over, and the zone's is not
                break
            if exact <= moment or exact in elsewhere:
                continue
            if exact.astimezone(zone).replace(tzinfo=None) != occurrence:
                # Such a time comes after some that the rule has behind it.
                skipped_by_the_clock.append(exact)
                continue
            while skipped_by_the_clock and skipped_by_the_clock[0] <= exact:
                earlier = skipped_by_the_clock.pop(0)
                if earlier < exact:
                    yield earlier
            yield exact
        yield from skipped_by_the_clock

    def first_after(self, moment: datetime) -> tuple[datetime, datetime] | None:
        """The first of `after`; None when the rule has come to its end."""
        return next(self.after(moment), None)

    def missed(self, since: datetime, now: datetime) -> list[datetime]:
        """The occurrences to be made now, of those between two moments, by the catch-up policy."""
        match self.catch_up:
            case CatchUp.ALL:
                due = list(self._between(since, now))
            case CatchUp.ONE:
                due = self._last_between(since, now)
            case CatchUp.NONE:
                # What is just so long ago still counts.
                due = list(self._between(max(since, now - _SHORTEST - timedelta.resolution), now))
        return [exact for exact, _ in due]

    def reach(self, since: datetime, now: datetime) -> datetime:
        """How far to go at once from one moment towards another: after an outage there may be very much."""
        if self.catch_up is not CatchUp.ALL:
            return now
        some = list(islice(self._between(since, now), _MOST_AT_ONCE))
        return _comes(some[-1]) if len(some) == _MOST_AT_ONCE else now

    def _between(self, since: datetime, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        return takewhile(lambda pair: _comes(pair) <= now, self.after(since))

    def _last_between(self, since: datetime, now: datetime) -> list[tuple[datetime, datetime]]:
        """The last, if there is one; of very many not all are counted: the half that has none goes."""
        while (
            not self._counted()  # that is from its start each time
            and now - since > _SHORTEST
            and len(list(islice(self._between(since, now), _MOST_AT_ONCE))) == _MOST_AT_ONCE
        ):
            half = since + (now - since) / 2
            if next(self._between(half, now), None):
                since = half
            else:
                now = half
        return list(deque(self._between(since, now), maxlen=1))

    def _counted(self) -> bool:
        """Whether it ends with a number of occurrences."""
        return "COUNT=" in self.rule.upper()


def _comes(occurrence: tuple[datetime, datetime]) -> datetime:
    return occurrence[1]


def _later_start(start: datetime, frequency: str, interval: int, after: datetime) -> datetime:
    """A start from which the same occurrences come after a moment, as late as it can be.

    Without a COUNT a rule repeats itself with each interval, so that those that are long over need not
    be counted. Two intervals before the moment are left: the first may be cut short by its start.
    """
    if interval == 0:  # of which dateutil makes nothing when its UNTIL is over
        return start
    if period := _PERIODS.get(frequency):
        step = interval * (period // timedelta(seconds=1))
        whole = (after - start) // timedelta(seconds=1) // step - 2
        return start + timedelta(seconds=max(whole, 0) * step)
    if months := _MONTHS.get(frequency):
        first = start.year * 12 + start.month - 1
        whole = (after.year * 12 + after.month - 1 - first) // (months * interval) - 2
        for intervals in range(whole, 0, -1):
            year, month = divmod(first + intervals * months * interval, 12)
            with suppress(ValueError):  # a month without that day
                return start.replace(year=year, month=month + 1)
    return start
