"""The commands on members."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from annals.aggregates import Command, Handler
from annals.privacy.personal import PERSONAL
from annals_command.commands.fields import Id, NewId
from annals_command.domain.events import MemberLeft
from annals_command.domain.member import Member

Capacity = Annotated[int, Field(ge=0, le=10_000)]


class RegisterMember(Command):
    """Register a member under their user id."""

    command_type: ClassVar[str] = "member.register"

    id: NewId
    name: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), PERSONAL]
    capacity: Capacity = 10


class SetCapacity(Command):
    """Set how many places a member has for tasks that are handed over to them.

    `task.create` and `task.assign` take no place.
    """

    command_type: ClassVar[str] = "member.set_capacity"

    id: Id
    capacity: Capacity


class ReserveCapacity(Command):
    """Reserve a member's place for a task."""

    command_type: ClassVar[str] = "member.reserve"

    id: Id
    task_id: Id
    handover: Id | None = None


class ReleaseCapacity(Command):
    """Release a member's place for a task; with `handover`, not if another hand-over reserved it."""

    command_type: ClassVar[str] = "member.release"

    id: Id
    task_id: Id
    handover: Id | None = None


class LeaveMember(Command):
    """Let a member leave: each open task is offered to one of the successors, in rotation.

    A task that is declined stays with the member. If more than 400 tasks are open, none is offered.
    """

    command_type: ClassVar[str] = "member.leave"

    id: Id
    successors: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1_000)]
    deadline: Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=365))] = timedelta(days=1)

    @model_validator(mode="after")
    def _somebody_else(self) -> LeaveMember:
        if self.id in self.successors:
            raise ValueError("a member cannot be their own successor")
        return self


def _leave(member: Member, command: LeaveMember) -> MemberLeft:
    deadline: str = command.model_dump(mode="json", include={"deadline"})["deadline"]
    return member.leave(command.successors, deadline)


HANDLERS = (
    Handler(
        RegisterMember,
        Member,
        lambda command: command.id,
        lambda member, command: member.register_as(command.name, command.capacity),
        creates=True,
    ),
    Handler(
        SetCapacity,
        Member,
        lambda command: command.id,
        lambda member, command: member.set_capacity(command.capacity),
    ),
    Handler(
        ReserveCapacity,
        Member,
        lambda command: command.id,
        lambda member, command: member.reserve(command.task_id, command.handover),
    ),
    Handler(
        ReleaseCapacity,
        Member,
        lambda command: command.id,
        lambda member, command: member.release(command.task_id, command.handover),
    ),
    Handler(LeaveMember, Member, lambda command: command.id, _leave),
)
