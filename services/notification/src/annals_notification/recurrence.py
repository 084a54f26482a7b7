"""Calculates the occurrences of a recurring command: iCalendar's RRULE in a time zone. Pure.

A rule is evaluated in the zone's local time, so that nine o'clock stays nine o'clock when the clocks
change. A local time that a change skips is taken with the offset from before the change; of a local time
that comes twice, the first is taken.
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
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from annals.events import HeaderId, Utc
from annals_notification.deliveries.preferences import Zone

_MOST_LOOKED_AT = 100_000  # occurrences that one search goes through
_SHORTEST = timedelta(minutes=1)  # between two occurrences
_MOST_AT_ONCE = 100
"""Missed occurrences that are made up for before the progress is saved."""
COUNTING_SECONDS = 0.1
"""Processor time to evaluate a rule that a caller sends: ten times what useful rules take."""
FIRING_SECONDS = 0.5
"""Processor time to evaluate a stored rule when it is due or resumed: it may have much to catch up with."""
_PERIODS = {
    "WEEKLY": timedelta(weeks=1),
    "DAILY": timedelta(days=1),
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
    "SECONDLY": timedelta(seconds=1),
}
_MONTHS = {"YEARLY": 12, "MONTHLY": 1}


class TooSlow(ValueError):
    """A rule takes too long to evaluate."""

    def __init__(self) -> None:
        super().__init__("the rule must be evaluated faster: fewer occurrences or a later start")


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block once it has used `seconds` of processor time.

    A rule that matches no day is evaluated to the end of the calendar before it yields anything, and a rule
    with a COUNT from its start; the event loop is blocked meanwhile. This works in the main thread only,
    where the service runs. There is only one timer, so blocks cannot be nested: a `Recurrence`, which limits
    its own validation, must be made before.
    """
    if signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        raise RuntimeError("blocks that limit processor time cannot be nested")

    def stop(_signal: int, _frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class CatchUp(StrEnum):
    """Which occurrences missed during an outage are made up for: the last one, all, or none."""

    ONE = "one"
    ALL = "all"
    NONE = "none"


class RecurringCommand(BaseModel):
    """The command that each occurrence sends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")]
    data: dict[str, Any]


class Recurrence(BaseModel):
    """A rule and the command that recurs by it.

    No occurrence is before `start`, from which intervals are counted. It defaults to the start stored under
    the same id, if any, or else to now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rule: Annotated[str, StringConstraints(min_length=5, max_length=500)]
    """An RRULE of iCalendar, such as `FREQ=WEEKLY;BYDAY=MO`."""
    timezone: Zone = "UTC"
    """The time zone in which the rule is evaluated, such as `Europe/Berlin`."""
    command: RecurringCommand
    start: Utc = Field(default_factory=lambda: datetime.now(UTC))
    skip: Annotated[tuple[Utc, ...], Field(max_length=1_000)] = ()
    """Occurrences to leave out."""
    moved: Annotated[dict[Utc, Utc], Field(max_length=1_000)] = {}
    """Occurrences to move: the time by the rule, and the new time."""
    paused: bool = False
    catch_up: CatchUp = CatchUp.ONE
    """Of which occurrences missed during an outage the command is sent later: the last one, all, or none."""
    user: HeaderId | None = None
    """The user in whose name the command is sent."""

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Recurrence:
        """Return a stored recurrence, without a `user` that is not valid.

        Earlier releases took any text as the user, and rules that take as long as `FIRING_SECONDS`.
        """
        stored = {"seconds": FIRING_SECONDS}
        try:
            return cls.model_validate(data, context=stored)
        except ValidationError:
            without = {name: value for name, value in data.items() if name != "user"}
            return cls.model_validate(without, context=stored)

    @model_validator(mode="after")
    def _can_be_counted(self, info: ValidationInfo) -> Recurrence:
        try:
            with cpu_limit((info.context or {}).get("seconds", COUNTING_SECONDS)):
                first = list(islice(self._rule(), 3))
        except TooSlow as error:
            raise self._refused(str(error)) from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise self._refused(f"an RRULE such as FREQ=WEEKLY;BYDAY=MO: {error}") from None
        for one, other in pairwise(first):
            if other - one < _SHORTEST:
                raise self._refused("occurrences at least a minute apart")
        return self

    def _refused(self, expected: str) -> ValidationError:
        """Return the error of the field `rule`: a validator of the whole model names no field by itself."""
        error: InitErrorDetails = {
            "type": PydanticCustomError("rule", "{expected}", {"expected": expected}),
            "loc": ("rule",),
            "input": self.rule,
        }
        return ValidationError.from_exception_data("Recurrence", [error])

    def _rule(self, after: datetime | None = None) -> rrule | rruleset:
        """Return the rule; with `after`, only what comes after this local time and perhaps some before."""
        zone = ZoneInfo(self.timezone)
        start = self.start.astimezone(zone).replace(tzinfo=None)
        # UNTIL is in UTC by the standard, but the rule is evaluated in local times without a zone.
        parts = {}
        for part in self.rule.removeprefix("RRULE:").split(";"):
            name, _, value = part.partition("=")
            name = name.upper()
            if name == "UNTIL" and value.endswith("Z"):
                until = datetime.strptime(value, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                value = f"{until.astimezone(zone):%Y%m%dT%H%M%S}"
            if name in ("DTSTART", "EXDATE", "RDATE"):
                raise ValueError(f"{name} is not supported in a rule; see `start`, `skip` and `moved`")
            parts[name] = value
        if after is not None and "COUNT" not in parts:
            start = _later_start(start, parts.get("FREQ", "").upper(), int(parts.get("INTERVAL", 1)), after)
        return rrulestr(
            "RRULE:" + ";".join(f"{name}={value}" for name, value in parts.items()), dtstart=start
        )

    def after(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Return an iterator over the occurrences after a moment, in the order in which they come.

        An occurrence is a pair of times in UTC: the time by the rule, and the time when it comes, which may
        be moved.
        """
        moved = [(one, other) for one, other in self.moved.items() if other > moment and one not in self.skip]
        unmoved = ((exact, exact) for exact in self._unmoved(moment))
        return merge(sorted(moved, key=_comes), unmoved, key=_comes)

    def _unmoved(self, moment: datetime) -> Iterator[datetime]:
        """Yield the occurrences after a moment that are neither skipped nor moved."""
        zone = ZoneInfo(self.timezone)
        elsewhere = {*self.skip, *self.moved}
        # Start a little earlier: when the clock is set back, some local times come twice.
        local = moment.astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)
        skipped_by_the_clock: list[datetime] = []
        for occurrence in islice(self._rule(local).xafter(local, inc=True), _MOST_LOOKED_AT):
            try:
                exact = occurrence.replace(tzinfo=zone).astimezone(UTC)
            except OverflowError:  # the year is 9999 in the zone, but already over in UTC
                break
            if exact <= moment or exact in elsewhere:
                continue
            if exact.astimezone(zone).replace(tzinfo=None) != occurrence:
                # A time that the clock skips may come after some that follow it in the rule.
                skipped_by_the_clock.append(exact)
                continue
            while skipped_by_the_clock and skipped_by_the_clock[0] <= exact:
                earlier = skipped_by_the_clock.pop(0)
                if earlier < exact:
                    yield earlier
            yield exact
        yield from skipped_by_the_clock

    def first_after(self, moment: datetime) -> tuple[datetime, datetime] | None:
        """Return the first occurrence after a moment, or None if the rule has ended."""
        return next(self.after(moment), None)

    def missed(self, since: datetime, now: datetime) -> list[datetime]:
        """Return the occurrences between two moments that are to be sent, by the catch-up policy.

        They are identified by their times in the rule.
        """
        match self.catch_up:
            case CatchUp.ALL:
                due = list(self._between(since, now))
            case CatchUp.ONE:
                due = self._last_between(since, now)
            case CatchUp.NONE:
                # An occurrence of exactly a minute ago still counts.
                due = list(self._between(max(since, now - _SHORTEST - timedelta.resolution), now))
        return [exact for exact, _ in due]

    def reach(self, since: datetime, now: datetime) -> datetime:
        """Return the moment up to which to catch up in one step; a long outage takes several steps."""
        if self.catch_up is not CatchUp.ALL:
            return now
        some = list(islice(self._between(since, now), _MOST_AT_ONCE))
        return _comes(some[-1]) if len(some) == _MOST_AT_ONCE else now

    def _between(self, since: datetime, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        return takewhile(lambda pair: _comes(pair) <= now, self.after(since))

    def _last_between(self, since: datetime, now: datetime) -> list[tuple[datetime, datetime]]:
        """Return the last occurrence between two moments, if any; among very many, find it by bisection."""
        while (
            not self._counted()  # which would be evaluated from its start each time
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
        """Return whether the rule ends after a number of occurrences (COUNT)."""
        return "COUNT=" in self.rule.upper()


def _comes(occurrence: tuple[datetime, datetime]) -> datetime:
    return occurrence[1]


def _later_start(start: datetime, frequency: str, interval: int, after: datetime) -> datetime:
    """Return a later start from which the rule has the same occurrences after the moment `after`.

    Without a COUNT a rule repeats itself with each interval, so intervals long past need not be evaluated.
    Two intervals before the moment are kept, as the first may be cut short by the new start.
    """
    if interval == 0:  # valid here only with an UNTIL before the start: nothing occurs
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
