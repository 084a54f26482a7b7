"""What the engine asks of the workflow runtime: tasks, each of which completes at some time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol


class Task(Protocol):
    """A task that the engine has asked a workflow for. It completes at some time."""

    @property
    def is_complete(self) -> bool:
        """Whether the task has completed."""
        ...

    def get_result(self) -> Any:
        """Return the result of the completed task, or raise its error."""
        ...


class Workflow(Protocol):
    """The workflow runtime that the engine runs on."""

    @property
    def now(self) -> datetime:
        """The current time; a replay sees the same one."""
        ...

    @property
    def records_before_waiting(self) -> bool:
        """Whether transitions are recorded before parallel steps do nothing but wait.

        False for a workflow that an older release began: its history has no such activity.
        """
        ...

    @property
    def asks_at_the_deadline(self) -> bool:
        """Whether a wait whose deadline has passed looks for an answer in the saga's history.

        False for a workflow that an older release began, as for `records_before_waiting`.
        """
        ...

    def activity(self, name: str, call: Mapping[str, Any]) -> Task:
        """Call `SagaActivities.perform` or `.record`, or `ChildSagas.begin` or `.cancel`."""
        ...

    def child(self, start: Mapping[str, Any]) -> Task:
        """Run another saga. The result is what its engine returns."""
        ...

    def event(self, name: str) -> Task:
        """Wait for the next event of a name."""
        ...

    def raised(self, name: str) -> Task | None:
        """Return the next event of a name if it has been raised already, or else None.

        In a workflow that an older release began, this returns a wait for the event instead of None.
        """
        ...

    def timer(self, delay: timedelta) -> Task:
        """Complete after `delay`, with no result."""
        ...

    def any(self, tasks: Sequence[Task]) -> Task:
        """Complete as soon as one of several tasks completes."""
        ...


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A wait for the first of several tasks. Parallel branches may wait for the same task."""

    tasks: tuple[Task, ...]

    @property
    def is_complete(self) -> bool:
        """Whether one of the tasks has completed."""
        return any(task.is_complete for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Raised:
    """A completed task, for an event that was raised before this workflow began."""

    payload: Mapping[str, Any]
    is_complete: bool = True

    def get_result(self) -> Any:
        """Return the event's payload."""
        return self.payload
