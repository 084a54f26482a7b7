"""Manages workflows: starts them, raises events, and pauses, resumes, ends and deletes them."""

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
    """The workflow is stalled: no connected worker can continue its history. The call had no effect."""


class Workflows:
    """The workflows of this app. All methods raise DaprError if the sidecar fails the call.

    They use gRPC, not HTTP: only then is what a workflow does a part of the trace that started it.
    """

    def __init__(self, sidecar: DaprSidecar) -> None:
        self._sidecar = sidecar

    async def start(self, name: str, instance: str, given: Any, traceparent: str | None) -> bool:
        """Start a workflow; return False if an instance with that id is running, whatever its input.

        If an instance with that id has ended, Dapr starts a new one in its place, so the caller checks first.
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
        """Raise an event, which Dapr keeps until the workflow waits for it.

        Returns False if there is no instance. Raises WorkflowStalled besides other DaprErrors.
        """
        request = api_v1.RaiseEventWorkflowRequest(
            instance_id=instance,
            workflow_component=_ENGINE,
            event_name=event,
            event_data=orjson.dumps(data),
        )
        return await self._unless_missing("RaiseEventWorkflowBeta1", request)

    async def terminate(self, instance: str) -> None:
        """End a workflow where it is, with its children. A workflow that does not exist is no error.

        Dapr does not let anybody end a workflow while no connected worker knows its version. This method
        leaves such a workflow as it is. Once there is such a worker, the workflow continues: the caller must
        make sure that whatever it then asks for has no effect.
        """
        request = api_v1.TerminateWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        with suppress(WorkflowStalled):
            await self._unless_missing("TerminateWorkflowBeta1", request)

    async def pause(self, instance: str) -> bool:
        """Pause a workflow; return False if there is no instance."""
        request = api_v1.PauseWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        return await self._unless_missing("PauseWorkflowBeta1", request)

    async def resume(self, instance: str) -> None:
        """Resume a paused workflow. A workflow that does not exist is no error."""
        request = api_v1.ResumeWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        await self._unless_missing("ResumeWorkflowBeta1", request)

    async def purge(self, instance: str) -> None:
        """Delete a workflow that has ended. A workflow that does not exist is no error."""
        request = api_v1.PurgeWorkflowRequest(instance_id=instance, workflow_component=_ENGINE)
        await self._unless_missing("PurgeWorkflowBeta1", request)

    async def _unless_missing(self, method: str, request: object) -> bool:
        """Call a method; return False if there is no instance. Raises DaprError or WorkflowStalled."""
        try:
            await self._sidecar.call(method, request)
        except DaprError as error:
            if _MISSING in error.details:
                return False
            if _STALLED in error.details:
                raise WorkflowStalled(error.code, error.details) from error
            raise
        return True
