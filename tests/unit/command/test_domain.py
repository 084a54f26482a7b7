from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from annals.events import EventData
from annals.testing import given
from annals_command.domain.events import (
    MemberCapacitySet,
    MemberRegistered,
    MemberReleased,
    MemberReserved,
    OperationRequested,
    SubjectErased,
    TaskAccepted,
    TaskAssigned,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskDueDateSet,
    TaskReopened,
    TaskUnassigned,
    TaskUpdated,
)
from annals_command.domain.member import Member
from annals_command.domain.operation import Operation
from annals_command.domain.subject import Subject
from annals_command.domain.task import Task, TaskStatus

CREATED = TaskCreated(title="Write")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
ADA = MemberRegistered(name="Ada", capacity=1)


@pytest.mark.parametrize(
    ("past", "decide", "events"),
    [
        ([], lambda task: task.create(CREATED), [CREATED]),
        ([CREATED], lambda task: task.update({"title": "Read"}), [TaskUpdated(changes={"title": "Read"})]),
        ([CREATED], lambda task: task.assign("ada"), [TaskAssigned(assignee="ada")]),
        (
            [CREATED, TaskAssigned(assignee="ada")],
            lambda task: task.unassign(),
            [TaskUnassigned(assignee="ada")],
        ),
        ([CREATED], lambda task: task.complete(), [TaskCompleted()]),
        ([CREATED, TaskCompleted()], lambda task: task.reopen(), [TaskReopened()]),
        ([CREATED, TaskCompleted()], lambda task: task.delete(), [TaskDeleted()]),
        ([CREATED], lambda task: task.set_due_date(NOON), [TaskDueDateSet(due=NOON)]),
    ],
)
def test_what_may_happen_to_a_task(
    past: list[EventData], decide: Callable[[Task], EventData], events: list[EventData]
) -> None:
    given(Task, *past).when(decide).then(*events)


@pytest.mark.parametrize(
    ("past", "decide"),
    [
        ([], lambda task: task.update({"title": "Read"})),
        ([], lambda task: task.set_due_date(NOON)),
        ([], lambda task: task.complete()),
        ([TaskCompleted(assignee="ada")], lambda task: task.reopen()),
        ([], lambda task: task.delete()),
    ],
)
def test_whatever_happens_to_a_task_says_whose_it_is(
    past: list[EventData], decide: Callable[[Task], EventData]
) -> None:
    """The `assignee` of each event finds those who want to hear of their own tasks."""
    task = given(Task, CREATED, TaskAssigned(assignee="ada"), *past).state
    assert decide(task).model_dump()["assignee"] == "ada"


@pytest.mark.parametrize(
    ("past", "decide", "rule"),
    [
        ([CREATED], lambda task: task.create(CREATED), "task.exists"),
        ([CREATED, TaskDeleted()], lambda task: task.create(CREATED), "task.exists"),
        ([], lambda task: task.complete(), "not_found"),
        ([CREATED, TaskDeleted()], lambda task: task.delete(), "not_found"),
        ([CREATED, TaskCompleted()], lambda task: task.complete(), "task.already_completed"),
        ([CREATED, TaskCompleted()], lambda task: task.assign("ada"), "task.already_completed"),
        ([CREATED, TaskAssigned(assignee="ada")], lambda task: task.assign("ada"), "task.already_assigned"),
        ([CREATED], lambda task: task.unassign(), "task.not_assigned"),
        ([CREATED], lambda task: task.reopen(), "task.not_completed"),
    ],
)
def test_what_may_not(past: list[EventData], decide: Callable[[Task], EventData], rule: str) -> None:
    given(Task, *past).when(decide).then_refused(rule)


def test_a_task_is_what_its_events_say() -> None:
    task = given(
        Task,
        CREATED,
        TaskUpdated(changes={"title": "Read", "tags": ["a"]}),
        TaskAssigned(assignee="ada"),
        TaskDueDateSet(due=NOON),
        TaskCompleted(),
    ).state
    assert (task.title, task.tags, task.assignee, task.due) == ("Read", ("a",), "ada", NOON)
    assert task.status is TaskStatus.DONE
    assert Task.model_validate(task.model_dump(mode="json")) == task


ADAS = TaskAssigned(assignee="ada", reserved=True)
BOBS = TaskAssigned(assignee="bob", previous="ada", reserved=True)


@pytest.mark.parametrize(
    ("past", "frees"),
    [
        ([TaskAssigned(assignee="ada")], ()),
        ([ADAS], ("ada",)),
        ([ADAS, BOBS], ("ada", "bob")),
        ([ADAS, BOBS, TaskAccepted(assignee="bob")], ("ada", "bob")),
        ([ADAS, BOBS, TaskAssigned(assignee="zoe", previous="bob", reserved=True)], ("bob", "zoe")),
        ([ADAS, TaskAssigned(assignee="zoe", previous="ada", frees=("ada",))], ()),
        ([ADAS, TaskUnassigned(assignee="ada", frees=("ada",))], ()),
        ([ADAS, TaskCompleted(assignee="ada", frees=("ada",)), TaskReopened()], ()),
    ],
)
def test_what_closes_a_task_frees_the_places_that_were_reserved_for_it(
    past: list[EventData], frees: tuple[str, ...]
) -> None:
    task = given(Task, CREATED, *past)
    assignee = task.state.assignee
    task.when(lambda task: task.complete()).then(TaskCompleted(assignee=assignee, frees=frees))
    task.when(lambda task: task.delete()).then(TaskDeleted(assignee=assignee, frees=frees))


def test_who_gets_a_task_without_a_hand_over_frees_the_places_of_the_others() -> None:
    task = given(Task, CREATED, ADAS, BOBS)
    task.when(lambda task: task.assign("zoe")).then(
        TaskAssigned(assignee="zoe", previous="bob", frees=("ada", "bob"))
    )
    task.when(lambda task: task.assign("ada")).then(
        TaskAssigned(assignee="ada", previous="bob", frees=("bob",))
    )
    task.when(lambda task: task.unassign()).then(TaskUnassigned(assignee="bob", frees=("ada", "bob")))


def test_a_hand_over_that_is_taken_back_sees_to_its_place_itself() -> None:
    task = given(Task, CREATED, ADAS, BOBS)
    task.when(lambda task: task.revert_assignment("bob")).then(TaskAssigned(assignee="ada", previous="bob"))


def test_what_frees_a_place_says_which_hand_over_reserved_it() -> None:
    """It may free the place late, when the same member has another one for the task."""

    def handed(to: str, by: str, previous: str | None = "ada") -> TaskAssigned:
        return TaskAssigned(assignee=to, previous=previous, reserved=True, handover=by)

    def completed(*frees: str, **reserved_by: str) -> TaskCompleted:
        return TaskCompleted(assignee=frees[-1], frees=frees, reserved_by=reserved_by)

    past = [CREATED, handed("ada", "h1", previous=None), handed("bob", "h2")]
    complete: Callable[[Task], TaskCompleted] = Task.complete
    given(Task, *past).when(complete).then(completed("ada", "bob", ada="h1", bob="h2"))
    declined = TaskAssigned(assignee="ada", previous="bob")
    again = given(Task, *past, declined, handed("bob", "h3"))
    again.when(complete).then(completed("ada", "bob", ada="h1", bob="h3"))
    again.when(lambda task: task.assign("ada")).then(
        TaskAssigned(assignee="ada", previous="bob", frees=("bob",), reserved_by={"bob": "h3"})
    )
    by_hand = given(Task, *past, declined, BOBS)
    by_hand.when(complete).then(completed("ada", "bob", ada="h1"))


def test_a_member_has_room_for_their_capacity() -> None:
    first = MemberReserved(task_id="a", reserved=1)
    given(Member, ADA).when(lambda member: member.reserve("a")).then(first)
    given(Member, ADA, first).when(lambda member: member.reserve("b")).then_refused(
        "member.capacity_exhausted"
    )
    given(Member, ADA, first).when(lambda member: member.reserve("a")).then_refused("member.already_reserved")
    released = MemberReleased(task_id="a", reserved=0)
    given(Member, ADA, first).when(lambda member: member.release("a")).then(released)
    given(Member, ADA).when(lambda member: member.release("a")).then_refused("member.not_reserved")
    given(Member, ADA, MemberCapacitySet(capacity=0)).when(lambda member: member.reserve("a")).then_refused(
        "member.capacity_exhausted"
    )


def test_a_hand_over_takes_back_only_what_it_did() -> None:
    reserved = MemberReserved(task_id="a", reserved=1, handover="first")
    member = given(Member, ADA, reserved)
    member.when(lambda member: member.release("a", "second")).then_refused("member.not_reserved")
    released = MemberReleased(task_id="a", reserved=0)
    member.when(lambda member: member.release("a", "first")).then(released)
    member.when(lambda member: member.release("a")).then(released)
    before = given(Member, ADA, MemberReserved(task_id="a", reserved=1))
    before.when(lambda member: member.release("a", "first")).then(released)

    by_first = TaskAssigned(assignee="ada", reserved=True, handover="first")
    task = given(Task, CREATED, by_first)
    task.when(lambda task: task.revert_assignment("ada", "second")).then_refused("task.assignee_changed")
    task.when(lambda task: task.revert_assignment("ada", "first")).then(TaskUnassigned(assignee="ada"))
    by_hand = given(Task, CREATED, by_first, TaskUnassigned(assignee="ada"), TaskAssigned(assignee="ada"))
    by_hand.when(lambda task: task.revert_assignment("ada", "first")).then_refused("task.assignee_changed")


def test_a_member_registers_once() -> None:
    given(Member).when(lambda member: member.register_as("Ada", 1)).then(ADA)
    given(Member, ADA).when(lambda member: member.register_as("Ada", 1)).then_refused("member.exists")
    given(Member).when(lambda member: member.set_capacity(1)).then_refused("not_found")


def test_an_operation_is_recorded_once() -> None:
    asked = OperationRequested(service="projector", action="switch", target="tasks", reason="it is right")
    given(Operation).when(lambda operation: operation.request(asked)).then(asked)
    given(Operation, asked).when(lambda operation: operation.request(asked)).then_refused(
        "operation.recorded"
    )


def test_an_erasure_may_be_asked_for_again() -> None:
    """A user who comes back, or whose session lives on, leaves more."""
    again = SubjectErased(reason="came back and left again")
    given(Subject, SubjectErased(reason="left")).when(lambda subject: subject.erase(again.reason)).then(again)
