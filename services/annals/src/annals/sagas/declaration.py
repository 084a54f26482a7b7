"""The declaration of a saga: its steps, their actions and their compensations. Pure.

Functions of the `SagaContext` are called again at each replay of the workflow. Their results must therefore
depend on the context alone: no clock, no random numbers, no I/O.
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
from annals.privacy.personal import personal_fields

CANCEL = "annals.cancel"
"""The workflow event that cancels a running saga."""

_COMMANDS_STEP = re.compile(r"(?!.*\|\|)[\x20-\x7e]{1,145}")
"""Matches the name of a step that sends a command. The name is part of the command's idempotency key, and no
service accepts a key of another shape."""


class SagaInput(BaseModel):
    """Base class of saga inputs. An input is validated at the start, and again at each turn of the workflow.

    Validators and defaults must therefore depend on the value alone, and not on a clock as `FutureDatetime`
    does. If an input is refused at a later turn, its saga stands still.
    """

    # Inputs are stored by field name, so a field with an alias must be accepted by its name, too.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


I = TypeVar("I", bound=SagaInput)  # noqa: E741 - the one letter for an input


@dataclass(frozen=True, slots=True)
class SagaContext(Generic[I]):
    """The argument of a declaration's functions. `results` maps each completed step to its result."""

    id: str
    tenant: str
    user: str | None
    input: I
    results: dict[str, Any]
    started: datetime


def _require_names(what: str, *given: tuple[str, ...]) -> None:
    """Raise ValueError for a string in place of a tuple, whose letters would be taken for names."""
    if any(isinstance(names, str) for names in given):
        raise ValueError(f"{what} takes a tuple of names, and was given {given}")


Given = Callable[[SagaContext[Any]], Any]
"""A function of the context."""


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Send a command by service invocation. The body of the reply, empty for a 204, is the step's result.

    `accept` names rules whose refusal counts as success, because the wanted state is already there. A
    missing aggregate counts as the rule `not_found`. `user` gives the user in whose name the command is
    sent; the default is the user who started the saga.
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
    """Query another service with a GET of `path`. The `fields` of its answer are the step's result.

    The result is kept in the saga's history, so list only the fields that are needed later.
    """

    path: Given
    fields: tuple[str, ...]
    app: str = "projector"

    def __post_init__(self) -> None:
        _require_names("fields", self.fields)


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """Publish an integration event. Its id is the same at each attempt."""

    type: str
    data: Given
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_event_type(self.type)
        _require_names("targets", self.targets)


@dataclass(frozen=True, slots=True)
class CallActivity:
    """Call a function of the orchestrator; see `annals.sagas.activities`.

    The function may be called more than once for one action, each time with the same key.
    """

    name: str
    input: Given


@dataclass(frozen=True, slots=True)
class AwaitEvent:
    """Wait until somebody raises an event. A refusal or a missed deadline fails the step.

    `deadline` gives how long to wait, as a timedelta. `by` gives the only user who may raise the events. If
    `by` looks at the saga's input alone, an answer may come before the step waits. If it looks at a step's
    result, an answer is refused until that result exists. Without `by`, or if it gives None, anybody who may
    call the orchestrator may answer. An event names no step: the step that waits takes it. So two steps must
    not share an event if they wait at the same time, or if one of them sets `by`.
    """

    events: tuple[str, ...]
    deadline: Given
    refusals: tuple[str, ...] = ()
    by: Given | None = None

    def __post_init__(self) -> None:
        _require_names("a wait", self.events, self.refusals)

    @property
    def names(self) -> tuple[str, ...]:
        """The events and the refusals."""
        return (*self.events, *self.refusals)


@dataclass(frozen=True, slots=True)
class StartSaga:
    """Run another saga and wait for its end. If that saga does not complete, the step fails."""

    saga: str
    input: Given


@dataclass(frozen=True, slots=True)
class StartSagas:
    """Run a saga for each input, `concurrency` at a time. Some may fail: the result counts them."""

    saga: str
    inputs: Callable[[SagaContext[Any]], Sequence[Mapping[str, Any]]]
    concurrency: int = 10

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"the concurrency of {self.saga} must be at least 1, not {self.concurrency}")


Action = SendCommand | AskQuery | PublishEvent | CallActivity


@dataclass(frozen=True, slots=True)
class Retry:
    """How often an action is retried. The wait before a retry is `first`, doubled each time, up to `cap`."""

    max_retries: int = 3
    first: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=30)

    def wait(self, attempt: int) -> timedelta:
        """Return how long to wait after a failed attempt. Attempts count from 1."""
        doublings: int = 2 ** min(attempt - 1, 30)
        return min(self.first * doublings, self.cap)


COMPENSATION_RETRY = Retry(max_retries=10)
"""The default for compensations. It lasts some minutes, because people must see to one that is given up."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a saga. It is skipped if `when` returns false; `timeout` limits a single attempt."""

    name: str
    action: Action | AwaitEvent | StartSaga | StartSagas
    compensation: Action | None = None
    retry: Retry = Retry()
    compensation_retry: Retry = COMPENSATION_RETRY
    timeout: timedelta = timedelta(seconds=30)
    when: Callable[[SagaContext[Any]], bool] | None = None


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that run at the same time. If one fails, the saga is compensated once the others are over."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True, slots=True)
class StartOn:
    """Start a saga when a domain event happens."""

    event_type: str
    input: Callable[[Mapping[str, Any], str], Mapping[str, Any] | None]
    """Takes the event's data and its aggregate's id; returns the saga's input, or None to start no saga.

    If it raises, or if the saga refuses the input, the event is parked.
    """

    def __post_init__(self) -> None:
        require_event_type(self.event_type)


@dataclass(frozen=True, slots=True)
class CancelOn:
    """Cancel the saga that runs for a business key when a domain event happens."""

    event_type: str
    business_key: Callable[[Mapping[str, Any], str], str | None]
    """Takes the event's data and its aggregate's id; returns the business key, or None to cancel no saga."""

    def __post_init__(self) -> None:
        require_event_type(self.event_type)


@dataclass(frozen=True, slots=True)
class Saga(Generic[I]):
    """The declaration of a saga. Only one saga of a type runs for a `business_key` at a time.

    A changed saga is a new `version`, declared beside the old one: a running saga goes on under the version
    that it was started with. Raises ValueError for step names that are not unique, or that no command can be
    sent under; for an event that could be meant for several waits, or that no request can raise; for a
    `CancelOn` without a `business_key`; and for an input with a field that is marked as personal.
    """

    type: str
    input: builtins.type[I]
    steps: tuple[Step | Parallel, ...]
    version: int = 1
    business_key: Callable[[I], str] | None = None
    output: Given | None = None
    triggers: tuple[StartOn | CancelOn, ...] = field(default=())

    def __post_init__(self) -> None:
        names = self.step_names
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.type}: a saga needs steps, with unique names: {names}")
        for step in self.flat():
            sends = isinstance(step.action, SendCommand) or isinstance(step.compensation, SendCommand)
            if sends and not _COMMANDS_STEP.fullmatch(step.name):
                shape = (
                    "a step that sends a command has a name of 1 to 145 printable ASCII characters without ||"
                )
                raise ValueError(f"{self.type}: {shape}: {step.name!r}")
        if self.business_key is None and any(isinstance(one, CancelOn) for one in self.triggers):
            raise ValueError(f"{self.type}: a CancelOn finds its saga by the business key: give it one")
        if marked := personal_fields(self.input):
            what = f"{', '.join(marked)} of {self.input.__name__} is marked as personal"
            raise ValueError(f"{self.type}: {what}, and an input is not encrypted: give it the subject's id")
        spelt: dict[str, str] = {}
        for event in (event for _, _, wait in self._waits() for event in wait.names):
            if not event or "/" in event:
                why = "the name is part of an address, so it is not empty and has no slash"
                raise ValueError(f"{self.type}: no request can raise the event {event!r}: {why}")
            if (same := spelt.setdefault(event.casefold(), event)) != event:
                both = f"{same} and {event} are the same event to Dapr, which ignores case"
                raise ValueError(f"{self.type}: {both}: give each another name")
        if (taken := spelt.get(CANCEL)) is not None:
            raise ValueError(f"{self.type}: {taken} is what cancels a saga: await an event of another name")
        for (place, name, wait), (other_place, other_name, other) in combinations(self._waits(), 2):
            shared = sorted({*wait.names} & {*other.names})
            if shared and (place == other_place or wait.by or other.by):
                both = f"{name} and {other_name} both wait for {shared}"
                raise ValueError(f"{self.type}: {both}: give each events of its own")

    @property
    def step_names(self) -> tuple[str, ...]:
        """The names of all steps, in order. A running saga that began with other names began as another."""
        return tuple(step.name for step in self.flat())

    def flat(self) -> Iterator[Step]:
        """Yield all steps, including those in `Parallel` blocks."""
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
