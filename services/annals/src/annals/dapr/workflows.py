"""The management of workflows: started, told of events, halted and ended."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
from dapr.proto import api_v1

from annals.dapr.errors import DaprError
from annals.dapr.sidecar import DaprSidecar

_ENGINE = "dapr"
_EXISTS = "already exists"
_MISSING = "no such instance exists"
# Of an actor (dapr, pkg/actors/targets/errors/stalled.go) or a workflow (durabletask-go, api/errors.go).
_STALLED = "is stalled"


class WorkflowStalled(DaprError):
    """Dapr holds the workflow: no worker that it has carries on what is in its history. Nothing was done."""


class Workflows:
    """The workflows of this app. All its methods raise DaprError when the sidecar does not do it.

    gRPC, and not HTTP: only so is what a workflow does a part of the trace that started it.
    """

    def __init__(self, sidecar: DaprSidecar) -> None:
        self._sidecar = sidecar

    async def start(self, name: str, instance: str, given: Any, traceparent: str | None) -> bool:
        """Start a workflow; False when an instance of that id is running, whatever that was given.

        An instance that has ended is started anew: whoever calls this looks first.
        """
        request = api_v1.StartWorkflowRequest(
            instance_id=instance,
            workflow_component=_ENGINE,
            workflow_name=name,
            input=orjson.dumps(given),
        )
        try:
            await self._sidecar.call("StartWorkflowBeta1", request, traceparent)
        except DaprError as error:
            if _EXISTS not in error.details:
                raise
            return False
        return True

    async def raise_event(self, instance: str, event: str, data: Any) -> bool:
        """Raise an event, to be kept until the workflow waits for it; False when there is no instance.

        Raises WorkflowStalled, beside the others.
        """
        request = api_v1.RaiseEventWorkflowRequest(
            instance_id=instance,
            workflow_component=_ENGINE,
            event_name=event,
            event_data=orjson.dumps(data),
        )
        return await self._unless_missing("RaiseEventWorkflowBeta1", request)

    async def terminate(self, instance: str) -> None:
        """End a workflow and those it runs where they are.

        One of a version that no worker knows is held by Dapr, which lets nobody end it, until there is such
        a worker. It is passed over: who calls this sees to it that what it asks for then counts for nothing.
        """
        request = api_v1.TerminateWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        with suppress(WorkflowStalled):
            await self._unless_missing("TerminateWorkflowBeta1", request)

    async def pause(self, instance: str) -> bool:
        """Halt a workflow; False when there is no instance."""
        request = api_v1.PauseWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        return await self._unless_missing("PauseWorkflowBeta1", request)

    async def resume(self, instance: str) -> None:
        """Let a halted workflow go on."""
        request = api_v1.ResumeWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        await self._unless_missing("ResumeWorkflowBeta1", request)

    async def purge(self, instance: str) -> None:
        """Forget a workflow that has ended."""
        request = api_v1.PurgeWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        await self._unless_missing("PurgeWorkflowBeta1", request)

    async def _unless_missing(self, method: str, request: object) -> bool:
        """Call a method; False when there is no instance. Raises WorkflowStalled, beside the others."""
        try:
            await self._sidecar.call(method, request)
        except DaprError as error:
            if _MISSING in error.details:
                return False
            if _STALLED in error.details:
                raise WorkflowStalled(error.code, error.details) from error
            raise
        return True
