"""Small sagas, and a service that answers their commands, for tests that run sagas on workflows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from annals.dapr.invocation import Answer
from annals.sagas import AwaitEvent, Parallel, Saga, SagaInput, SendCommand, StartSaga, StartSagas, Step
from annals.sagas.history import SagaKey
from annals.sagas.start import child_id

KEY = SagaKey("p", "default", "ada")


class Numbered(SagaInput):
    n: int = 0


def command(name: str, **step: Any) -> Step:
    """A step that sends a command, with a compensation that sends `NAME_back`."""
    undo = SendCommand(f"{name}_back", lambda _: {})
    return Step(name, SendCommand(name, lambda _: {}), compensation=undo, **step)


def answered(name: str, *, days: int = 30) -> Step:
    """A step that waits for the event `yes-NAME` or `no-NAME`."""
    deadline = timedelta(days=days)
    return Step(name, AwaitEvent((f"yes-{name}",), lambda _: deadline, refusals=(f"no-{name}",)))


def beside(*steps: Step) -> Saga[Numbered]:
    """A saga that runs steps in parallel, and then sends the command `b`."""
    return Saga("test", Numbered, (Parallel(*steps), command("b")))


WAIT = Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1)))
CHILD = Saga("child", Numbered, (WAIT,))
ONE = Saga("parent", Numbered, (Step("all", StartSaga("child", lambda _: {})),))
MANY = Saga(
    "parent",
    Numbered,
    (Step("all", StartSagas("child", lambda _: [{"n": n} for n in range(4)], concurrency=2)),),
    output=lambda saga: saga.results["all"],
)
CHILDREN = [SagaKey(child_id("p", "all", index), "default", "ada") for index in range(4)]
"""The children that `MANY` starts under `KEY`; the first is the child of `ONE`."""


class Answering:
    """Answers every command with success, and keeps their names in `did`. Awaits `first` before the first."""

    def __init__(self, first: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.did: list[str] = []
        self._first = first

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        if self._first is not None and not self.did:
            await self._first()
        self.did.append(path.removeprefix("commands/"))
        return Answer(200, {})
