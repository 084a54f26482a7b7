"""A member: a person with `capacity` places for tasks that are handed over to them."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from annals.aggregates.aggregate import Aggregate, NotFound, RuleViolation
from annals.events import EventData
from annals_command.domain.events import (
    MemberCapacitySet,
    MemberLeft,
    MemberRegistered,
    MemberReleased,
    MemberReserved,
)


class Member(Aggregate):
    """A member. `reserved` maps each task that has a place to the hand-over that reserved it, if one did."""

    aggregate_type: ClassVar[str] = "member"
    state_schema: ClassVar[int] = 3

    registered: bool = False
    name: str = ""
    capacity: int = 0
    reserved: dict[str, str | None] = Field(default_factory=dict)
    left: bool = False

    def register_as(self, name: str, capacity: int) -> MemberRegistered:
        """Register the member, once."""
        if self.registered:
            raise RuleViolation("member.exists", "a member with this id exists")
        return MemberRegistered(name=name, capacity=capacity)

    def set_capacity(self, capacity: int) -> MemberCapacitySet:
        """Change the capacity. Places that are reserved beyond a smaller capacity stay reserved."""
        self._require_registered()
        return MemberCapacitySet(capacity=capacity)

    def reserve(self, task_id: str, handover: str | None = None) -> MemberReserved:
        """Reserve a place for a task."""
        self._require_registered()
        if self.left:
            raise RuleViolation("member.left", "the member has left and takes on no more tasks")
        if task_id in self.reserved:
            raise RuleViolation("member.already_reserved", f"room for task {task_id} is reserved")
        if len(self.reserved) >= self.capacity:
            raise RuleViolation(
                "member.capacity_exhausted", f"all {self.capacity} places of the member are reserved"
            )
        return MemberReserved(task_id=task_id, reserved=len(self.reserved) + 1, handover=handover)

    def release(self, task_id: str, handover: str | None = None) -> MemberReleased:
        """Release the place of a task, unless `handover` is given and another hand-over reserved the place.

        A reservation that names no hand-over, such as an older one, may be released by any hand-over.
        """
        self._require_registered()
        if task_id not in self.reserved:
            raise RuleViolation("member.not_reserved", f"no room for task {task_id} is reserved")
        if handover is not None and self.reserved[task_id] not in (handover, None):
            raise RuleViolation("member.not_reserved", f"another hand-over reserved the room for {task_id}")
        return MemberReleased(task_id=task_id, reserved=len(self.reserved) - 1)

    def leave(self, successors: tuple[str, ...], deadline: str) -> MemberLeft:
        """Leave: no more tasks can be handed over. `successors` are offered the open ones."""
        self._require_registered()
        if self.left:
            raise RuleViolation("member.left", "the member has left")
        return MemberLeft(successors=successors, deadline=deadline)

    def apply(self, event: EventData) -> Self:
        """Return the state after an event."""
        match event:
            case MemberRegistered():
                return self._with(registered=True, name=event.name, capacity=event.capacity)
            case MemberCapacitySet():
                return self._with(capacity=event.capacity)
            case MemberReserved():
                return self._with(reserved=self.reserved | {event.task_id: event.handover})
            case MemberReleased():
                left = {task: by for task, by in self.reserved.items() if task != event.task_id}
                return self._with(reserved=left)
            case MemberLeft():
                return self._with(left=True)
            case _:
                return self

    def _with(self, **changes: object) -> Self:
        return self.model_copy(update=changes)

    def _require_registered(self) -> None:
        if not self.registered:
            raise NotFound("there is no such member")
