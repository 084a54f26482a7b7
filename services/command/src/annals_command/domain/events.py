"""All events of the domain. An event whose meaning changes gets a new version and an upcaster."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, Field

from annals.events import EventData, EventRegistry


class TaskPriority(StrEnum):
    """How urgent a task is."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class TaskCreated(EventData, type="task.created"):
    """A task was created."""

    title: str
    description: str | None = None
    due: AwareDatetime | None = None
    priority: TaskPriority = TaskPriority.NORMAL
    tags: tuple[str, ...] = ()
    assignee: str | None = None


class TaskUpdated(EventData, type="task.updated"):
    """Fields of a task changed; `changes` holds only those. `assignee` has the task."""

    changes: dict[str, str | list[str] | None]
    assignee: str | None = None


class TaskAssigned(EventData, type="task.assigned"):
    """A task was assigned; `reserved` says whether the assignee has a place reserved for it.

    `previous` had the task before. `handover` is the hand-over that assigned it, if one did.
    `frees` lists the members who may still have a place reserved for it and no longer need it; `reserved_by`
    maps them to the hand-overs that reserved these places, where a hand-over did.
    """

    assignee: str
    previous: str | None = None
    reserved: bool = False
    frees: tuple[str, ...] = ()
    reserved_by: dict[str, str] = Field(default_factory=dict)
    handover: str | None = None


class TaskUnassigned(EventData, type="task.unassigned"):
    """A task was taken from its assignee.

    `frees` lists the members who may still have a place reserved for it and no longer need it; `reserved_by`
    maps them to the hand-overs that reserved these places, where a hand-over did.
    """

    assignee: str
    frees: tuple[str, ...] = ()
    reserved_by: dict[str, str] = Field(default_factory=dict)


class TaskAccepted(EventData, type="task.accepted"):
    """An assignee accepted a task."""

    assignee: str


class TaskCompleted(EventData, type="task.completed"):
    """A task was completed; `assignee` had it, if anybody did.

    `frees` lists the members who may still have a place reserved for it and no longer need it; `reserved_by`
    maps them to the hand-overs that reserved these places, where a hand-over did.
    """

    assignee: str | None = None
    frees: tuple[str, ...] = ()
    reserved_by: dict[str, str] = Field(default_factory=dict)


class TaskReopened(EventData, type="task.reopened"):
    """A completed task was reopened; `assignee` has it, if anybody does."""

    assignee: str | None = None


class TaskDeleted(EventData, type="task.deleted"):
    """A task was deleted; `assignee` had it, if anybody did.

    `frees` lists the members who may still have a place reserved for it and no longer need it; `reserved_by`
    maps them to the hand-overs that reserved these places, where a hand-over did.
    """

    assignee: str | None = None
    frees: tuple[str, ...] = ()
    reserved_by: dict[str, str] = Field(default_factory=dict)


class TaskDueDateSet(EventData, type="task.due_date_set"):
    """A task's due date was set, or cleared; `assignee` has the task."""

    due: AwareDatetime | None
    assignee: str | None = None


class MemberRegistered(EventData, type="member.registered"):
    """A member registered. `name` is personal data and is stored as an encrypted token."""

    name: str
    capacity: int


class MemberCapacitySet(EventData, type="member.capacity_set"):
    """The capacity of a member changed: how many places they have for tasks that are handed over to them."""

    capacity: int


class MemberReserved(EventData, type="member.reserved"):
    """A member's place was reserved for a task; `reserved` counts all the places that are now reserved.

    `handover` is the hand-over that reserved it, if one did.
    """

    task_id: str
    reserved: int
    handover: str | None = None


class MemberReleased(EventData, type="member.released"):
    """A member's place for a task was released; `reserved` counts the places that are still reserved."""

    task_id: str
    reserved: int


class MemberLeft(EventData, type="member.left"):
    """A member left: no more tasks can be handed over to them. `successors` are offered the open ones."""

    successors: tuple[str, ...]
    deadline: str


class SubjectErased(EventData, type="subject.erased"):
    """Erasure of a data subject was requested: their personal data becomes unreadable."""

    reason: str


class OperationRequested(EventData, type="operation.requested"):
    """An operator asked a service to do something; `target` is what the action applies to."""

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
