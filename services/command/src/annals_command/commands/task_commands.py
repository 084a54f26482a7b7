"""The commands on tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from annals.aggregates import Command, Handler
from annals_command.commands.fields import Description, Id, Moment, NewId, Tag, Title
from annals_command.domain.events import TaskCreated, TaskPriority
from annals_command.domain.task import Task

Tags = Annotated[tuple[Tag, ...], Field(max_length=50)]


class CreateTask(Command):
    """Create a task; without an `id`, one is generated."""

    command_type: ClassVar[str] = "task.create"

    id: NewId | None = None
    title: Title
    description: Description | None = None
    due: Moment | None = None
    priority: TaskPriority = TaskPriority.NORMAL
    tags: Tags = ()
    assignee: Id | None = None


class UpdateTask(Command):
    """Change fields of a task; fields that are left out stay as they are."""

    command_type: ClassVar[str] = "task.update"

    id: Id
    title: Title | None = None
    description: Description | None = None
    priority: TaskPriority | None = None
    tags: Tags | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> UpdateTask:
        if self.model_fields_set <= {"id"}:
            raise ValueError("expected at least one of title, description, priority, tags")
        for name in ("title", "priority", "tags"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null; leave it out to keep it")
        return self


class AssignTask(Command):
    """Assign a task to a member; `reserved` says whether they already have a place reserved for it.

    That place is released when the task is completed, deleted, unassigned or assigned to somebody else.
    """

    command_type: ClassVar[str] = "task.assign"

    id: Id
    assignee: Id
    reserved: bool = False
    handover: Id | None = None


class UnassignTask(Command):
    """Take a task from its assignee."""

    command_type: ClassVar[str] = "task.unassign"

    id: Id


class AcceptTask(Command):
    """Accept a task; only its assignee can send this."""

    command_type: ClassVar[str] = "task.accept"

    id: Id
    assignee: Id


class RevertAssignment(Command):
    """Take a task from an assignee and give it back to the previous assignee, if there was one.

    With `handover`, only if that hand-over assigned the task.
    """

    command_type: ClassVar[str] = "task.revert_assignment"

    id: Id
    assignee: Id
    handover: Id | None = None


class CompleteTask(Command):
    """Complete a task."""

    command_type: ClassVar[str] = "task.complete"

    id: Id


class ReopenTask(Command):
    """Reopen a completed task."""

    command_type: ClassVar[str] = "task.reopen"

    id: Id


class DeleteTask(Command):
    """Delete a task."""

    command_type: ClassVar[str] = "task.delete"

    id: Id


class SetDueDate(Command):
    """Set a task's due date; null clears it."""

    command_type: ClassVar[str] = "task.set_due_date"

    id: Id
    due: Moment | None


def _create(task: Task, command: CreateTask) -> TaskCreated:
    return task.create(TaskCreated(**command.model_dump(exclude={"id"})))


HANDLERS = (
    Handler(CreateTask, Task, lambda command: command.id, _create, creates=True),
    Handler(
        UpdateTask,
        Task,
        lambda command: command.id,
        lambda task, command: task.update(
            command.model_dump(mode="json", include=command.model_fields_set - {"id"})
        ),
    ),
    Handler(
        AssignTask,
        Task,
        lambda command: command.id,
        lambda task, command: task.assign(
            command.assignee, reserved=command.reserved, handover=command.handover
        ),
    ),
    Handler(UnassignTask, Task, lambda command: command.id, lambda task, _: task.unassign()),
    Handler(
        AcceptTask,
        Task,
        lambda command: command.id,
        lambda task, command: task.accept(command.assignee),
        sender=lambda command: command.assignee,
    ),
    Handler(
        RevertAssignment,
        Task,
        lambda command: command.id,
        lambda task, command: task.revert_assignment(command.assignee, command.handover),
    ),
    Handler(CompleteTask, Task, lambda command: command.id, lambda task, _: task.complete()),
    Handler(ReopenTask, Task, lambda command: command.id, lambda task, _: task.reopen()),
    Handler(DeleteTask, Task, lambda command: command.id, lambda task, _: task.delete()),
    Handler(
        SetDueDate, Task, lambda command: command.id, lambda task, command: task.set_due_date(command.due)
    ),
)
