"""The read models, as given / when / then."""

from __future__ import annotations

import pytest

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


def test_what_is_not_so_fails() -> None:
    with pytest.raises(AssertionError, match=r"the row has {'name': 'Ada'}, not {'name': 'Bob'}"):
        projected(MEMBERS, REGISTERED).then(name="Bob")
    with pytest.raises(AssertionError, match="no row"):
        projected(TASKS, CREATED, ("task.deleted", {})).then(title="Write")
    with pytest.raises(AssertionError, match="there is a row"):
        projected(TASKS, CREATED).then_no_row()
