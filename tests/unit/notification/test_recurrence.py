from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from dateutil.rrule import rrule, rrulestr
from hypothesis import example, given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from annals_notification import recurrence
from annals_notification.recurrence import CatchUp, Recurrence, RecurringCommand, cpu_limit

NOW = datetime(2030, 1, 1, tzinfo=UTC)
COMMAND = {"type": "task.create", "data": {"title": "Stand-up"}}


def recurring(rule: str, *, start: str = "2030-01-01T09:00:00+00:00", **fields: object) -> Recurrence:
    return Recurrence.model_validate({"rule": rule, "command": COMMAND, "start": start, **fields})


def comes(recurrence: Recurrence, after: str, count: int = 3) -> list[str]:
    moment = datetime.fromisoformat(after)
    return [f"{when:%Y-%m-%dT%H:%MZ}" for _, when in islice(recurrence.after(moment), count)]


def test_weekly_in_the_zones_own_clock_over_both_changes_of_the_clocks() -> None:
    start = "2030-01-07T09:00:00+01:00"
    mondays = recurring("FREQ=WEEKLY;BYDAY=MO", timezone="Europe/Berlin", start=start)
    spring = comes(mondays, "2030-03-20T00:00:00Z", 2)
    assert spring == ["2030-03-25T08:00Z", "2030-04-01T07:00Z"]
    autumn = comes(mondays, "2030-10-20T00:00:00Z", 2)
    assert autumn == ["2030-10-21T07:00Z", "2030-10-28T08:00Z"]


def test_a_time_that_the_clock_skips_or_has_twice_comes_once() -> None:
    nightly = recurring("FREQ=DAILY", timezone="Europe/Berlin", start="2030-01-01T02:30:00+01:00")
    assert comes(nightly, "2030-03-30T12:00:00Z", 2) == ["2030-03-31T01:30Z", "2030-04-01T00:30Z"]
    assert comes(nightly, "2030-10-26T12:00:00Z", 2) == ["2030-10-27T00:30Z", "2030-10-28T01:30Z"]


def test_the_last_day_of_each_month() -> None:
    last = recurring("FREQ=MONTHLY;BYMONTHDAY=-1")
    assert comes(last, "2032-01-15T00:00:00Z") == [
        "2032-01-31T09:00Z",
        "2032-02-29T09:00Z",
        "2032-03-31T09:00Z",
    ]
    on_31st = recurring("FREQ=MONTHLY;BYMONTHDAY=31")
    assert comes(on_31st, "2030-02-01T00:00:00Z", 2) == ["2030-03-31T09:00Z", "2030-05-31T09:00Z"]


def test_a_day_that_some_months_have_not_is_their_last() -> None:
    """The console's page asks for this rule if a monthly task is due on a day after the 28th."""
    rule = "FREQ=MONTHLY;BYMONTHDAY=28,29,30;BYSETPOS=-1"
    on_30th = recurring(rule, start="2031-12-30T09:00:00+00:00")
    assert comes(on_30th, "2031-12-01T00:00:00Z", 4) == [
        "2031-12-30T09:00Z",
        "2032-01-30T09:00Z",
        "2032-02-29T09:00Z",
        "2032-03-30T09:00Z",
    ]
    assert comes(on_30th, "2041-02-01T00:00:00Z", 2) == ["2041-02-28T09:00Z", "2041-03-30T09:00Z"]


def test_a_rule_ends_by_count_and_by_date() -> None:
    thrice = recurring("FREQ=DAILY;COUNT=3")
    assert comes(thrice, "2029-12-31T00:00:00Z", 9) == [f"2030-01-0{day}T09:00Z" for day in (1, 2, 3)]
    until = recurring("FREQ=DAILY;UNTIL=20300102T090000Z")
    assert comes(until, "2029-12-31T00:00:00Z", 9) == ["2030-01-01T09:00Z", "2030-01-02T09:00Z"]
    assert until.first_after(datetime(2030, 2, 1, tzinfo=UTC)) is None


def test_an_occurrence_is_skipped_and_another_moved() -> None:
    daily = recurring(
        "FREQ=DAILY",
        skip=["2030-01-02T09:00:00Z"],
        moved={"2030-01-03T09:00:00Z": "2030-01-03T15:00:00Z"},
    )
    assert comes(daily, "2030-01-01T10:00:00Z") == [
        "2030-01-03T15:00Z",
        "2030-01-04T09:00Z",
        "2030-01-05T09:00Z",
    ]
    assert comes(daily, "2030-01-03T12:00:00Z", 1) == ["2030-01-03T15:00Z"], "its own time has passed"


@pytest.mark.parametrize(
    ("catch_up", "days"), [(CatchUp.ALL, [2, 3, 4]), (CatchUp.ONE, [4]), (CatchUp.NONE, [])]
)
def test_what_was_missed_is_made_up_for_by_the_policy(catch_up: CatchUp, days: list[int]) -> None:
    daily = recurring("FREQ=DAILY", catch_up=catch_up)
    since, now = datetime(2030, 1, 1, 12, tzinfo=UTC), datetime(2030, 1, 4, 12, tzinfo=UTC)
    assert [one.day for one in daily.missed(since, now)] == days
    on_time = datetime(2030, 1, 4, 9, 0, 20, tzinfo=UTC)
    assert [one.day for one in daily.missed(datetime(2030, 1, 3, 12, tzinfo=UTC), on_time)] == [4]


@pytest.mark.parametrize(
    ("rule", "outage"),
    [
        ("FREQ=MINUTELY", timedelta(weeks=3)),
        ("FREQ=MINUTELY;INTERVAL=5", timedelta(days=366)),
        ("FREQ=MINUTELY;BYDAY=SA", timedelta(days=366)),
    ],
)
def test_of_what_came_due_in_a_long_outage_the_last_is_found_without_counting_all(
    rule: str, outage: timedelta
) -> None:
    now = (
        datetime(2030, 1, 5, 12, 0, 20, tzinfo=UTC) + outage
    )  # after 366 days a Monday, and after three weeks a Saturday
    frequent = {
        policy: recurring(rule, start="2030-01-05T12:00:00+00:00", catch_up=policy) for policy in CatchUp
    }
    since = now - outage
    last = datetime(2031, 1, 4, 23, 59, tzinfo=UTC) if "SA" in rule else now.replace(second=0)
    with cpu_limit(0.25):
        assert frequent[CatchUp.ONE].missed(since, now) == [last]
        assert frequent[CatchUp.NONE].missed(since, now) == ([] if "SA" in rule else [last])
        upto = frequent[CatchUp.ALL].reach(since, now)
        some = frequent[CatchUp.ALL].missed(since, upto)
    assert since < upto < now
    assert upto == some[-1]
    assert frequent[CatchUp.ONE].reach(since, now) == now


def test_all_that_was_missed_is_made_up_for_bit_by_bit_and_each_once() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    moved = {
        (start + timedelta(minutes=n)).isoformat(): (start + timedelta(minutes=150)).isoformat()
        for n in range(90, 240)
    }
    minutely = recurring("FREQ=MINUTELY", start=start.isoformat(), catch_up=CatchUp.ALL, moved=moved)
    since, now, made = start, start + timedelta(minutes=300), list[datetime]()
    while since < now:
        upto = minutely.reach(since, now)
        assert since < upto <= now
        made += minutely.missed(since, upto)
        since = upto
    assert sorted(made) == [start + timedelta(minutes=n) for n in range(1, 301)]


def day(number: int, hour: int = 9, minute: int = 0) -> datetime:
    """Return a moment in a month that begins on a Tuesday; the 7th is a Monday."""
    return datetime(2030, 1, number, hour, minute, tzinfo=UTC)


def rings(recurrence: Recurrence, since: datetime, until: datetime) -> list[tuple[datetime, list[int]]]:
    """Return when it is called between two moments, always a little late, and for which days."""
    called = []
    while (coming := recurrence.first_after(since)) and coming[1] < until:
        now = coming[1] + timedelta(milliseconds=200)
        called.append((coming[1], [one.day for one in recurrence.missed(since, now)]))
        since = now
    return called


def test_an_occurrence_that_is_moved_behind_others_keeps_none_of_them_from_coming() -> None:
    daily = recurring("FREQ=DAILY", moved={day(7): day(11, 12)})
    assert rings(daily, day(6, 12), day(12, 12)) == [
        *((day(number), [number]) for number in (8, 9, 10, 11)),
        (day(11, 12), [7]),
        (day(12), [12]),
    ]


def test_an_occurrence_that_is_moved_before_others_comes_and_they_do() -> None:
    daily = recurring("FREQ=DAILY", moved={day(11): day(9, 12)})
    assert rings(daily, day(7, 12), day(12, 12)) == [
        (day(8), [8]),
        (day(9), [9]),
        (day(9, 12), [11]),
        (day(10), [10]),
        (day(12), [12]),
    ]


@pytest.mark.parametrize("user", ["", " ann", "a\nb", "a" * 300])
def test_one_that_was_stored_with_what_is_no_user_goes_on_without(user: str) -> None:
    stored = recurring("FREQ=DAILY").model_dump(mode="json") | {"user": user}
    with pytest.raises(ValidationError):
        Recurrence.model_validate(stored)
    assert Recurrence.stored(stored) == recurring("FREQ=DAILY")
    assert Recurrence.stored(stored | {"user": "ann"}).user == "ann"


def test_one_that_was_stored_with_data_that_no_event_holds_goes_on() -> None:
    """The command may still turn such a number into text."""
    command = {"type": "task.create", "data": {"number": 2**53}}
    stored = recurring("FREQ=DAILY").model_dump(mode="json") | {"command": command}
    assert Recurrence.stored(stored).command.data == {"number": 2**53}


def test_a_moved_occurrence_is_on_time_at_the_time_that_it_was_moved_to() -> None:
    daily = recurring("FREQ=DAILY", catch_up=CatchUp.NONE, moved={day(7): day(7, 12)})
    assert rings(daily, day(6, 12), day(8)) == [(day(7, 12), [7])]
    assert daily.missed(day(6, 12), day(7, 12, 5)) == []


def test_a_time_that_the_clock_skips_comes_after_those_that_are_before_it_then() -> None:
    half_hourly = recurring(
        "FREQ=MINUTELY;INTERVAL=30", timezone="Europe/Berlin", start="2030-03-30T23:00:00Z"
    )
    expected = [f"2030-03-31T{time}Z" for time in ("00:30", "01:00", "01:30", "02:00", "02:30")]
    assert comes(half_hourly, "2030-03-31T00:00:00Z", 5) == expected
    made = half_hourly.missed(
        datetime(2030, 3, 31, 0, 50, tzinfo=UTC), datetime(2030, 3, 31, 1, 15, tzinfo=UTC)
    )
    assert [f"{one:%H:%M}" for one in made] == ["01:00"]


_HOURS = st.integers(0, 24 * 20).map(lambda hours: day(1, 0) + timedelta(hours=hours))
_RULE_TIMES = st.integers(1, 20).map(day)


@given(
    st.dictionaries(_RULE_TIMES, _HOURS, max_size=6),
    st.lists(_RULE_TIMES, max_size=3),
    _HOURS,
    st.timedeltas(timedelta(0), timedelta(days=10)),
    st.sampled_from(CatchUp),
)
def test_what_is_due_is_what_comes_between_two_moments(
    moved: dict[datetime, datetime],
    skip: list[datetime],
    since: datetime,
    later: timedelta,
    catch_up: CatchUp,
) -> None:
    daily = recurring("FREQ=DAILY", moved=moved, skip=skip, catch_up=catch_up)
    now = since + later
    times = [(moved.get(exact, exact), exact) for exact in map(day, range(1, 32)) if exact not in skip]
    due = {exact: at for at, exact in times if since < at <= now}
    made = daily.missed(since, now)
    assert set(made) <= set(due) and len(set(made)) == len(made)
    assert [due[exact] for exact in made] == {
        CatchUp.ALL: sorted(due.values()),
        CatchUp.ONE: sorted(due.values())[-1:],
        CatchUp.NONE: sorted(at for at in due.values() if now - at <= timedelta(minutes=1)),
    }[catch_up]
    coming = [at for at, _ in times if at > now]
    first = daily.first_after(now)
    assert (first and first[1]) == min(coming, default=None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rule": "FREQ=SOMETIMES"}, "an RRULE such as"),
        ({"rule": "every monday"}, "an RRULE such as"),
        ({"rule": "FREQ=SECONDLY"}, "a minute apart"),
        ({"rule": "FREQ=DAILY;DTSTART=20300101T000000Z"}, "not supported in a rule"),
        ({"timezone": "Europe/Atlantis"}, "not a time zone"),
        ({"start": "2030-01-01T09:00:00"}, "timezone"),
        ({"command": {"type": "nonsense", "data": {}}}, "pattern"),
        ({"user": "ada\r\nx-tenant-id: other"}, "user"),
        ({"user": " "}, "user"),
        ({"user": ""}, "user"),
        ({"user": "a" * 257}, "user"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    good = {"rule": "FREQ=DAILY", "command": COMMAND, "start": "2030-01-01T09:00:00Z"}
    with pytest.raises(ValidationError, match=said):
        Recurrence.model_validate(good | fields)


def test_a_rule_that_matches_no_day_is_not_counted_to_the_end_of_time() -> None:
    with pytest.raises(ValidationError, match="evaluated faster"):
        recurring("FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=30")


@pytest.mark.parametrize("frequency", ["YEARLY", "MONTHLY", "MINUTELY"])
def test_what_a_caller_asks_for_holds_up_all_others_only_for_a_moment(frequency: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValidationError, match="evaluated faster"):
        recurring(f"FREQ={frequency};BYMONTH=2;BYMONTHDAY=30")
    assert time.process_time() - begun < 0.25


def test_a_recurrence_that_an_earlier_release_took_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "COUNTING_SECONDS", 0.02)
    monkeypatch.setattr(recurrence, "FIRING_SECONDS", 10)
    slow = {"rule": "FREQ=MINUTELY;BYMONTH=1;BYMONTHDAY=1;BYHOUR=9;BYMINUTE=0", "command": COMMAND}
    slow["start"] = "2030-03-01T00:00:00Z"
    with pytest.raises(ValidationError, match="evaluated faster"):
        Recurrence.model_validate(slow)
    for stored in (slow, slow | {"user": ""}):
        assert Recurrence.stored(stored).start == datetime(2030, 3, 1, tzinfo=UTC)


def test_what_is_long_over_is_not_counted_again() -> None:
    ancient = recurring("FREQ=MINUTELY;INTERVAL=7", start="0001-01-02T00:00:30+00:00")
    with cpu_limit(0.1):
        exact, comes_at = ancient.first_after(NOW) or (NOW, NOW)
    assert exact == comes_at and NOW < exact <= NOW + timedelta(minutes=7)
    assert (exact - ancient.start) % timedelta(minutes=7) == timedelta(0)


@pytest.mark.parametrize("frequency", ["YEARLY", "DAILY"])
def test_an_interval_of_nothing_that_is_over_gives_nothing(frequency: str) -> None:
    over = recurring(f"FREQ={frequency};INTERVAL=0;UNTIL=20000101T000000Z")
    assert over.first_after(NOW) is None


def test_what_must_be_counted_from_its_start_is_not_counted_for_long() -> None:
    ancient = recurring("FREQ=MINUTELY;COUNT=2000000000", start="0001-01-02T00:00:00+00:00")
    with pytest.raises(ValueError, match="evaluated faster"), cpu_limit(0.1):
        ancient.first_after(NOW)


def test_what_must_be_counted_from_its_start_is_counted_once_for_what_was_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = 0
    counting = rrule.xafter

    def once(rule: rrule, *given: object, **more: object) -> object:
        nonlocal counted
        counted += 1
        return counting(rule, *given, **more)

    numbered = recurring("FREQ=MINUTELY;COUNT=12000", start="2030-01-01T00:00:00+00:00")
    monkeypatch.setattr(rrule, "xafter", once)
    out, back = datetime(2030, 1, 5, tzinfo=UTC), datetime(2030, 1, 5, 8, 0, 30, tzinfo=UTC)
    assert numbered.missed(out, back) == [datetime(2030, 1, 5, 8, tzinfo=UTC)]
    assert counted == 1


def test_a_time_to_count_in_is_not_ended_by_another() -> None:
    with pytest.raises(RuntimeError, match="cannot be nested"), cpu_limit(10):
        recurring("FREQ=DAILY")


def _some(values: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    return st.lists(values, min_size=1, max_size=3).map(lambda chosen: ",".join(map(str, chosen)))


_SPANS = {"YEARLY": 40_000, "MONTHLY": 9_000, "WEEKLY": 3_000, "DAILY": 1_000, "HOURLY": 100, "MINUTELY": 5}
"""How many days each rule is counted from its start, for comparison."""
_WEEKDAYS = _some(st.sampled_from(["MO", "TU", "WE", "FR", "SU"]))
_DAYS = st.one_of(
    st.fixed_dictionaries({}, optional={"BYMONTH": _some(st.integers(1, 12)), "BYDAY": _WEEKDAYS}),
    st.fixed_dictionaries({"BYDAY": _WEEKDAYS, "BYSETPOS": st.sampled_from([1, -1])}),
    st.fixed_dictionaries({"BYMONTHDAY": _some(st.sampled_from([1, 28, 29, 30, 31, -1]))}),
    st.fixed_dictionaries({"BYYEARDAY": _some(st.sampled_from([1, 60, 366, -1]))}),
    st.fixed_dictionaries({"BYWEEKNO": _some(st.sampled_from([1, 20, 53, -1])), "BYDAY": _WEEKDAYS}),
)
_PARTS = st.fixed_dictionaries(
    {"FREQ": st.sampled_from(list(_SPANS))},
    optional={
        "INTERVAL": st.integers(1, 7),
        "WKST": st.sampled_from(["MO", "SU", "WE"]),
        "BYHOUR": _some(st.integers(0, 23)),
        "BYMINUTE": _some(st.integers(0, 59)),
    },
)


@example({"FREQ": "WEEKLY"}, {"BYDAY": "MO,WE,FR", "BYSETPOS": 1}, timedelta(days=1), 14 / 3_000)
@given(_PARTS, _DAYS, st.timedeltas(timedelta(0), timedelta(days=2_000)), st.floats(0, 1))
def test_a_rule_counted_from_later_on_gives_the_same(
    parts: dict[str, object], days: dict[str, object], later: timedelta, share: float
) -> None:
    start = (NOW + later).replace(tzinfo=None, microsecond=0)
    rule = ";".join(f"{name}={value}" for name, value in (parts | days).items())
    moment = start + timedelta(seconds=round(share * _SPANS[str(parts["FREQ"])] * 86_400))
    try:
        with cpu_limit(2):
            expected = list(islice(rrulestr(rule, dtstart=start).xafter(moment, inc=True), 3))
    except ValueError:  # the interval yields no occurrence, or none soon
        reject()
    command = RecurringCommand.model_validate(COMMAND)
    recurrence = Recurrence.model_construct(rule=rule, start=start.replace(tzinfo=UTC), command=command)
    with cpu_limit(10):
        assert list(islice(recurrence._rule(moment).xafter(moment, inc=True), 3)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"start": "0001-01-01T00:00:00+10:00"},
        {"skip": ["0001-01-01T00:00:00+10:00"]},
        {"moved": {"2030-01-02T09:00:00Z": "9999-12-31T23:00:00-05:00"}},
    ],
)
def test_a_moment_that_utc_has_no_year_for_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="before year 1 or after year 9999"):
        recurring("FREQ=DAILY", **fields)  # type: ignore[arg-type]


def test_a_rule_ends_where_the_years_of_utc_do() -> None:
    late = recurring("FREQ=DAILY;BYHOUR=23", timezone="America/New_York", start="9999-12-30T09:00:00Z")
    assert comes(late, "9999-12-30T00:00:00Z") == ["9999-12-31T04:00Z"]
