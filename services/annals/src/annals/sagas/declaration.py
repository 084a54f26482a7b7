"""How a saga is declared: its steps, what each does, and how that is taken back. Pure.

Whatever is given as a function of the `SagaContext` is called again whenever the workflow is
replayed: it may look at the context and at nothing else (no clock, no random numbers, no I/O).
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from annals.events import require_event_type

_COMMANDS_STEP = re.compile(r"(?!.*\|\|)[\x20-\x7e]{1,145}")
"""It is in the idempotency key of the command, with the saga's id: no service takes another one."""


class SagaInput(BaseModel):
    """Base of what a saga is started with; it is validated when it is started, and again at each turn.

    So a validator, or a default, looks at the value and at nothing else: no clock, such as `FutureDatetime`
    has. A saga whose input is refused later stands still.
    """

    # By name, too, because it is stored by name.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


I = TypeVar("I", bound=SagaInput)  # noqa: E741 - the one letter for an input


@dataclass(frozen=True, slots=True)
class SagaContext(Generic[I]):
    """What a declaration's functions may look at. `results` has what each completed step gave."""

    id: str
    tenant: str
    user: str | None
    input: I
    results: dict[str, Any]
    started: datetime


def _require_names(what: str, *given: tuple[str, ...]) -> None:
    """A text where a tuple belongs is a comma that was forgotten: it would be taken letter by letter."""
    if any(isinstance(names, str) for names in given):
        raise ValueError(f"{what} takes a tuple of names, and was given {given}")


Given = Callable[[SagaContext[Any]], Any]
"""A function of the context."""


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Send a command by service invocation; its reply, a body or 204, is the step's result.

    `accept` names rules whose refusal is as good as success: what was wanted is so already. A
    missing aggregate is the rule `not_found`. `user` says in whose name it is sent, where that is
    not whoever started the saga.
    """

    type: str
    data: Given
    accept: tuple[str, ...] = ()
    app: str = "command"
    user: Given | None = None

    def __post_init__(self) -> None:
        _require_names("accept", self.accept)


@dataclass(frozen=True, slots=True)
class AskQuery:
    """Ask another service, by a GET of a path; `fields` of its answer are the step's result.

    A result is kept in the saga's history: what is not needed is best left out.
    """

    path: Given
    fields: tuple[str, ...]
    app: str = "projector"

    def __post_init__(self) -> None:
        _require_names("fields", self.fields)


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """Publish an integration event, under an id that is the same each time it is tried."""

    type: str
    data: Given
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_event_type(self.type)
        _require_names("targets", self.targets)


@dataclass(frozen=True, slots=True)
class CallActivity:
    """Call a function of the orchestrator; see `annals.sagas.activities`.

    It may be called more than once for one step, and is given a key that stays the same.
    """

    name: str
    input: Given


@dataclass(frozen=True, slots=True)
class AwaitEvent:
    """Wait until somebody raises one of some events. A refusal, or the deadline, fails the step.

    `by` is the user who alone may raise them. From the saga's input it is known at once, and an answer may
    come before the step waits; from a result, an answer is refused until that is there. Without it, or where
    it gives None, whoever may ask the orchestrator may. An event names no step; whichever step waits
    takes it. So steps that wait at the same time, or of which one sets `by`, must not share one.
    """

    events: tuple[str, ...]
    deadline: Given
    refusals: tuple[str, ...] = ()
    by: Given | None = None

    def __post_init__(self) -> None:
        _require_names("a wait", self.events, self.refusals)

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be raised."""
        return (*self.events, *self.refusals)


@dataclass(frozen=True, slots=True)
class StartSaga:
    """Run another saga and wait for its end; one that does not complete fails the step."""

    saga: str
    input: Given


@dataclass(frozen=True, slots=True)
class StartSagas:
    """Run a saga for each of many inputs, so many at a time. Some may fail: the result counts them."""

    saga: str
    inputs: Callable[[SagaContext[Any]], Sequence[Mapping[str, Any]]]
    concurrency: int = 10

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"none of {self.saga} would ever start {self.concurrency} at a time")


Action = SendCommand | AskQuery | PublishEvent | CallActivity


@dataclass(frozen=True, slots=True)
class Retry:
    """How often an action is tried again, and after what wait: `first`, doubled each time, to `cap`."""

    max_retries: int = 3
    first: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=30)

    def wait(self, attempt: int) -> timedelta:
        """How long to wait after a failed attempt, counted from 1."""
        doublings: int = 2 ** min(attempt - 1, 30)
        return min(self.first * doublings, self.cap)


COMPENSATION_RETRY = Retry(max_retries=10)
"""What is given up here is left to people: a compensation is tried for some minutes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `when` says whether it is needed at all; `timeout` is that of one attempt."""

    name: str
    action: Action | AwaitEvent | StartSaga | StartSagas
    compensation: Action | None = None
    retry: Retry = Retry()
    compensation_retry: Retry = COMPENSATION_RETRY
    timeout: timedelta = timedelta(seconds=30)
    when: Callable[[SagaContext[Any]], bool] | None = None


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that run at the same time. When one fails the others are waited for, then all is undone."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True, slots=True)
class StartOn:
    """Start a saga when a domain event is published; None from `input` is a no."""

    event_type: str
    input: Callable[[Mapping[str, Any], str], Mapping[str, Any] | None]
    """Takes the event's data and its aggregate's id."""

    def __post_init__(self) -> None:
        require_event_type(self.event_type)


@dataclass(frozen=True, slots=True)
class CancelOn:
    """Cancel the saga that runs for a business key when a domain event is published. It must have one."""

    event_type: str
    business_key: Callable[[Mapping[str, Any], str], str | None]
    """Takes the event's data and its aggregate's id."""

    def __post_init__(self) -> None:
        require_event_type(self.event_type)


@dataclass(frozen=True, slots=True)
class Saga(Generic[I]):
    """A saga. Of one `business_key` no two run at the same time.

    A changed saga is a new `version`, declared beside the old one: what runs goes on under the
    version it was started with. Raises ValueError for step names that are not unique, or under which no
    command can be sent, for an event of which nobody could say whose it is, and for what cancels nothing.
    """

    type: str
    input: builtins.type[I]
    steps: tuple[Step | Parallel, ...]
    version: int = 1
    business_key: Callable[[I], str] | None = None
    output: Given | None = None
    triggers: tuple[StartOn | CancelOn, ...] = field(default=())

    def __post_init__(self) -> None:
        names = [step.name for step in self.flat()]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.type}: step names must be unique, and there must be one: {names}")
        for step in self.flat():
            sends = isinstance(step.action, SendCommand) or isinstance(step.compensation, SendCommand)
            if sends and not _COMMANDS_STEP.fullmatch(step.name):
                shape = (
                    "a step that sends a command has a name of 1 to 145 printable ASCII characters without ||"
                )
                raise ValueError(f"{self.type}: {shape}: {step.name!r}")
        if self.business_key is None and any(isinstance(one, CancelOn) for one in self.triggers):
            raise ValueError(
                f"{self.type}: what a CancelOn cancels is found by its business key: give it one"
            )
        spelt: dict[str, str] = {}
        for event in (event for _, _, wait in self._waits() for event in wait.names):
            if (same := spelt.setdefault(event.casefold(), event)) != event:
                both = f"{same} and {event} are one event to Dapr, which does not look at case"
                raise ValueError(f"{self.type}: {both}: give each another name")
        for (place, name, wait), (other_place, other_name, other) in combinations(self._waits(), 2):
            shared = sorted({*wait.names} & {*other.names})
            if shared and (place == other_place or wait.by or other.by):
                both = f"{name} and {other_name} both wait for {shared}"
                raise ValueError(f"{self.type}: {both}: give each events of its own")

    def flat(self) -> Iterator[Step]:
        """All steps, those in parallel too."""
        for _, step in self._placed():
            yield step

    def _placed(self) -> Iterator[tuple[int, Step]]:
        for place, block in enumerate(self.steps):
            for step in block.steps if isinstance(block, Parallel) else (block,):
                yield place, step

    def _waits(self) -> Iterator[tuple[int, str, AwaitEvent]]:
        for place, step in self._placed():
            if isinstance(step.action, AwaitEvent):
                yield place, step.name, step.action


class SagaCatalog:
    """The sagas of an orchestrator.

    Raises ValueError when one is declared twice, and when one starts another that is not here.
    """

    def __init__(self, *sagas: Saga[Any]) -> None:
        self._versions: dict[str, dict[int, Saga[Any]]] = {}
        for saga in sagas:
            versions = self._versions.setdefault(saga.type, {})
            if saga.version in versions:
                raise ValueError(f"version {saga.version} of {saga.type} is declared twice")
            versions[saga.version] = saga
        for saga in sagas:
            for step in saga.flat():
                if isinstance(step.action, StartSaga | StartSagas) and step.action.saga not in self._versions:
                    raise ValueError(f"{saga.type}: {step.name} starts {step.action.saga}, which is not here")

    @property
    def types(self) -> list[str]:
        """What sagas there are."""
        return sorted(self._versions)

    def all(self) -> list[Saga[Any]]:
        """Every version of every saga."""
        return [saga for versions in self._versions.values() for saga in versions.values()]

    def newest(self, saga_type: str) -> Saga[Any]:
        """The version that is started. Raises KeyError."""
        versions = self._versions[saga_type]
        return versions[max(versions)]

    def get(self, saga_type: str, version: int) -> Saga[Any]:
        """One version. Raises KeyError."""
        return self._versions[saga_type][version]

    def find(self, saga_type: str, version: int) -> Saga[Any] | None:
        """One version, if it is here."""
        return self._versions.get(saga_type, {}).get(version)
