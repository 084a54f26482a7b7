"""Runs the engine on Dapr Workflow. Each saga type is a workflow with the versions of the saga."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dapr.ext.workflow import (
    DaprWorkflowContext,
    WorkflowActivityContext,
    WorkflowRuntime,
    when_any,
)
from dapr.ext.workflow._durabletask.worker import VersionNotRegisteredException
from dapr.ext.workflow.logger import LoggerOptions

from annals.sagas import engine
from annals.sagas.catalog import SagaCatalog
from annals.sagas.declaration import Parallel, Saga
from annals.sagas.start import begun_with, waits
from annals.sagas.tasks import Task
from annals.sagas.turns import Turns
from annals.telemetry import traces

Activity = Callable[[Mapping[str, Any], str | None], Awaitable[dict[str, Any]]]

_CHANNEL = (
    # The sidecar's limit is enough. With a limit of the worker's own, each workflow that exceeds it would end
    # the stream by which all workflows come.
    ("grpc.max_receive_message_length", -1),
    # The sidecar runs beside its app, where a proxy that the environment names cannot reach it.
    ("grpc.enable_http_proxy", 0),
)

# Patches: a workflow that began before one must go on as its history says. Before this patch, a workflow
# waited for a cancel where it now only looks for one.
_LOOKS = "annals.looks-for-a-cancel"
# Before this patch, a workflow recorded nothing when all that parallel steps still did was wait.
_TELLS = "annals.tells-before-it-waits"
# Before this patch, a workflow knew only the answers that had come to itself.
_ASKS = "annals.asks-at-the-deadline"


class _DaprWorkflow:
    """Implements `tasks.Workflow` on the context of a Dapr workflow."""

    def __init__(self, context: DaprWorkflowContext, saga: Saga[Any]) -> None:
        self._context = context
        # The patches are asked for at the beginning. The SDK (1.18) replays what came while a workflow was
        # suspended before the patches of the turn that took it: a patch asked for there is not found again.
        self._looks = context.is_patched(_LOOKS)
        beside = any(isinstance(block, Parallel) for block in saga.steps)
        self.records_before_waiting = beside and context.is_patched(_TELLS)
        self.asks_at_the_deadline = bool(waits(saga)) and context.is_patched(_ASKS)

    @property
    def now(self) -> datetime:
        return self._context.current_utc_datetime.replace(tzinfo=UTC)

    def activity(self, name: str, call: Mapping[str, Any]) -> Task:
        return self._context.call_activity(name, input=call)

    def child(self, start: Mapping[str, Any]) -> Task:
        return self._context.call_child_workflow(start["type"], input=start, instance_id=start["instance"])

    def event(self, name: str) -> Task:
        return self._context.wait_for_external_event(name)

    def raised(self, name: str) -> Task | None:
        if not self._looks:
            return self.event(name)
        # The SDK ends this wait at once. Others cost the scheduler a job, and two deletions at the end.
        found = self._context.wait_for_external_event(name, timeout=timedelta(0))
        return None if found.is_failed else found

    def timer(self, delay: timedelta) -> Task:
        return self._context.create_timer(delay)

    def any(self, tasks: Sequence[Task]) -> Task:
        return when_any(list(tasks))  # type: ignore[arg-type]  # all are its own


class SagaWorker:
    """Runs the workflows and activities that the sidecar hands out, on threads of the SDK.

    The activities run on the event loop that the worker was created on, where their connections are.
    """

    def __init__(self, grpc_port: int, catalog: SagaCatalog, activities: Mapping[str, Activity]) -> None:
        self._loop = asyncio.get_running_loop()
        self.connected = False
        self._runtime = WorkflowRuntime(
            host="127.0.0.1",
            port=str(grpc_port),
            # No handler of the SDK's own: its messages go to the service's log.
            logger_options=LoggerOptions("WARNING", logging.NullHandler()),
            interceptors=[Turns()],
        )
        # The SDK (1.18) has no public way to set the channel's options.
        self._runtime._WorkflowRuntime__worker._channel_options = _CHANNEL  # type: ignore[attr-defined]  # noqa: SLF001
        logging.getLogger("durabletask-worker").setLevel(logging.WARNING)
        newest = {saga_type: catalog.newest(saga_type).version for saga_type in catalog.types}
        for saga in catalog.all():
            self._runtime.register_versioned_workflow(
                _workflow(catalog, saga),
                name=saga.type,
                version_name=f"v{saga.version}",
                is_latest=newest[saga.type] == saga.version,
            )
        for name, activity in activities.items():
            self._runtime.register_activity(self._bridge(activity), name=name)

    async def run(self) -> None:
        """Connect, and work until cancelled. Work that is under way then is done again elsewhere."""
        try:
            await asyncio.to_thread(self._runtime.start)
            self.connected = True
            await asyncio.Event().wait()
        finally:
            self.connected = False
            # This also ends a start that still waits for the sidecar, and would wait for ever.
            await asyncio.shield(asyncio.to_thread(self._stop))

    def _stop(self) -> None:
        self._runtime.shutdown()
        # The SDK (1.18) leaves its loop unclosed, with what came just as it stopped: `asyncio.wait_for`
        # (Python 3.11) swallows a cancel that comes together with the work that it waits for.
        loop = self._runtime._WorkflowRuntime__worker._async_worker_manager._queue_event_loop  # type: ignore[attr-defined]  # noqa: SLF001
        if loop is None or loop.is_running():
            return
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()

    def _bridge(self, activity: Activity) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def on_worker(_context: WorkflowActivityContext, call: dict[str, Any]) -> dict[str, Any]:
            work = activity(call, traces.current_traceparent())
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))  # type: ignore[arg-type]

        return on_worker


def _workflow(
    catalog: SagaCatalog, saga: Saga[Any]
) -> Callable[[DaprWorkflowContext, dict[str, Any]], Generator[Any, Any, Any]]:
    def run(context: DaprWorkflowContext, start: dict[str, Any]) -> Generator[Any, Any, Any]:
        # The input says which version to run. Dapr (1.18, versioning.go, compactPatches) forgets the version
        # of a workflow with a patch, and runs it as the newest. A saga may also be older than its workflow.
        declared = catalog.find(saga.type, start["version"], begun_with(start))
        if declared is None:
            # As during an upgrade: Dapr holds the workflow until a worker comes that declares the saga so.
            raise VersionNotRegisteredException
        return (yield from engine.run(declared, _DaprWorkflow(context, declared), start))

    return run
