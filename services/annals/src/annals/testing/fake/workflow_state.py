"""The state of one workflow: its history, and how a worker's decisions change it.

The rules are those of durabletask-go, backend/runtimestate/applier.go and runtimestate.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dapr.ext.workflow._durabletask.internal import protos as pb
from google.protobuf import timestamp_pb2, wrappers_pb2

_ENDED = (
    pb.ORCHESTRATION_STATUS_COMPLETED,
    pb.ORCHESTRATION_STATUS_FAILED,
    pb.ORCHESTRATION_STATUS_TERMINATED,
)


def stamp(moment: datetime) -> Any:
    """Return a moment as a protobuf timestamp."""
    made = timestamp_pb2.Timestamp()  # type: ignore[attr-defined]
    made.FromDatetime(moment.astimezone(UTC))
    return made


def event(now: datetime, number: int = -1, **kind: Any) -> pb.HistoryEvent:
    """Return a history event with the event id `number`; `kind` is the one field that says what happened."""
    return pb.HistoryEvent(eventId=number, timestamp=stamp(now), **kind)


def text(value: str) -> Any:
    """Return a text as a protobuf StringValue, for fields whose text may be absent."""
    return wrappers_pb2.StringValue(value=value)  # type: ignore[attr-defined]


@dataclass(slots=True)
class Effects:
    """What a decision asks of the engine. `again` means that the workflow continues as new."""

    tasks: list[pb.HistoryEvent] = field(default_factory=list)
    timers: list[pb.HistoryEvent] = field(default_factory=list)
    messages: list[tuple[str, pb.HistoryEvent]] = field(default_factory=list)
    again: bool = False


@dataclass(slots=True)
class Instance:
    """A workflow: its history, the events in its `inbox`, and those that a worker is `deciding` on."""

    id: str
    app_id: str
    start: pb.HistoryEvent
    inbox: list[pb.HistoryEvent]
    history: list[pb.HistoryEvent] = field(default_factory=list)
    deciding: list[pb.HistoryEvent] = field(default_factory=list)
    completed: pb.ExecutionCompletedEvent | None = None
    completed_at: datetime | None = None
    updated: datetime | None = None
    suspended: bool = False
    stalled: bool = False
    custom_status: str | None = None
    generation: int = 0
    children: list[str] = field(default_factory=list)

    @property
    def status(self) -> pb.OrchestrationStatus.ValueType:
        """The status, as a value of Dapr's enumeration."""
        if self.stalled:
            return pb.ORCHESTRATION_STATUS_STALLED
        if not self.history:
            return pb.ORCHESTRATION_STATUS_PENDING
        if self.completed is not None:
            return self.completed.workflowStatus
        return pb.ORCHESTRATION_STATUS_SUSPENDED if self.suspended else pb.ORCHESTRATION_STATUS_RUNNING

    @property
    def ended(self) -> bool:
        """Whether the workflow completed, failed or was terminated."""
        return self.completed is not None and self.completed.workflowStatus in _ENDED

    def state(self) -> pb.WorkflowState:
        """Return the state as the sidecar reports it."""
        started = self.start.executionStarted
        state = pb.WorkflowState(
            instanceId=self.id,
            name=started.name,
            workflowStatus=self.status,
            createdTimestamp=self.start.timestamp,
            lastUpdatedTimestamp=stamp(self.updated) if self.updated else self.start.timestamp,
            input=started.input if started.HasField("input") else None,
            customStatus=None if self.custom_status is None else text(self.custom_status),
        )
        if self.completed is not None:
            if self.completed.HasField("result"):
                state.output.CopyFrom(self.completed.result)
            if self.completed.HasField("failureDetails"):
                state.failureDetails.CopyFrom(self.completed.failureDetails)
        if self.completed_at is not None:
            state.completedTimestamp.CopyFrom(stamp(self.completed_at))
        return state

    def begin(self, now: datetime) -> list[pb.HistoryEvent]:
        """Begin a decision and return its new events: one that tells the time, then the inbox."""
        started = event(now, workflowStarted=pb.WorkflowStartedEvent())
        self.deciding, self.inbox = [started, *self.inbox], []
        return self.deciding

    def abandon(self) -> None:
        """Put the events of a decision that was not made back into the inbox."""
        self.inbox = [*self.deciding[1:], *self.inbox]
        self.deciding = []

    def decide(self, response: pb.WorkflowResponse, now: datetime) -> Effects:
        """Apply a worker's decision to the history and return its effects.

        A worker that does not know the workflow's version, or knows other patches, stalls it instead.
        """
        patches, known = list(response.version.patches), self._patches()
        unknown = any(action.HasField("workflowVersionNotAvailable") for action in response.actions)
        if unknown or patches[: len(known)] != known:
            self.abandon()
            self.stalled = True
            return Effects()
        self.stalled = False
        if response.HasField("version"):
            version = self.deciding[0].workflowStarted.version
            version.CopyFrom(response.version)
            if patches:
                version.Clear()  # history keeps no name beside patches, and each patch only once
                version.patches.extend(patches[len(known) :])
        self.custom_status = response.customStatus.value if response.HasField("customStatus") else None
        self.history += self.deciding
        for news in self.deciding:
            if news.HasField("executionSuspended"):
                self.suspended = True
            elif news.HasField("executionResumed"):
                self.suspended = False
        self.deciding = []
        self.updated = now
        effects = Effects()
        for action in response.actions:
            self._apply(action, now, effects)
            if effects.again:
                break
        return effects

    def _patches(self) -> list[str]:
        """Return the patches that its worker has asked about so far (dapr, orchestrator/versioning.go)."""
        begun = [one.workflowStarted.version for one in self.history if one.HasField("workflowStarted")]
        return [patch for version in begun for patch in version.patches]

    def _apply(self, action: pb.WorkflowAction, now: datetime, effects: Effects) -> None:
        match action.WhichOneof("workflowActionType"):
            case "completeWorkflow":
                self._complete(action.id, action.completeWorkflow, now, effects)
            case "createTimer":
                timer = action.createTimer
                created = pb.TimerCreatedEvent(fireAt=timer.fireAt, name=timer.name)
                if (origin := timer.WhichOneof("origin")) is not None:
                    getattr(created, origin).CopyFrom(getattr(timer, origin))
                self.history.append(event(now, action.id, timerCreated=created))
                fired = pb.TimerFiredEvent(timerId=action.id, fireAt=timer.fireAt)
                effects.timers.append(event(now, timerFired=fired))
            case "scheduleTask":
                task = action.scheduleTask
                scheduled = pb.TaskScheduledEvent(
                    name=task.name,
                    input=task.input if task.HasField("input") else None,
                    taskExecutionId=task.taskExecutionId,
                )
                self.history.append(event(now, action.id, taskScheduled=scheduled))
                effects.tasks.append(self.history[-1])
            case "createChildWorkflow":
                self._start_child(action.id, action.createChildWorkflow, now, effects)
            case "sendEvent":
                sent = action.sendEvent
                raised = pb.EventRaisedEvent(name=sent.name, input=sent.data)
                effects.messages.append((sent.instance.instanceId, event(now, eventRaised=raised)))
            case "terminateWorkflow":
                ended = pb.ExecutionTerminatedEvent(recurse=action.terminateWorkflow.recurse)
                target = action.terminateWorkflow.instanceId
                effects.messages.append((target, event(now, executionTerminated=ended)))
            case other:
                raise NotImplementedError(f"the fake does not know the action {other} of a workflow")

    def _start_child(
        self, number: int, child: pb.CreateChildWorkflowAction, now: datetime, effects: Effects
    ) -> None:
        child_id = child.instanceId or f"{self.id}:{number:04x}"
        given = child.input if child.HasField("input") else None
        created = pb.ChildWorkflowInstanceCreatedEvent(instanceId=child_id, name=child.name, input=given)
        self.history.append(event(now, number, childWorkflowInstanceCreated=created))
        self.children.append(child_id)
        parent = pb.ParentInstanceInfo(
            taskScheduledId=number,
            name=text(self.start.executionStarted.name),
            workflowInstance=pb.WorkflowInstance(instanceId=self.id),
        )
        started = pb.ExecutionStartedEvent(
            name=child.name,
            input=given,
            workflowInstance=pb.WorkflowInstance(instanceId=child_id),
            parentInstance=parent,
        )
        effects.messages.append((child_id, event(now, executionStarted=started)))

    def _complete(
        self, number: int, done: pb.CompleteWorkflowAction, now: datetime, effects: Effects
    ) -> None:
        if done.workflowStatus == pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW:
            self._continue_as_new(done, now)
            effects.again = True
            return
        self.completed = pb.ExecutionCompletedEvent(
            workflowStatus=done.workflowStatus,
            result=done.result if done.HasField("result") else None,
            failureDetails=done.failureDetails if done.HasField("failureDetails") else None,
        )
        self.completed_at = now
        self.history.append(event(now, number, executionCompleted=self.completed))
        started = self.start.executionStarted
        if not started.HasField("parentInstance"):
            return
        task = started.parentInstance.taskScheduledId
        if done.workflowStatus == pb.ORCHESTRATION_STATUS_COMPLETED:
            completed = pb.ChildWorkflowInstanceCompletedEvent(
                taskScheduledId=task, result=self.completed.result if done.HasField("result") else None
            )
            news = event(now, childWorkflowInstanceCompleted=completed)
        else:
            failed = pb.ChildWorkflowInstanceFailedEvent(
                taskScheduledId=task, failureDetails=self.completed.failureDetails
            )
            news = event(now, childWorkflowInstanceFailed=failed)
        effects.messages.append((started.parentInstance.workflowInstance.instanceId, news))

    def _continue_as_new(self, done: pb.CompleteWorkflowAction, now: datetime) -> None:
        started = pb.ExecutionStartedEvent()
        started.CopyFrom(self.start.executionStarted)
        started.ClearField("input")
        if done.HasField("result"):
            started.input.CopyFrom(done.result)
        self.start = event(now, executionStarted=started)
        self.history = []
        self.inbox = [self.start, *done.carryoverEvents, *self.inbox]
        self.generation += 1
        self.children = []
