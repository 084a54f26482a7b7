"""Random commands on tasks and members, sent through the bus and checked against a model of plain dicts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from annals.aggregates import (
    CommandBus,
    CommandContext,
    CommandRequest,
    KeyReused,
    NotFound,
    RuleViolation,
)
from annals.events.chain import chained
from annals.store import Append, Appended, ConflictError, OutcomeUnknown
from annals.store.memory import MemoryEventStore
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from annals_command.domain.member import Member
from annals_command.domain.task import Task
from fuzz.depth import DEPTH

TASKS = st.sampled_from(("t1", "t2", "t3"))
MEMBERS = st.sampled_from(("ada", "bob"))
TITLES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
AGGREGATES = {"task": Task, "member": Member}


@dataclass
class TaskModel:
    """What a task must be."""

    title: str
    status: str = "todo"
    assignee: str | None = None
    previous: str | None = None
    places: set[str] = field(default_factory=set)
    due: str | None = None


@dataclass
class MemberModel:
    """What a member must be."""

    capacity: int
    reserved: list[str] = field(default_factory=list)
    left: bool = False


class LossyStore(MemoryEventStore):
    """A store that, when `lose` is set, takes the next append and reports an unknown outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.lose = False

    async def append(self, append: Append) -> Appended:
        appended = await super().append(append)
        if self.lose:
            self.lose = False
            raise OutcomeUnknown("the reply was lost")
        return appended


async def _protect(_tenant: str, _subject: str, fields: Any) -> dict[str, str]:
    return {name: f"token of {text}" for name, text in fields.items()}


class Aggregates(RuleBasedStateMachine):
    """Rules send commands and say what each must come to; invariants hold after every rule."""

    def __init__(self) -> None:
        super().__init__()
        self.store = LossyStore()
        self.tasks: dict[str, TaskModel] = {}
        self.members: dict[str, MemberModel] = {}
        self.versions: dict[str, int] = {}
        self.keyed: dict[str, tuple[str, dict[str, Any], tuple[str, int]]] = {}
        self.restart()

    @rule()
    def restart(self) -> None:
        """Continue with a new instance of the service, which knows only what the store has."""
        self.bus = CommandBus(self.store, REGISTRY, HANDLERS, source="fuzz", protect=_protect)

    def send(
        self, kind: str, key: str | None = None, user: str | None = None, **data: Any
    ) -> tuple[str, int]:
        request = CommandRequest(kind, data, CommandContext(user=user), idempotency_key=key)
        result = asyncio.run(self.bus.execute(request))
        return result.appended.stream.name, result.appended.version

    def expect(self, refused: str | None, kind: str, user: str | None = None, **data: Any) -> None:
        """Send a command and check that `refused` refuses it or, without one, that it makes one event."""
        became = None
        try:
            stream, version = self.send(kind, user=user, **data)
        except PermissionError:
            became = "forbidden"
        except RuleViolation as error:
            became = error.rule
        except NotFound:
            became = "not_found"
        else:
            assert version == self.versions.get(stream, 0) + 1
            self.versions[stream] = version
        assert became == refused, f"{kind} {data}"

    def _open(self, task: str) -> str | None:
        """Return why a command that needs an open task is refused, or None if the task is open."""
        model = self.tasks.get(task)
        if model is None or model.status == "deleted":
            return "not_found"
        return "task.already_completed" if model.status == "done" else None

    @rule(task=TASKS, title=TITLES, assignee=st.none() | MEMBERS)
    def create(self, task: str, title: str, assignee: str | None) -> None:
        refused = "task.exists" if task in self.tasks else None
        self.expect(refused, "task.create", id=task, title=title, assignee=assignee)
        if refused is None:
            self.tasks[task] = TaskModel(title, assignee=assignee)

    @rule(task=TASKS, title=TITLES)
    def update(self, task: str, title: str) -> None:
        refused = self._open(task)
        self.expect(refused, "task.update", id=task, title=title)
        if refused is None:
            self.tasks[task].title = title

    @rule(task=TASKS, assignee=MEMBERS, reserved=st.booleans())
    def assign(self, task: str, assignee: str, reserved: bool) -> None:
        refused = self._open(task)
        if refused is None and self.tasks[task].assignee == assignee:
            refused = "task.already_assigned"
        self.expect(refused, "task.assign", id=task, assignee=assignee, reserved=reserved)
        if refused is None:
            model = self.tasks[task]
            model.places &= {model.assignee, assignee} if reserved else {assignee}
            model.places |= {assignee} if reserved else set()
            model.assignee, model.previous = assignee, model.assignee

    @rule(task=TASKS)
    def unassign(self, task: str) -> None:
        refused = self._open(task)
        if refused is None and self.tasks[task].assignee is None:
            refused = "task.not_assigned"
        self.expect(refused, "task.unassign", id=task)
        if refused is None:
            model = self.tasks[task]
            model.places.clear()
            model.assignee, model.previous = None, model.assignee

    @rule(
        task=TASKS,
        assignee=MEMBERS,
        kind=st.sampled_from(("task.accept", "task.revert_assignment")),
        user=st.none() | MEMBERS,
    )
    def answer(self, task: str, assignee: str, kind: str, user: str | None) -> None:
        """End a hand-over: the assignee accepts the task, or it goes back to its previous assignee."""
        refused = self._open(task)
        if refused is None and self.tasks[task].assignee != assignee:
            refused = "task.assignee_changed"
        if kind == "task.accept" and user != assignee:
            refused = "forbidden"
        self.expect(refused, kind, user, id=task, assignee=assignee)
        if refused is None and kind == "task.revert_assignment":
            model = self.tasks[task]
            model.assignee, model.previous = model.previous, model.assignee

    @rule(task=TASKS)
    def complete(self, task: str) -> None:
        refused = self._open(task)
        self.expect(refused, "task.complete", id=task)
        if refused is None:
            self.tasks[task].status = "done"
            self.tasks[task].places.clear()

    @rule(task=TASKS)
    def reopen(self, task: str) -> None:
        model = self.tasks.get(task)
        there = model is not None and model.status != "deleted"
        refused = "not_found" if not there else "task.not_completed" if self._open(task) is None else None
        self.expect(refused, "task.reopen", id=task)
        if refused is None:
            self.tasks[task].status = "todo"

    @rule(task=TASKS)
    def delete(self, task: str) -> None:
        model = self.tasks.get(task)
        refused = "not_found" if model is None or model.status == "deleted" else None
        self.expect(refused, "task.delete", id=task)
        if refused is None:
            self.tasks[task].status = "deleted"

    @rule(task=TASKS, due=st.none() | st.sampled_from(("2030-01-01T09:00:00Z", "2031-05-05T00:00:00+02:00")))
    def set_due(self, task: str, due: str | None) -> None:
        refused = self._open(task)
        self.expect(refused, "task.set_due_date", id=task, due=due)
        if refused is None:
            self.tasks[task].due = due

    @rule(member=MEMBERS, capacity=st.integers(0, 3))
    def register(self, member: str, capacity: int) -> None:
        refused = "member.exists" if member in self.members else None
        self.expect(refused, "member.register", id=member, name=member, capacity=capacity)
        if refused is None:
            self.members[member] = MemberModel(capacity)

    @rule(member=MEMBERS, capacity=st.integers(0, 3))
    def set_capacity(self, member: str, capacity: int) -> None:
        refused = None if member in self.members else "not_found"
        self.expect(refused, "member.set_capacity", id=member, capacity=capacity)
        if refused is None:
            self.members[member].capacity = capacity

    @rule(member=MEMBERS, task=TASKS)
    def reserve(self, member: str, task: str) -> None:
        model = self.members.get(member)
        if model is None:
            refused: str | None = "not_found"
        elif model.left:
            refused = "member.left"
        elif task in model.reserved:
            refused = "member.already_reserved"
        else:
            refused = "member.capacity_exhausted" if len(model.reserved) >= model.capacity else None
        self.expect(refused, "member.reserve", id=member, task_id=task)
        if refused is None:
            self.members[member].reserved.append(task)

    @rule(member=MEMBERS, task=TASKS)
    def release(self, member: str, task: str) -> None:
        model = self.members.get(member)
        refused = "not_found" if model is None else None
        if model is not None and task not in model.reserved:
            refused = "member.not_reserved"
        self.expect(refused, "member.release", id=member, task_id=task)
        if refused is None:
            self.members[member].reserved.remove(task)

    @rule(member=MEMBERS)
    def leave(self, member: str) -> None:
        model = self.members.get(member)
        refused = "not_found" if model is None else "member.left" if model.left else None
        self.expect(refused, "member.leave", id=member, successors=["zoe"])
        if refused is None:
            self.members[member].left = True

    @rule(title=TITLES, key=st.sampled_from(("k1", "k2", "k3")), lost=st.booleans())
    def create_once(self, title: str, key: str, lost: bool) -> None:
        """Send a command with a key, whose reply may be lost; a repeat has the same outcome or is refused."""
        known = self.keyed.get(key)
        data = {"title": title}
        if known is None:
            self.store.lose = lost
            try:
                outcome = self.send("task.create", key, **data)
            except OutcomeUnknown:
                self.restart()
                outcome = self.send("task.create", key, **data)
            self.keyed[key] = ("task.create", data, outcome)
            stream, self.versions[stream] = outcome[0], outcome[1]
            self.tasks[stream.removeprefix("task-")] = TaskModel(title)
        elif known[1] == data:
            assert self.send("task.create", key, **data) == known[2]
        else:
            with pytest.raises(KeyReused):
                self.send("task.create", key, **data)

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), expected=st.integers(0, 9))
    def expect_a_version(self, data: st.DataObject, expected: int) -> None:
        """Check that a command for another version than the aggregate's is a conflict and changes nothing."""
        stream = data.draw(st.sampled_from(sorted(self.versions)))
        kind, _, name = stream.partition("-")
        if expected == self.versions[stream]:
            return
        command, fields = ("task.delete", {}) if kind == "task" else ("member.set_capacity", {"capacity": 1})
        request = CommandRequest(command, {"id": name, **fields}, expected_version=expected)
        with pytest.raises(ConflictError) as caught:
            asyncio.run(self.bus.execute(request))
        assert caught.value.actual == self.versions[stream]

    @invariant()
    def every_way_to_the_state_gives_the_same(self) -> None:
        """The head equals a fold of all events, and of any earlier state with the events after it."""
        asyncio.run(self._compare())

    async def _compare(self) -> None:
        for name, version in self.versions.items():
            stream = next(one for one in self.store._streams if one.name == name)
            head, _ = await self.store.load(stream)
            events = [event async for event in self.store.read_stream(stream)]
            assert head is not None
            assert head.version == version == len(events)
            states = [AGGREGATES[name.partition("-")[0]]()]
            previous = ""
            for event in events:
                states.append(states[-1].apply(REGISTRY.decode(event)))
                assert event.hash == chained(orjson.loads(event.to_json()), previous)
                previous = event.hash
            stored = type(states[0]).model_validate(head.state)
            assert stored == states[-1], "the head is what its events come to"
            for start, state in enumerate(states):  # a snapshot, read back, and the events after it
                snapshot = type(state).model_validate_json(state.model_dump_json())
                for event in events[start:]:
                    snapshot = snapshot.apply(REGISTRY.decode(event))
                assert snapshot == stored
            self._as_noted(name, stored)

    def _as_noted(self, name: str, state: Any) -> None:
        kind, _, one = name.partition("-")
        if kind == "task":
            task = self.tasks[one]
            assert (state.title, state.status, state.assignee, state.previous_assignee) == (
                task.title,
                task.status,
                task.assignee,
                task.previous,
            )
            assert (state.due is None) == (task.due is None)
            assert task.status == "deleted" or sorted(state.reserved) == sorted(task.places)
            assert len(state.reserved) <= 2, "the saga that frees them has as many steps"
        else:
            member = self.members[one]
            assert list(state.reserved) == member.reserved
            assert (state.capacity, state.left) == (member.capacity, member.left)
            assert len(set(state.reserved)) == len(state.reserved), "no task has two places"


TestAggregates = Aggregates.TestCase
TestAggregates.settings = DEPTH
