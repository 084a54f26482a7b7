"""A workflow engine that keeps its instances in memory and its timers on the clock.

It speaks the protocol of the SDK's worker, so the real WorkflowRuntime runs the real workflows on it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from dapr.ext.workflow._durabletask.internal import protos as pb

from annals.testing.fake.clock import Clock
from annals.testing.fake.tasks import Signal
from annals.testing.fake.workflow_state import Effects, Instance, event, text


class NoInstance(Exception):
    """There is no workflow with that id."""

    def __init__(self) -> None:
        super().__init__("no such instance exists")


class StillRunning(Exception):
    """The workflow has not ended."""

    def __init__(self) -> None:
        super().__init__("orchestration has not yet completed")


class Stalled(Exception):
    """The workflow waits for a worker that knows its version; until then nobody can change it."""

    def __init__(self) -> None:
        super().__init__("actor is stalled")


class AlreadyActive(Exception):
    """A workflow with that id exists and has not ended."""

    def __init__(self, instance: str) -> None:
        super().__init__(f"an active workflow with ID '{instance}' already exists")


class _Worker:
    def __init__(self) -> None:
        self.items: asyncio.Queue[pb.WorkItem] = asyncio.Queue()


class FakeWorkflows:
    """The workflows of all apps, and the work items that wait for workers or are out with them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instances: dict[str, Instance] = {}
        self._workers: dict[str, deque[_Worker]] = defaultdict(deque)
        self._waiting: dict[str, deque[pb.WorkItem]] = defaultdict(deque)
        self._out: dict[str, tuple[str, _Worker, pb.WorkItem]] = {}
        self._tokens = itertools.count(1)
        self._signal = Signal()
        clock.before_moving("the workflows", self.idle)

    async def idle(self) -> None:
        """Wait until no workflow and no activity runs, and none waits that a worker could run."""
        await self._signal.until(
            lambda: (
                not self._out
                and not any(self._waiting[app] and self._workers[app] for app in tuple(self._waiting))
            )
        )

    def find(self, instance: str) -> Instance:
        """Return a workflow. Raises NoInstance."""
        if instance not in self._instances:
            raise NoInstance
        return self._instances[instance]

    async def start(
        self, app_id: str, instance: str, name: str, given: str | None, at: datetime | None = None
    ) -> None:
        """Start a workflow, and wait until it has begun unless `at` is later. Raises AlreadyActive.

        A workflow with the same id that has ended is replaced, and its history is lost.
        """
        if instance in self._instances and not self._instances[instance].ended:
            raise AlreadyActive(instance)
        started = pb.ExecutionStartedEvent(
            name=name,
            input=None if given is None else text(given),
            workflowInstance=pb.WorkflowInstance(instanceId=instance),
        )
        begun = event(self._clock.now(), executionStarted=started)
        if at is not None and at > self._clock.now():
            self._instances[instance] = Instance(instance, app_id, begun, [])

            async def begin() -> None:
                self._tell(instance, begun)

            self._clock.call_at(at, begin)
            return
        self._begin(app_id, instance, begun)
        await self.begun(instance)

    async def begun(self, instance: str) -> Instance:
        """Wait until a workflow has begun, and return it. Raises NoInstance."""
        await self._signal.until(lambda: self.find(instance).status != pb.ORCHESTRATION_STATUS_PENDING)
        return self.find(instance)

    async def ended(self, instance: str) -> Instance:
        """Wait until a workflow has ended, and return it. Raises NoInstance."""
        await self._signal.until(lambda: self.find(instance).ended)
        return self.find(instance)

    def raise_event(self, instance: str, name: str, data: str | None) -> None:
        """Raise an event in a workflow. Raises NoInstance and Stalled."""
        self._able(instance)
        raised = pb.EventRaisedEvent(name=name, input=None if data is None else text(data))
        self._tell(instance, event(self._clock.now(), eventRaised=raised))

    def terminate(self, instance: str, output: str | None = None, *, recursive: bool = True) -> None:
        """End a workflow where it is, with its children if `recursive`. Raises NoInstance and Stalled.

        A stalled child ends when a worker takes it up again.
        """
        self._able(instance)
        self._terminate(instance, output, recursive=recursive)

    def _terminate(self, instance: str, output: str | None = None, *, recursive: bool = True) -> None:
        for child in self.find(instance).children if recursive else ():
            if child in self._instances and not self._instances[child].ended:
                self._terminate(child)
        ended = pb.ExecutionTerminatedEvent(input=None if output is None else text(output), recurse=recursive)
        self._tell(instance, event(self._clock.now(), executionTerminated=ended))

    def suspend(self, instance: str) -> None:
        """Suspend a workflow. Raises NoInstance and Stalled."""
        self._able(instance)
        self._tell(instance, event(self._clock.now(), executionSuspended=pb.ExecutionSuspendedEvent()))

    def resume(self, instance: str) -> None:
        """Resume a suspended workflow. Raises NoInstance and Stalled."""
        self._able(instance)
        self._tell(instance, event(self._clock.now(), executionResumed=pb.ExecutionResumedEvent()))

    def purge(self, instance: str, *, recursive: bool = True) -> int:
        """Delete an ended workflow, with its children if `recursive`, and return how many were deleted.

        Raises NoInstance, Stalled and StillRunning.
        """
        found = self._able(instance)
        if not found.ended:
            raise StillRunning
        children = [child for child in found.children if child in self._instances] if recursive else []
        del self._instances[instance]
        return 1 + sum(self.purge(child) for child in children)

    def _able(self, instance: str) -> Instance:
        if (found := self.find(instance)).stalled:
            raise Stalled
        return found

    async def work(self, app_id: str) -> AsyncIterator[pb.WorkItem]:
        """Connect a worker and yield its work items. When it leaves, other workers get what it left undone.

        A new worker may know the versions of stalled workflows, so these are decided on again.
        """
        worker = _Worker()
        self._workers[app_id].append(worker)
        for instance in self._instances.values():
            if instance.app_id == app_id and instance.stalled:
                instance.stalled = False
                self._decide(instance)
        self._hand_out(app_id)
        try:
            while True:
                yield await worker.items.get()
        finally:
            self._workers[app_id].remove(worker)
            for token, (owner, holder, item) in tuple(self._out.items()):
                if holder is worker:
                    del self._out[token]
                    self._waiting[owner].append(item)
            self._hand_out(app_id)

    def decided(self, response: pb.WorkflowResponse) -> None:
        """Take a worker's decision on how a workflow goes on."""
        if self._out.pop(response.completionToken, None) is None:
            return  # the worker's stream has ended since, and the item was put back for another
        instance = self._instances.get(response.instanceId)
        if instance is not None and instance.deciding:
            effects = instance.decide(response, self._clock.now())
            self._carry_out(instance, effects)
            if instance.inbox and not instance.ended and not instance.stalled:
                self._decide(instance)
        self._signal.notify()

    def performed(self, response: pb.ActivityResponse) -> None:
        """Take the result of an activity from a worker."""
        if self._out.pop(response.completionToken, None) is None:
            return
        now = self._clock.now()
        if response.HasField("failureDetails"):
            failed = pb.TaskFailedEvent(
                taskScheduledId=response.taskId, failureDetails=response.failureDetails
            )
            news = event(now, taskFailed=failed)
        else:
            completed = pb.TaskCompletedEvent(
                taskScheduledId=response.taskId,
                result=response.result if response.HasField("result") else None,
            )
            news = event(now, taskCompleted=completed)
        self._tell(response.instanceId, news)
        self._signal.notify()

    def _begin(self, app_id: str, instance: str, begun: pb.HistoryEvent) -> None:
        self._instances[instance] = Instance(instance, app_id, begun, [begun])
        self._decide(self._instances[instance])

    def _tell(self, instance: str, news: pb.HistoryEvent) -> None:
        found = self._instances.get(instance)
        if found is None or found.ended:
            return
        found.inbox.append(news)
        begun = found.history or found.start in found.inbox
        if begun and not found.deciding and not found.stalled:
            self._decide(found)

    def _decide(self, instance: Instance) -> None:
        news = instance.begin(self._clock.now())
        request = pb.WorkflowRequest(instanceId=instance.id, pastEvents=instance.history, newEvents=news)
        self._ask(instance.app_id, pb.WorkItem(workflowRequest=request))

    def _carry_out(self, instance: Instance, effects: Effects) -> None:
        for timer in effects.timers:
            self._set_timer(instance, timer)
        for task in effects.tasks:
            scheduled = task.taskScheduled
            request = pb.ActivityRequest(
                name=scheduled.name,
                input=scheduled.input if scheduled.HasField("input") else None,
                taskId=task.eventId,
                taskExecutionId=scheduled.taskExecutionId,
                workflowInstance=pb.WorkflowInstance(instanceId=instance.id),
            )
            self._ask(instance.app_id, pb.WorkItem(activityRequest=request))
        for target, news in effects.messages:
            there = self._instances.get(target)
            if news.HasField("executionStarted"):
                if there is None or there.ended:
                    self._begin(instance.app_id, target, news)
            else:
                self._tell(target, news)

    def _set_timer(self, instance: Instance, timer: pb.HistoryEvent) -> None:
        generation, instance_id = instance.generation, instance.id

        async def fire() -> None:
            found = self._instances.get(instance_id)
            if found is instance and found.generation == generation:
                fired = event(self._clock.now(), timerFired=timer.timerFired)
                self._tell(instance_id, fired)

        self._clock.call_at(timer.timerFired.fireAt.ToDatetime(tzinfo=UTC), fire)

    def _ask(self, app_id: str, item: pb.WorkItem) -> None:
        self._waiting[app_id].append(item)
        self._hand_out(app_id)

    def _hand_out(self, app_id: str) -> None:
        workers, waiting = self._workers[app_id], self._waiting[app_id]
        while workers and waiting:
            item = waiting.popleft()
            item.completionToken = str(next(self._tokens))
            self._out[item.completionToken] = (app_id, workers[0], item)
            workers[0].items.put_nowait(item)
            workers.rotate(-1)
        self._signal.notify()
