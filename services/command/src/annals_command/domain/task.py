"""A task: the rules for what may happen to it, and its state."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import Field

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation
from annals.events import EventData
from annals_command.domain.events import (
    TaskAccepted,
    TaskAssigned,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskDueDateSet,
    TaskPriority,
    TaskReopened,
    TaskUnassigned,
    TaskUpdated,
)


class TaskStatus(StrEnum):
    """The status of a task; `none` means that it was never created."""

    NONE = "none"
    TODO = "todo"
    DONE = "done"
    DELETED = "deleted"


class Task(Aggregate):
    """A task.

    `reserved` maps each member who may have a place reserved for it to the hand-over that reserved the place,
    if one did. These are the assignee and, during a hand-over, also the previous assignee. Each hand-over
    frees one of the two places itself. The remaining place is freed through a later event of the task, whose
    `frees` names the member. Freeing a free place does no harm, nor is a place freed that another hand-over
    has reserved meanwhile, so a name too many in `reserved` is no mistake. A name too few would leave a place
    taken forever.

    `handover` is the hand-over that assigned the task to its assignee, if one did.
    """

    aggregate_type: ClassVar[str] = "task"
    state_schema: ClassVar[int] = 5

    status: TaskStatus = TaskStatus.NONE
    title: str = ""
    description: str | None = None
    due: datetime | None = None
    priority: TaskPriority = TaskPriority.NORMAL
    tags: tuple[str, ...] = ()
    assignee: str | None = None
    previous_assignee: str | None = None
    reserved: dict[str, str | None] = Field(default_factory=dict)
    handover: str | None = None

    def create(self, created: TaskCreated) -> TaskCreated:
        """Create the task. Its id must be new: even the id of a deleted task cannot be used again."""
        if self.status is not TaskStatus.NONE:
            raise RuleViolation("task.exists", "a task with this id exists")
        return created

    def update(self, changes: dict[str, Any]) -> TaskUpdated:
        """Change fields of an open task."""
        self._require_open()
        return TaskUpdated(changes=changes, assignee=self.assignee)

    def assign(self, assignee: str, *, reserved: bool = False, handover: str | None = None) -> TaskAssigned:
        """Assign an open task to another member; `reserved` says whether a place was reserved with them."""
        self._require_open()
        if self.assignee == assignee:
            raise RuleViolation("task.already_assigned", f"the task is assigned to {assignee}")
        freed = {} if reserved else self._freed(but=assignee)
        return TaskAssigned(
            assignee=assignee, previous=self.assignee, reserved=reserved, handover=handover, **freed
        )

    def unassign(self) -> TaskUnassigned:
        """Take an open task from its assignee."""
        self._require_open()
        if self.assignee is None:
            raise RuleViolation("task.not_assigned", "nobody is assigned to the task")
        return TaskUnassigned(assignee=self.assignee, **self._freed())

    def accept(self, assignee: str) -> TaskAccepted:
        """Record that the assignee accepts the task."""
        self._require_open()
        self._require_assigned_to(assignee)
        return TaskAccepted(assignee=assignee)

    def revert_assignment(self, assignee: str, handover: str | None = None) -> TaskAssigned | TaskUnassigned:
        """Take an open task from an assignee and give it back to the previous assignee, if there was one.

        With `handover`, only if that hand-over assigned the task.
        """
        self._require_open()
        self._require_assigned_to(assignee)
        if handover is not None and self.handover != handover:
            raise RuleViolation("task.assignee_changed", f"{assignee} has the task by other means")
        if self.previous_assignee is None:
            return TaskUnassigned(assignee=assignee)
        return TaskAssigned(assignee=self.previous_assignee, previous=assignee)

    def complete(self) -> TaskCompleted:
        """Complete the task."""
        self._require_open()
        return TaskCompleted(assignee=self.assignee, **self._freed())

    def reopen(self) -> TaskReopened:
        """Reopen the task, which must be completed."""
        self._require_there()
        if self.status is not TaskStatus.DONE:
            raise RuleViolation("task.not_completed", "the task is not completed")
        return TaskReopened(assignee=self.assignee)

    def delete(self) -> TaskDeleted:
        """Delete the task, completed or not."""
        self._require_there()
        return TaskDeleted(assignee=self.assignee, **self._freed())

    def set_due_date(self, due: datetime | None) -> TaskDueDateSet:
        """Set or clear the due date of an open task."""
        self._require_open()
        return TaskDueDateSet(due=due, assignee=self.assignee)

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
        match event:
            case TaskCreated():
                return self._with(
                    status=TaskStatus.TODO,
                    title=event.title,
                    description=event.description,
                    due=event.due,
                    priority=event.priority,
                    tags=event.tags,
                    assignee=event.assignee,
                )
            case TaskUpdated():
                return type(self).model_validate(self.model_dump() | event.changes)
            case TaskAssigned():
                reserved = self._reserved_without(event.frees)
                if event.reserved:
                    before = {name: by for name, by in reserved.items() if name == self.assignee}
                    reserved = before | {event.assignee: event.handover}
                return self._with(
                    assignee=event.assignee,
                    previous_assignee=self.assignee,
                    reserved=reserved,
                    handover=event.handover,
                )
            case TaskUnassigned():
                return self._with(
                    assignee=None,
                    previous_assignee=self.assignee,
                    reserved=self._reserved_without(event.frees),
                    handover=None,
                )
            case TaskCompleted():
                return self._with(status=TaskStatus.DONE, reserved=self._reserved_without(event.frees))
            case TaskReopened():
                return self._with(status=TaskStatus.TODO)
            case TaskDeleted():
                return self._with(status=TaskStatus.DELETED)
            case TaskDueDateSet():
                return self._with(due=event.due)
            case _:
                return self

    def _with(self, **changes: object) -> Self:
        return self.model_copy(update=changes)

    def _freed(self, but: str | None = None) -> dict[str, Any]:
        """Return the fields of an event that frees the reserved places, except that of the member `but`."""
        places = {name: by for name, by in self.reserved.items() if name != but}
        return {"frees": tuple(places), "reserved_by": {name: by for name, by in places.items() if by}}

    def _reserved_without(self, names: tuple[str, ...]) -> dict[str, str | None]:
        return {name: by for name, by in self.reserved.items() if name not in names}

    def _require_there(self) -> None:
        if self.status in (TaskStatus.NONE, TaskStatus.DELETED):
            raise NotFound("there is no such task, or it was deleted")

    def _require_assigned_to(self, assignee: str) -> None:
        if self.assignee != assignee:
            raise RuleViolation("task.assignee_changed", f"the task is not assigned to {assignee}")

    def _require_open(self) -> None:
        self._require_there()
        if self.status is TaskStatus.DONE:
            raise RuleViolation("task.already_completed", "the task is completed; reopen it first")
