"""What happens to reminders while a backup is imported."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import pytest

from annals.events import StreamId
from annals.store import Append, StoreUnavailable
from annals.store.memory import MemoryEventStore
from annals_notification.deliveries.plan import Notice
from annals_notification.due import Alarms, NotNow
from annals_notification.reminders import Reminders
from task_histories import of_task

TASK = StreamId("acme", "task-7")
DUE = datetime.now(UTC) + timedelta(days=1)
PAST = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
EVENTS = (
    ("task.created", {"title": "", "due": None}),
    ("task.due_date_set", {"due": DUE.isoformat()}),
    ("task.assigned", {"assignee": "ada"}),
    ("task.updated", {"changes": {"title": "Write"}}),
)
STATE = {"status": "todo", "title": "Write", "due": DUE.isoformat(), "assignee": "ada"}
ROW = {
    "task_id": "7",
    "version": len(EVENTS),
    "fires": DUE.isoformat(),
    "due": DUE.isoformat(),
    "kind": "due",
    "correlation_id": None,
    "causation_id": None,
}


class Tables:
    """A database with one reminder, which records what is to be written."""

    def __init__(self, **other: Any) -> None:
        self.row = ROW | other
        self.tasks: list[Any] = []
        self.planned: list[Any] = []
        self.fired: list[str | None] = []
        self.fired_at: list[str | None] = []
        self.late: list[str | None] = []
        self.had: list[dict[str, Any]] = []
        self.becomes: list[Any] = []
        self.shown: list[tuple[str | None, ...]] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "USING (tenant, task_id)" in sql:
            return self.had
        if "SET version" in sql:
            self.becomes += [one["becomes"] for one in orjson.loads(params[0] or "")]
            return 1
        if "AS row (tenant text, task_id text" in sql:
            tasks, rows = params
            self.tasks += orjson.loads(tasks or "")
            self.planned += orjson.loads(rows or "")
            return []
        if "SET user_id = $3" in sql:
            self.shown.append(params)
            return 1
        if "SET status" in sql:
            self.fired_at.append(params[2])
            self.fired.append(params[3])
            self.late.append(params[4])
        return {"row": self.row}


class Told:
    def __init__(self) -> None:
        self.notices: list[Notice] = []

    async def tell(self, notice: Notice) -> None:
        self.notices.append(notice)


async def never() -> bool:
    return False


@pytest.mark.parametrize("last", range(1, 5))
async def test_the_last_event_of_a_task_that_is_imported_plans_its_reminders_whichever_it_is(
    last: int,
) -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), unused)
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events[:3], 0))
    for event in await store.read_events([(TASK, version) for version in (1, 2, 3)]):
        await reminders.on_imported(event)
    assert not tables.tasks, "what it was to be reminded of stays as it is until it is known what it is"
    await store.append(Append(TASK, events[3:], 3, STATE))
    [event] = await store.read_events([(TASK, last)])
    await reminders.on_imported(event)
    assert [task["version"] for task in tables.tasks] == [4]
    [row] = tables.planned
    assert (row["id"], row["user_id"], row["version"]) == ("7:due", "ada", 4)
    assert datetime.fromisoformat(row["due"]) == DUE


@pytest.mark.parametrize("there", range(4))
async def test_what_is_due_of_a_task_that_is_still_being_imported_waits_for_the_rest_of_it(
    there: int,
) -> None:
    """The task may have no event yet, only the first, or more of them without the state that follows."""
    store, tables, told = MemoryEventStore(), Tables(), Told()
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    created = {"status": "todo", "title": "", "due": None, "assignee": None}
    if there:
        await store.append(Append(TASK, events[:there], 0, created if there == 1 else None))

    importing = True

    async def imported() -> bool:
        return importing

    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), imported)
    with pytest.raises(NotNow):
        await reminders.fire("acme", "7:due")
    assert not tables.fired
    assert not told.notices
    await store.append(Append(TASK, events[there:], there, STATE))
    importing = False
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["fired"]
    [notice] = told.notices
    assert (notice.kind, notice.concerns, notice.addressed) == ("reminder.due", {"ada"}, True)


@pytest.mark.parametrize("fires", [DUE, DUE - timedelta(days=9)])
@pytest.mark.parametrize("state", [None, STATE | {"assignee": None}, STATE | {"assignee": "bob"}])
async def test_what_is_due_waits_for_an_import_that_has_come_as_far_as_it_was_planned_by(
    state: dict[str, Any] | None, fires: datetime
) -> None:
    """A part of the import still to come may reassign the task, however long the reminder is overdue."""
    store, tables, told = MemoryEventStore(), Tables(version=2, fires=fires.isoformat()), Told()
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events[:2], 0, state))
    importing = True

    async def imported() -> bool:
        return importing

    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), imported)
    for _ in range(2):  # a truncated import counts as in progress until it is complete
        with pytest.raises(NotNow):
            await reminders.fire("acme", "7:due")
    assert not tables.fired
    assert not told.notices
    await store.append(Append(TASK, events[2:], 2, STATE))
    importing = False
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["fired"]
    [notice] = told.notices
    assert (notice.concerns, notice.addressed) == ({"ada"}, True)


async def test_what_comes_due_asks_no_more_whether_an_import_is_under_way_once_none_can_begin() -> None:
    store, tables, told, asked = MemoryEventStore(), Tables(), Told(), 0
    await store.append(Append(TASK, tuple(of_task(TASK, *event) for event in EVENTS), 0, STATE))

    async def imported() -> bool:
        nonlocal asked
        asked += 1
        return asked == 1

    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), imported)
    with pytest.raises(NotNow):
        await reminders.fire("acme", "7:due")
    for _ in range(3):
        await reminders.fire("acme", "7:due")
    assert len(tables.fired) == 3
    assert asked == 2, "into a store that is filled nothing is imported"


@pytest.mark.parametrize(
    "other", [{"status": "done"}, {"due": None}, {"due": (DUE + timedelta(hours=1)).isoformat()}]
)
async def test_what_is_due_of_a_task_that_is_done_or_was_moved_is_told_to_nobody(
    other: dict[str, Any],
) -> None:
    """The reminder may fire before the service has read of the change."""
    store, tables, told = MemoryEventStore(), Tables(), Told()
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events, 0, STATE | other))
    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), never)
    await reminders.fire("acme", "7:due")
    assert (tables.fired, told.notices) == (["cancelled"], [])


async def test_what_came_due_since_the_first_of_the_events_that_are_followed_together_is_planned() -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    now = datetime.now(UTC)
    due = (now - timedelta(minutes=5)).isoformat()
    events = [
        of_task(TASK, kind, {"due": due}).model_copy(update={"timestamp": now - timedelta(minutes=ago)})
        for kind, ago in (("task.created", 9), ("task.reopened", 1))
    ]
    await store.append(Append(TASK, tuple(events), 0, STATE | {"due": due}))
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), never)
    recorded = await store.read_events([(TASK, 1), (TASK, 2)])
    await asyncio.gather(*(reminders.on_event(event) for event in recorded))
    assert [(row["id"], row["version"]) for row in tables.planned] == [("7:due", 2)]
    assert len(tables.tasks) == 1, "they were followed together"


async def test_a_reminder_that_fires_twice_is_one_notice_and_one_that_was_moved_is_another() -> None:
    store, told, unused = MemoryEventStore(), Told(), cast("Any", None)
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events, 0, STATE))
    sooner, later = ((DUE - timedelta(hours=hours)).isoformat() for hours in (2, 1))
    for fires in (sooner, sooner, later):
        tables = Tables(fires=fires)
        reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), never)
        await reminders.fire("acme", "7:due")
        assert (tables.fired, tables.fired_at) == (["fired"], [fires]), "as long as it was not moved again"
    first, again, moved = (notice.event_id for notice in told.notices)
    assert first == again != moved


@pytest.mark.parametrize(
    "kind", ["task.created", "task.completed", "task.reopened", "task.deleted", "task.due_date_set"]
)
async def test_what_changes_what_a_task_is_to_be_reminded_of_plans_its_reminders(kind: str) -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    due = {"due": DUE.isoformat()}
    await store.append(Append(TASK, (of_task(TASK, kind, due),), 0, STATE))
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), never)
    await reminders.on_event((await store.read_events([(TASK, 1)]))[0])
    assert [(task["task_id"], task["version"]) for task in tables.tasks] == [("7", 1)]
    assert [row["id"] for row in tables.planned] == ["7:due"]


@pytest.mark.parametrize(("imported", "planned"), [(False, ["7:due"]), (True, [])])
async def test_what_came_due_before_it_was_imported_is_not_planned(
    imported: bool, planned: list[str]
) -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    event = of_task(TASK, "task.created", {"due": PAST})
    earlier = {"timestamp": datetime.fromisoformat(PAST) - timedelta(hours=1)}
    await store.append(Append(TASK, (event.model_copy(update=earlier),), 0, STATE | {"due": PAST}))
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), never)
    [recorded] = await store.read_events([(TASK, 1)])
    await (reminders.on_imported if imported else reminders.on_event)(recorded)
    assert [row["id"] for row in tables.planned] == planned


async def test_what_is_due_of_a_task_that_is_gone_waits_for_no_import() -> None:
    store, tables, told = MemoryEventStore(), Tables(), Told()
    other = StreamId("acme", "task-8")
    await store.append(Append(other, (of_task(other, *EVENTS[0]),), 0, STATE))
    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), never)
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["cancelled"]
    assert tables.late == [None], "it never came, so it was not late"
    assert not told.notices


async def test_what_comes_due_while_the_store_is_empty_waits_for_an_import() -> None:
    """The store was emptied while the table was kept, and is about to be filled from a backup."""
    store, tables, told = MemoryEventStore(), Tables(), Told()
    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), never)
    with pytest.raises(NotNow):
        await reminders.fire("acme", "7:due")
    assert not tables.fired
    await store.append(Append(TASK, tuple(of_task(TASK, *event) for event in EVENTS), 0, STATE))
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["fired"]


async def test_what_is_due_of_a_task_is_not_cancelled_by_an_import_that_ends_meanwhile() -> None:
    store, tables, told = MemoryEventStore(), Tables(), Told()
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events[:1], 0, {"status": "todo", "title": "", "due": None}))

    async def through() -> bool:
        await store.append(Append(TASK, events[1:], 1, STATE))
        return False

    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), through)
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["fired"]


async def test_what_is_due_of_a_task_that_this_release_cannot_read_waits_for_one_that_can() -> None:
    """An import writes no state for a stream that it cannot read."""
    store, tables, told = MemoryEventStore(), Tables(), Told()
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events, 0, None))
    unused = cast("Any", None)
    reminders = Reminders(tables, store, cast("Any", told), Alarms(unused), (timedelta(0),), never)
    with pytest.raises(NotNow):
        await reminders.fire("acme", "7:due")
    assert not tables.fired
    await store.append(Append(TASK, events[3:], 4, STATE))
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["fired"]


async def test_what_no_release_could_read_for_a_day_is_told_to_nobody_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.reminders._WAITED_FOR", timedelta.min)
    store, tables = MemoryEventStore(), Tables()
    await store.append(Append(TASK, tuple(of_task(TASK, *event) for event in EVENTS), 0, None))
    unused = cast("Any", None)
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), never)
    await reminders.fire("acme", "7:due")
    assert tables.fired == ["cancelled"]


@pytest.mark.parametrize(
    ("version", "status", "due", "other", "becomes"),
    [
        (9, "scheduled", DUE + timedelta(days=1), {}, [3]),
        (9, "cancelled", DUE, {}, [3]),
        (9, "fired", DUE - timedelta(days=9), {}, [3]),
        (9, "scheduled", DUE, {}, [3]),
        (9, "scheduled", DUE, {"fires": PAST}, [4]),
        (4, "scheduled", DUE + timedelta(days=1), {}, [3]),
        (4, "scheduled", DUE, {}, []),
        (4, "scheduled", DUE, {"user_id": "bob"}, [3]),
        (4, "scheduled", DUE, {"title": "Read"}, [3]),
        (4, "scheduled", DUE, {"fires": PAST, "user_id": "bob"}, []),
        (3, "scheduled", DUE + timedelta(days=1), {}, []),
    ],
)
async def test_what_was_planned_by_a_history_that_is_gone_gives_way_to_the_imported_one(
    version: int, status: str, due: datetime, other: dict[str, Any], becomes: list[int]
) -> None:
    """A reminder older than the task is planned again; one in the past stays, as it may be firing now."""
    store, tables, importing, unused = MemoryEventStore(), Tables(), [True], cast("Any", None)
    had = {
        "id": "7:due",
        "task_id": "7",
        "user_id": "ada",
        "title": "Write",
        "fires": due.isoformat(),
    } | other
    tables.had = [had | {"tenant": "acme", "version": version, "status": status, "due": due.isoformat()}]

    async def imported() -> bool:
        return importing[0]

    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), imported)
    await store.append(Append(TASK, tuple(of_task(TASK, *event) for event in EVENTS), 0, STATE))
    [event] = await store.read_events([(TASK, 4)])
    if version > 4:
        with pytest.raises(StoreUnavailable, match="still being imported"):
            await reminders.on_imported(event)
        assert (tables.becomes, tables.planned) == ([], []), "it may come to be that far"
    importing[0] = False
    await reminders.on_imported(event)
    assert tables.becomes == becomes
    assert [row["version"] for row in tables.planned] == [4]
    tables.becomes.clear()
    await reminders.on_event(event)
    assert not tables.becomes, "where nothing was imported there is no other history"


async def test_what_a_later_event_planned_while_the_import_ended_is_not_taken_for_gone() -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    events = tuple(of_task(TASK, *event) for event in EVENTS)
    await store.append(Append(TASK, events[:1], 0, {"status": "todo", "title": "", "due": None}))
    had = ROW | {"id": "7:due", "user_id": "ada", "title": "Write"}
    tables.had = [had | {"tenant": "acme", "version": 3, "status": "fired"}]

    async def through() -> bool:
        await store.append(Append(TASK, events[1:], 1, STATE))
        return False

    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), through)
    [event] = await store.read_events([(TASK, 1)])
    await reminders.on_imported(event)
    assert not tables.becomes
    assert [row["version"] for row in tables.planned] == [4]


async def test_the_list_of_reminders_shows_a_task_as_it_was_renamed_and_assigned() -> None:
    store, tables, unused = MemoryEventStore(), Tables(), cast("Any", None)
    events = (*EVENTS, ("task.updated", {"changes": {"description": "Soon"}}))
    await store.append(Append(TASK, tuple(of_task(TASK, *event) for event in events), 0, STATE))
    reminders = Reminders(tables, store, unused, Alarms(unused), (timedelta(0),), never)
    for assigned_or_renamed in (3, 4):
        [event] = await store.read_events([(TASK, assigned_or_renamed)])
        await reminders.on_event(event)
        assert tables.shown.pop() == ("acme", "7", "ada", "Write")
    [event] = await store.read_events([(TASK, 5)])
    await reminders.on_event(event)
    assert not tables.shown, "what else is changed the list does not show"
