"""Tasks on Protean, with Message DB on PostgreSQL as its event store."""

import os
from typing import Any

from protean import Domain, apply, handle
from protean.fields import DateTime, Identifier, String
from protean.utils.globals import current_domain

domain = Domain(
    name="tasks",
    config={
        "event_store": {
            "provider": "message_db",
            "database_uri": os.environ["DATABASE"],
            "max_connections": 64,
        },
        "command_processing": "sync",
        "event_processing": "async",
    },
)


@domain.event(part_of="Task")
class TaskCreated:
    task_id: Identifier(required=True)
    title: String()
    due: DateTime()


@domain.event(part_of="Task")
class TaskAssigned:
    task_id: Identifier(required=True)
    assignee: String()


@domain.event(part_of="Task")
class TaskCompleted:
    task_id: Identifier(required=True)


@domain.command(part_of="Task")
class CreateTask:
    task_id: Identifier(identifier=True)
    title: String()
    due: DateTime()


@domain.command(part_of="Task")
class AssignTask:
    task_id: Identifier(identifier=True)
    assignee: String()


@domain.command(part_of="Task")
class CompleteTask:
    task_id: Identifier(identifier=True)


@domain.aggregate(event_sourced=True)
class Task:
    task_id: Identifier(identifier=True)
    title: String()
    due: DateTime()
    assignee: String()
    status: String(default="todo")

    @classmethod
    def create(cls, given: CreateTask) -> "Task":
        task = cls._create_new(task_id=given.task_id)
        task.raise_(TaskCreated(task_id=given.task_id, title=given.title, due=given.due))
        return task

    def assign(self, assignee: str) -> None:
        self._require_open()
        self.raise_(TaskAssigned(task_id=self.task_id, assignee=assignee))

    def complete(self) -> None:
        self._require_open()
        self.raise_(TaskCompleted(task_id=self.task_id))

    def _require_open(self) -> None:
        if self.status != "todo":
            raise ValueError("the task is completed")

    @apply
    def created(self, event: TaskCreated) -> None:
        self.task_id = event.task_id
        self.title = event.title
        self.due = event.due
        self.status = "todo"

    @apply
    def assigned(self, event: TaskAssigned) -> None:
        self.assignee = event.assignee

    @apply
    def completed(self, _event: TaskCompleted) -> None:
        self.status = "done"


@domain.command_handler(part_of=Task)
class TaskCommands:
    @handle(CreateTask)
    def create(self, command: CreateTask) -> None:
        current_domain.repository_for(Task).add(Task.create(command))

    @handle(AssignTask)
    def assign(self, command: AssignTask) -> None:
        repository = current_domain.repository_for(Task)
        task = repository.get(command.task_id)
        task.assign(command.assignee)
        repository.add(task)

    @handle(CompleteTask)
    def complete(self, command: CompleteTask) -> None:
        repository = current_domain.repository_for(Task)
        task = repository.get(command.task_id)
        task.complete()
        repository.add(task)


domain.init(traverse=False)


class Tasks:
    def create(self, given: dict[str, Any]) -> None:
        self._process(CreateTask, task_id=given["id"], title=given["title"], due=given["due"])

    def assign(self, given: dict[str, Any]) -> None:
        self._process(AssignTask, task_id=given["id"], assignee=given["assignee"])

    def complete(self, given: dict[str, Any]) -> None:
        self._process(CompleteTask, task_id=given["id"])

    def _process(self, command: Any, **fields: Any) -> None:
        with domain.domain_context():
            domain.process(command(**fields), asynchronous=False)
