"""The read models, as given / when / then."""

from __future__ import annotations

from typing import Any

import pytest

from annals.projections import Patch, Projection, Put, Table
from annals.testing import projected
from annals_projector.read_models.members import MEMBERS
from annals_projector.read_models.tasks import TASKS

REGISTERED = ("member.registered", {"name": "Ada", "capacity": 3})
CREATED = ("task.created", {"title": "Write", "priority": "high"})


def test_a_member_s_reservations_are_counted() -> None:
    member = projected(MEMBERS, REGISTERED)
    member.when(("member.reserved", {"task_id": "t", "reserved": 1})).then(name="Ada", reserved=1, version=2)


def test_a_task_goes_from_hand_to_hand_and_away() -> None:
    task = projected(TASKS, CREATED).then(status="todo", assignee=None, tags=[])
    task = task.when(("task.assigned", {"assignee": "bob", "previous": "ada"}))
    task.then(assignee="bob", previous_assignee="ada", title="Write")
    task.when(("task.deleted", {})).then_no_row()


def test_a_projection_is_given_each_event_in_the_version_that_was_stored() -> None:
    names = {"1.0": "name", "2.0": "full_name"}
    people = Projection(
        Table("people", {"name": "text"}),
        "member",
        {"member.registered": lambda event: Put({"name": event.data[names[event.event_version]]})},
    )
    projected(people, REGISTERED).then(name="Ada")
    newer = ("member.registered", {"full_name": "Ada Lovelace"})
    person = projected(people, newer, event_version="2.0").then(name="Ada Lovelace")
    person.when(REGISTERED).then(name="Ada").when(newer, event_version="2.0").then(name="Ada Lovelace")


def test_a_projection_of_what_no_event_has_is_refused() -> None:
    table = Table("people", {"name": "text"})
    with pytest.raises(ValueError, match="'Member' is not an aggregate type"):
        Projection(table, "Member", {})
    with pytest.raises(ValueError, match=r"'Member\.Left' is not a type such as"):
        Projection(table, "member", {"Member.Left": lambda _: Put({})})


def test_what_is_not_so_fails() -> None:
    with pytest.raises(AssertionError, match=r"the row has {'name': 'Ada'}, not {'name': 'Bob'}"):
        projected(MEMBERS, REGISTERED).then(name="Bob")
    with pytest.raises(AssertionError, match="no row"):
        projected(TASKS, CREATED, ("task.deleted", {})).then(title="Write")
    with pytest.raises(AssertionError, match="there is a row"):
        projected(TASKS, CREATED).then_no_row()


@pytest.mark.parametrize("change", [Put({"capacity": 3, "bussy": 0}), Patch({"dueDate": None})])
def test_a_column_that_the_table_has_not_fails_its_test(change: Put | Patch) -> None:
    table = Table("workloads", {"capacity": "integer", "busy": "integer", "due_date": "timestamptz"})
    workload = projected(Projection(table, "member", {"member.reserved": lambda _: change}), REGISTERED)
    with pytest.raises(AssertionError, match=r"member.reserved .*(bussy|dueDate)"):
        workload.when(("member.reserved", {})).then_no_row()


@pytest.mark.parametrize(
    "given",
    [
        {"name": "workLoads"},
        {"name": "work-loads"},
        {"name": "w" * 64},
        {"name": "event_index"},
        {"columns": {"dueDate": "timestamptz"}},
        {"columns": {"due date": "timestamptz"}},
        {"columns": {"version": "integer"}},
        {"columns": {"updated_at": "timestamptz"}},
        {"columns": {"deleted": "boolean"}},
        {"maps": ("loads",)},
        {"columns": {"loads_of": "json"}, "maps": ("loads_of",)},
        {"columns": {"loads_of": "jsonb"}, "maps": "loads_of"},
        {"indexes": "(tenant, capacity)"},
    ],
)
def test_a_table_that_the_database_would_make_another_of_is_refused(given: dict[str, Any]) -> None:
    Table("workloads", {"loads_of": "jsonb", "user": "text"}, maps=("loads_of",))
    with pytest.raises(ValueError, match="the table"):
        Table(**{"name": "workloads", "columns": {"capacity": "integer"}} | given)
