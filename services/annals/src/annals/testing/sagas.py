"""Given / when / then tests for sagas, without a sidecar and on a virtual clock.

```python
run = (
    scenario(TASK_HANDOVER, {"task_id": "t1", "assignee": "ada"})
    .when("member.reserve", rejected("member.capacity_exhausted"))
    .run()
)
run.then("compensated").then_did("member.reserve")
```

A scenario drives the real engine. A virtual workflow stands in for Dapr Workflow, and the declared replies
stand in for other services.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self

from pydantic_core import to_jsonable_python

from annals.aggregates import RuleViolation
from annals.events import EventData, IntegrationEvent, to_cloudevent_json
from annals.sagas import engine
from annals.sagas.declaration import CANCEL, Saga
from annals.sagas.events import (
    REGISTRY,
    SagaStarted,
    StepCompleted,
    StepFailed,
    StepStarted,
    require_recordable,
)
from annals.sagas.events import SagaError as Error
from annals.sagas.start import answerer, entry, start_of, waits
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.step_state import StepStatus
from annals.testing.aggregates import stored
from annals.testing.virtual_workflow import VirtualWorkflow, as_sent

_START = datetime(2030, 1, 1, 9, tzinfo=UTC)
_POSITION = {"position": "0-1"}


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one request of a saga, and how long it takes."""

    outcome: str = "done"
    result: Any = field(default_factory=_POSITION.copy)
    message: str = ""
    rule: str | None = None
    uncertain: bool = False
    takes: timedelta = timedelta(0)


def done(result: Any = _POSITION, *, takes: timedelta = timedelta(0)) -> Reply:
    """Reply with success. The default result is what the command service answers; `result` may be None."""
    return Reply(result=result, takes=takes)


def rejected(rule: str) -> Reply:
    """Reply that a rule refuses the request, which the saga therefore does not try again."""
    return Reply("rejected", message=rule, rule=rule)


def failed(message: str = "it failed") -> Reply:
    """Reply that this try failed and changed nothing. The saga may try again."""
    return Reply("failed", message=message)


def timed_out() -> Reply:
    """Reply that no answer came, so that the request may have taken effect."""
    return Reply("failed", message="no answer", uncertain=True)


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a run.

    `did` names what the saga asked others for, in order; a compensation starts with `undo `. `calls` holds
    the requests themselves.
    """

    state: SagaState
    did: tuple[str, ...]
    calls: tuple[Mapping[str, Any], ...]
    took: timedelta

    def then(self, status: str, *, left: tuple[str, ...] = (), reason: str | None = None) -> Self:
        """Assert how the saga ended.

        `left` names the steps that are left to compensate. `reason` is a part of the saga's reason.
        """
        if self.state.status != status or self.state.left != left:
            raise AssertionError(
                f"the saga is {self.state.status} with {self.state.left} left, reason: {self.state.reason}"
            )
        if reason is not None and reason not in (self.state.reason or ""):
            raise AssertionError(f"the reason is {self.state.reason!r}")
        return self

    def then_did(self, *names: str) -> Self:
        """Assert that the saga asked others for exactly these things, in this order."""
        if self.did != names:
            raise AssertionError(f"the saga did {self.did}, not {names}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Event:
    """An event that somebody raises, or a request to cancel the saga, with the reason as `data`."""

    after: timedelta
    name: str
    data: Any
    by: str | None = None


@dataclass(slots=True)
class Scenario:
    """A saga, its input, and how the world answers it; see `scenario`."""

    saga: Saga[Any]
    given: Mapping[str, Any]
    _replies: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    _events: list[_Event] = field(default_factory=list)

    def when(self, name: str, *replies: Reply) -> Self:
        """Declare the replies to the command, query, integration event, function or saga called `name`.

        Each request takes the next reply, and the last reply answers all further requests. `undo NAME` is
        the name of a compensation, and a query's name is its path without parameters. A request without
        replies succeeds at once. A reply that takes longer than its step's timeout becomes a timeout. A
        query's answer is reduced to the fields that the saga asks for.
        """
        self._replies[name] += replies
        return self

    def raised(
        self, event: str, *, after: timedelta = timedelta(0), data: Any = None, by: str | None = None
    ) -> Self:
        """Raise an event `after` the start, as the user `by`, or as a user who may raise it.

        `data` is converted to JSON. Raises ValueError if that fails. The run raises AssertionError if the
        event is refused while the saga has not ended.
        """
        self._events.append(_Event(after, event, to_jsonable_python(data), by))
        return self

    def cancelled(self, *, after: timedelta = timedelta(0), reason: str = "cancelled") -> Self:
        """Cancel the saga `after` the start."""
        self._events.append(_Event(after, CANCEL, reason))
        return self

    def run(self) -> Ran:
        """Run the saga twice, compare what it asked for, and return the first run.

        Raises AssertionError if the runs differ: Dapr replays a workflow after a restart, so a declaration
        that is not deterministic breaks in production.
        """
        first, workflow = self._run()
        _, replayed = self._run()
        both = itertools.zip_longest(workflow.asked, replayed.asked)
        for number, (one, other) in enumerate(both, start=1):
            if one != other:
                raise AssertionError(f"not deterministic: request {number} was {one!r}, replayed {other!r}")
        return first

    def restarted(self) -> list[Ran]:
        """Return one run for each moment at which the workflow may be lost and another takes over.

        An action that took effect before and is asked for again under its key is in `did` only once, unless
        the saga's history already has it as completed. When the second workflow has ended, the lost one
        continues. Raises AssertionError if the lost one then does more than end.
        """
        _, workflow = self._run()
        return [self._run(lost_at=moment)[0] for moment in range(workflow.moments)]

    def _run(self, lost_at: int | None = None) -> tuple[Ran, VirtualWorkflow]:
        world = _World(self.saga, self.given, self._replies)
        workflow = self._workflow(world, _START)
        running = engine.run(self.saga, workflow, world.start())
        workflow.drive(running, lost_at)
        if lost_at is not None and not world.state.status.ended:
            world.restart()
            lost, workflow = workflow, self._workflow(world, workflow.now)
            workflow.drive(engine.run(self.saga, workflow, world.start()))
            done = (world.state, len(world.did))
            if lost.drive(running)["status"] != "ended" or (world.state, len(world.did)) != done:
                raise AssertionError("a workflow that was replaced did more than end")
        ran = Ran(world.state, tuple(world.did), tuple(world.calls), workflow.now - _START)
        if not ran.state.status.ended:
            raise AssertionError(f"the workflow has ended, but the saga is {ran.state.status}")
        return ran, workflow

    def _workflow(self, world: _World, now: datetime) -> VirtualWorkflow:
        """Return a workflow with the scenario's events that have not happened yet on its agenda."""
        workflow = world.clock = VirtualWorkflow(world.answer, now)
        for event in self._events:
            if event not in world.happened:
                workflow.at(_START + event.after, partial(world.happen, event))
        return workflow


class _World:
    """Stands in for the activities: it keeps the saga's state and answers with the scenario's replies."""

    def __init__(
        self, saga: Saga[Any], given: Mapping[str, Any], replies: Mapping[str, Sequence[Reply]]
    ) -> None:
        validated = saga.input.model_validate(given)
        started = SagaStarted(
            started_at=_START,
            user="somebody",
            saga_type=saga.type,
            saga_version=saga.version,
            business_key=saga.business_key(validated) if saga.business_key else None,
            input=validated.model_dump(mode="json"),
            steps=saga.step_names,
        )
        self.state = SagaState().apply(stored(started))
        self.did: list[str] = []
        self.calls: list[Mapping[str, Any]] = []
        self.happened: list[_Event] = []
        self._saga = saga
        self.clock = VirtualWorkflow(self.answer, _START)
        self._replies = {name: deque(given) for name, given in replies.items()}
        self._effects: dict[tuple[str, bool], Reply] = {}
        self._children: dict[str, tuple[datetime, dict[str, Any]] | None] = {}

    def start(self) -> dict[str, Any]:
        start: dict[str, Any] = as_sent(start_of("saga-under-test", "default", self.state))
        return start

    def restart(self) -> None:
        """Let another workflow take over: requests of the lost one have no effect from now on."""
        self._tell(self.state.restart(self.state.run + 1, "it stood still"))

    def happen(self, event: _Event) -> None:
        self.happened.append(event)
        if self.state.status.ended:
            return
        if event.name == CANCEL:
            self._tell(self.state.cancel(event.data))
            self.clock.raise_event(event.name, {"reason": self.state.cancel_reason})
            return
        declared = waits(self._saga)
        try:
            self.state.require_raisable(event.name, declared, self.clock.now)
            allowed = self._answerer(event.name)
            user = event.by or allowed or "somebody"
            if allowed is not None and user != allowed:
                raise AssertionError(f"{event.name} is refused: only {allowed} may answer this, not {user}")
            self._tell(self.state.raise_event(event.name, event.data, user, declared, self.clock.now))
        except RuleViolation as error:
            raise AssertionError(f"{event.name} is refused: {error}") from error
        mine = (event.name, event.data, user)
        [raised] = [one for one in self.state.raised if (one.event, one.data, one.user) == mine]
        self.clock.raise_event(event.name, raised.model_dump())

    def _answerer(self, event: str) -> str | None:
        """Return the user who alone may raise `event`; None if anybody may.

        Raises RuleViolation if that depends on a result that the saga does not have yet.
        """
        try:
            return answerer(self._saga, event, self.start())
        except KeyError as error:
            if event in self.state.waits_for:
                raise
            raise RuleViolation("saga.not_waiting", f"nobody can say yet who may raise {event}") from error

    def answer(self, name: str, call: Mapping[str, Any]) -> tuple[Any, timedelta]:
        match name:
            case "record":
                self._record(call["entries"], call["run"])
                over = self.state.terminated or self.state.run != call["run"]
                raised = self.state.answer_to(call["deadline_of"]) if "deadline_of" in call else None
                answer = raised.model_dump() if raised else None
                return {"over": over, "cancel": self.state.cancel_reason, "answer": answer}, timedelta(0)
            case "begin_child":
                return self._begin_child(call), timedelta(0)
            case "child" if call["run"] != self.state.run:
                return {"status": "ended"}, timedelta(0)
            case "child":
                ends_at, ended = self._children[call["id"]] or self._child(call)
                self._children[call["id"]] = ends_at, ended
                return ended, ends_at - self.clock.now
            case "perform":
                return self._perform(call)
        return {}, timedelta(0)

    def _begin_child(self, call: Mapping[str, Any]) -> dict[str, Any]:
        known = call["child"] in self._children
        if not known and (call["cancelled"] or self.state.status.ended):
            return {"refused": "cancelled", "start": None}
        begun = self._children.setdefault(call["child"], None)
        if begun is not None and begun[0] <= self.clock.now:
            return {"refused": None, "start": None, **begun[1]}
        start = {"id": call["child"], "type": call["type"], "input": call["input"], "run": call["run"]}
        return {"refused": None, "start": start}

    def _child(self, call: Mapping[str, Any]) -> tuple[datetime, dict[str, Any]]:
        reply = self._reply(call["type"], {"type": call["type"], "input": call["input"]})
        status = {"done": "completed"}.get(reply.outcome, "compensated")
        return self.clock.now + reply.takes, {"status": status, "reason": reply.message or None}

    def _perform(self, call: Mapping[str, Any]) -> tuple[Any, timedelta]:
        step, attempt, undo = call["step"], call["attempt"], call["undo"]
        begun = entry(StepStarted(step=step, attempt=attempt, compensation=undo))
        known = self.state.step(step)
        self._record([*call["before"], begun], call["run"])
        moved_on = self.state.status is SagaStatus.COMPENSATING and not undo
        if self.state.run != call["run"] or self.state.status.ended or moved_on:
            return {"outcome": "ended"}, timedelta(0)
        action = call["call"]
        name = action.get("type") or action.get("name") or action["path"].partition("?")[0]
        told = known.status is (StepStatus.COMPENSATED if undo else StepStatus.COMPLETED)
        reply = None if told else self._effects.get((step, undo))
        reply = reply or self._tried(f"undo {name}" if undo else name, call)
        timeout = timedelta(seconds=call["timeout"])
        if reply.takes > timeout:
            reply = replace(timed_out(), takes=timeout)
        if reply.outcome == "done":
            self._effects[step, undo] = reply
            result = reply.result
            if call["then"]:
                completed = StepCompleted(step=step, attempt=attempt, result=result)
                self._record([entry(completed), *call["then"]], call["run"])
            done = {"outcome": "done", "result": result, "at": self.clock.now.isoformat()}
            return done | {"cancel": self.state.cancel_reason}, reply.takes
        event = StepFailed(
            step=step,
            attempt=attempt,
            error=Error(kind=reply.outcome, message=reply.message, rule=reply.rule),
            final=reply.outcome == "rejected" or call["final"],
            uncertain=reply.uncertain,
            compensation=undo,
        )
        self._record([entry(event)], call["run"])
        answer = {"outcome": reply.outcome, "message": reply.message, "uncertain": reply.uncertain}
        return answer | {"cancel": self.state.cancel_reason}, reply.takes

    def _tried(self, name: str, call: Mapping[str, Any]) -> Reply:
        """Return the reply to an action, after the checks that the real activity makes."""
        action = call["call"]
        if action["kind"] == "publish":
            try:
                event = IntegrationEvent(event_type=action["type"], source="test", data=action["data"])
                to_cloudevent_json(event)
            except ValueError as error:
                return Reply("rejected", message=f"this is no event to publish: {error}")
        reply = self._reply(name, action)
        if reply.outcome != "done":
            return reply
        try:
            result = to_jsonable_python(reply.result)
            if action["kind"] == "query":
                result = {name: (result or {}).get(name) for name in action["fields"]}
            if not call["undo"]:
                require_recordable(call["step"], result)
        except ValueError as error:
            return Reply("rejected", message=str(error), uncertain=True, takes=reply.takes)
        return replace(reply, result=result)

    def _reply(self, name: str, action: Mapping[str, Any]) -> Reply:
        self.did.append(name)
        self.calls.append(action)
        waiting = self._replies.get(name)
        if not waiting:
            return Reply()
        reply = waiting.popleft() if len(waiting) > 1 else waiting[0]
        if reply.rule is not None and reply.rule in action.get("accept", ()):
            return Reply(result={"accepted": reply.rule})
        return reply

    def _record(self, entries: Sequence[Mapping[str, Any]], run: int) -> None:
        for one in entries if run == self.state.run else ():
            event = REGISTRY.classes[one["type"]].model_validate(one["data"])
            self._tell(self.state.record(event))

    def _tell(self, news: Sequence[EventData]) -> None:
        for event in news:
            # Unlike an aggregate's, the state is not read back from JSON: it has no limits beyond those of
            # its events.
            self.state = self.state.apply(stored(event))


def scenario(saga: Saga[Any], given: Mapping[str, Any]) -> Scenario:
    """Return a scenario of `saga` with the input `given`. Declare how the world answers, then call `run`."""
    return Scenario(saga, given)
