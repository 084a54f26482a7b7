"""Runs the branches of a saga: generators that yield the tasks they wait for. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from annals.sagas.tasks import AnyOf, Task, Workflow

Wanted = Task | AnyOf
Branch = Generator[Wanted, Any, Any]
"""Yields what it waits for. It is sent the result of a task, or None for `AnyOf`."""


def run_branch(branch: Branch, workflow: Workflow) -> Generator[Task, Any, Any]:
    """Run a branch on a workflow, which only knows tasks. Return what the branch returns."""
    try:
        wanted = next(branch)
        while True:
            if isinstance(wanted, AnyOf):
                if not wanted.is_complete:
                    yield workflow.any(wanted.tasks)
                wanted = branch.send(None)
                continue
            try:
                result = yield wanted
            except Exception as error:  # noqa: BLE001 - the branch handles it
                wanted = branch.throw(error)
            else:
                wanted = branch.send(result)
    except StopIteration as stop:
        return stop.value


def run_concurrently(branches: Sequence[Branch], limit: int, before_waiting: Callable[[], Branch]) -> Branch:
    """Run branches side by side, `limit` at a time. Return their results in the order of `branches`.

    `before_waiting` runs each time all running branches wait for one of several tasks, which may take days.
    """
    returned: list[Any] = [None] * len(branches)
    waiting = deque(enumerate(branches))
    running: dict[int, tuple[Branch, Wanted]] = {}

    def advance(index: int, branch: Branch, wanted: Wanted | None) -> None:
        try:
            wanted = next(branch) if wanted is None else _feed(branch, wanted)
            while wanted.is_complete:
                wanted = _feed(branch, wanted)
        except StopIteration as stop:
            returned[index] = stop.value
            running.pop(index, None)
        else:
            running[index] = (branch, wanted)

    while waiting or running:
        while waiting and len(running) < limit:
            index, branch = waiting.popleft()
            advance(index, branch, None)
        if not running:
            continue
        if all(isinstance(wanted, AnyOf) for _, wanted in running.values()):
            yield from before_waiting()
        tasks: dict[int, Task] = {}
        for _, wanted in running.values():
            for task in wanted.tasks if isinstance(wanted, AnyOf) else (wanted,):
                tasks[id(task)] = task
        yield AnyOf(tuple(tasks.values()))
        for index, (branch, wanted) in list(running.items()):
            if wanted.is_complete:
                advance(index, branch, wanted)
    return returned


def _feed(branch: Branch, completed: Wanted) -> Wanted:
    """Continue a branch with the result or error of what it waited for; return what it waits for next."""
    if isinstance(completed, AnyOf):
        return branch.send(None)
    try:
        result = completed.get_result()
    except Exception as error:  # noqa: BLE001 - the branch handles it
        return branch.throw(error)
    return branch.send(result)
