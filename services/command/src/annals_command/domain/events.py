"""Every event of tasks and members. A changed meaning is a new version with an upcaster.

`frees`, in an event of a task: the members who may still have a place reserved for it and need it no more.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime

from annals.events import EventData, EventRegistry


class TaskPriority(StrEnum):
    """How urgent a task is."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class TaskCreated(EventData, type="task.created"):
    """A task came into being."""

    title: str
    description: str | None = None
    due: AwareDatetime | None = None
    priority: TaskPriority = TaskPriority.NORMAL
    tags: tuple[str, ...] = ()
    assignee: str | None = None


class TaskUpdated(EventData, type="task.updated"):
    """Some of a task's fields changed; `changes` holds those and no others. `assignee` has the task."""

    changes: dict[str, str | list[str] | None]
    assignee: str | None = None


class TaskAssigned(EventData, type="task.assigned"):
    """A task got an assignee, with whom a place may have been reserved for it; `previous` had it before.

    `handover` is the hand-over that did it, if one did.
    """

    assignee: str
    previous: str | None = None
    reserved: bool = False
    frees: tuple[str, ...] = ()
    handover: str | None = None


class TaskUnassigned(EventData, type="task.unassigned"):
    """A task lost its assignee."""

    assignee: str
    frees: tuple[str, ...] = ()


class TaskAccepted(EventData, type="task.accepted"):
    """An assignee said that they take a task on."""

    assignee: str


class TaskCompleted(EventData, type="task.completed"):
    """A task was done, by its assignee if it has one."""

    assignee: str | None = None
    frees: tuple[str, ...] = ()


class TaskReopened(EventData, type="task.reopened"):
    """A task that was done is to do again, by its assignee if it has one."""

    assignee: str | None = None


class TaskDeleted(EventData, type="task.deleted"):
    """A task was deleted; `assignee` had it."""

    assignee: str | None = None
    frees: tuple[str, ...] = ()


class TaskDueDateSet(EventData, type="task.due_date_set"):
    """A task's due date was set, or cleared; `assignee` has the task."""

    due: AwareDatetime | None
    assignee: str | None = None


class MemberRegistered(EventData, type="member.registered"):
    """Somebody joined. `name` is personal: a token."""

    name: str
    capacity: int


class MemberCapacitySet(EventData, type="member.capacity_set"):
    """How many tasks a member may hold changed."""

    capacity: int


class MemberReserved(EventData, type="member.reserved"):
    """A part of a member's capacity was reserved for a task; `reserved` counts all that is.

    `handover` is the hand-over that did it, if one did.
    """

    task_id: str
    reserved: int
    handover: str | None = None


class MemberReleased(EventData, type="member.released"):
    """A reservation was given back; `reserved` counts what is left."""

    task_id: str
    reserved: int


class MemberLeft(EventData, type="member.left"):
    """A member takes on no more tasks; `successors` are asked to take over the open ones."""

    successors: tuple[str, ...]
    deadline: str


class SubjectErased(EventData, type="subject.erased"):
    """Everything personal about somebody was made unreadable."""

    reason: str


class OperationRequested(EventData, type="operation.requested"):
    """An operator asked a service to do something; `target` is what it is done to."""

    service: str
    action: str
    target: str
    reason: str | None = None


REGISTRY = EventRegistry(
    [
        TaskCreated,
        TaskUpdated,
        TaskAssigned,
        TaskUnassigned,
        TaskAccepted,
        TaskCompleted,
        TaskReopened,
        TaskDeleted,
        TaskDueDateSet,
        MemberRegistered,
        MemberCapacitySet,
        SubjectErased,
        OperationRequested,
        MemberReserved,
        MemberReleased,
        MemberLeft,
    ]
)
