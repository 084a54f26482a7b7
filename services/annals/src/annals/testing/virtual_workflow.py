"""A stand-in for Dapr Workflow, on which the engine of sagas runs in tests, on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dapr.ext.workflow._durabletask.internal.shared import from_json, to_json

from annals.sagas.tasks import Task

_MOST_REQUESTS = 10_000


class _Task:
    def __init__(self) -> None:
        self.is_complete = False
        self.result: Any = None
        self.parent: _Task | None = None

    def get_result(self) -> Any:
        return self.result

    def complete(self, result: Any) -> None:
        if not self.is_complete:
            self.is_complete = True
            self.result = result
            if self.parent is not None:
                self.parent.complete(self)


class VirtualWorkflow:
    """An `annals.sagas.tasks.Workflow` whose tasks complete on a virtual clock.

    `answer` returns the answer to a call, and how long it takes. `asked` holds all that was asked for, and
    `moments` counts what has happened. Requests, answers and events pass through the SDK's JSON, as on Dapr
    Workflow.
    """

    records_before_waiting = True
    asks_at_the_deadline = True

    def __init__(
        self, answer: Callable[[str, Mapping[str, Any]], tuple[Any, timedelta]], now: datetime
    ) -> None:
        self.now = now
        self.moments = 0
        self.asked: list[str] = []
        self._answer = answer
        self._wanted: Task | None = None
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._raised: dict[str, deque[Any]] = defaultdict(deque)
        self._waiting: dict[str, deque[_Task]] = defaultdict(deque)

    def activity(self, name: str, call: Mapping[str, Any]) -> _Task:
        return self._ask(name, call)

    def child(self, start: Mapping[str, Any]) -> _Task:
        return self._ask("child", start)

    def timer(self, delay: timedelta) -> _Task:
        self._note("timer", delay.total_seconds())
        task = _Task()
        self.at(self.now + delay, lambda: task.complete(None))
        return task

    def event(self, name: str) -> _Task:
        self._note("event", name)
        task = _Task()
        if self._raised[name]:
            task.complete(self._raised[name].popleft())
        else:
            self._waiting[name].append(task)
        return task

    def raised(self, name: str) -> _Task | None:
        return self.event(name) if self._raised[name] else None

    def any(self, tasks: Sequence[Task]) -> _Task:
        first = _Task()
        for task in tasks:
            if not isinstance(task, _Task):
                raise TypeError("a task of another workflow")
            if task.is_complete:
                first.complete(task)
                continue
            if task.parent is not None and not task.parent.is_complete:
                raise ValueError("this task is waited for already: Dapr Workflow would refuse it")
            task.parent = first
        return first

    def at(self, moment: datetime, what: Callable[[], None]) -> None:
        """Run `what` when the clock reaches `moment`."""
        heapq.heappush(self._agenda, (moment, next(self._order), what))

    def raise_event(self, name: str, payload: Any) -> None:
        """Raise an event, for the task that waits for it first, or for a later one."""
        payload = as_sent(payload)
        if self._waiting[name]:
            self._waiting[name].popleft().complete(payload)
        else:
            self._raised[name].append(payload)

    def drive(self, generator: Generator[Task, Any, dict[str, Any]], moments: int | None = None) -> Any:
        """Run to the end and return the generator's result, or None once `moments` things have happened."""
        try:
            task = self._wanted = self._wanted or next(generator)
            while True:
                while not task.is_complete:
                    if not self._agenda:
                        raise AssertionError("the saga waits for something that never happens")
                    if self.moments == moments:
                        return None
                    self.moments += 1
                    self.now, _, what = heapq.heappop(self._agenda)
                    what()
                task = self._wanted = generator.send(task.get_result())
        except StopIteration as stop:
            return as_sent(stop.value)

    def _ask(self, name: str, call: Mapping[str, Any]) -> _Task:
        call = as_sent(call)
        self._note(name, call)
        task = _Task()

        def begin() -> None:
            answer, takes = self._answer(name, call)
            result = as_sent(answer)
            self.at(self.now + takes, lambda: task.complete(result))

        self.at(self.now, begin)
        return task

    def _note(self, kind: str, what: object) -> None:
        self.asked.append(json.dumps([kind, what], sort_keys=True))
        if len(self.asked) > _MOST_REQUESTS:
            raise AssertionError("the saga does not come to an end")


def as_sent(value: Any) -> Any:
    """Return `value` as it arrives after the SDK has encoded and decoded it."""
    return from_json(to_json(value))
