"""The two gRPC APIs for workflows: Dapr's own, and the one that the SDK's worker and client use."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC

import grpc
from dapr.ext.workflow._durabletask.internal import protos as pb
from dapr.proto import api_v1

from annals.testing.fake.errors import EMPTY, Refused
from annals.testing.fake.workflows import AlreadyActive, FakeWorkflows, NoInstance, Stalled, StillRunning

_INTERNAL = grpc.StatusCode.INTERNAL
_LONGEST_ID = 64


def _require_valid(instance: str) -> None:
    """Raise Refused for an id that Dapr's own API does not accept; the SDK's API accepts any id."""
    if len(instance.encode()) > _LONGEST_ID:
        text = f"workflow instance ID exceeds the max length of {_LONGEST_ID} characters"
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text)
    if not all(one.isalpha() or one.isdecimal() or one in "_-" for one in instance):
        why = "only alphanumeric and underscore characters are allowed"
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"workflow instance ID '{instance}' is invalid: {why}"
        )


class WorkflowApi:
    """The workflow methods of the sidecar's gRPC API, under their names there."""

    def __init__(self, app_id: str, workflows: FakeWorkflows) -> None:
        self._app_id = app_id
        self._workflows = workflows

    async def StartWorkflowBeta1(self, request: api_v1.StartWorkflowRequest) -> api_v1.StartWorkflowResponse:
        if not request.workflow_name:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "workflow name is not configured")
        instance = request.instance_id or str(uuid.uuid4())
        _require_valid(instance)
        try:
            await self._workflows.start(self._app_id, instance, request.workflow_name, request.input.decode())
        except AlreadyActive as error:
            text = f"error starting workflow '{request.workflow_name}': {error}"
            raise Refused(_INTERNAL, text) from error
        return api_v1.StartWorkflowResponse(instance_id=instance)

    async def GetWorkflowBeta1(self, request: api_v1.GetWorkflowRequest) -> api_v1.GetWorkflowResponse:
        try:
            state = self._workflows.find(request.instance_id).state()
        except NoInstance:
            return api_v1.GetWorkflowResponse(instance_id=request.instance_id)
        properties = {}
        if state.HasField("input"):
            properties["dapr.workflow.input"] = state.input.value
        if state.HasField("output"):
            properties["dapr.workflow.output"] = state.output.value
        if state.HasField("customStatus"):
            properties["dapr.workflow.custom_status"] = state.customStatus.value
        if state.HasField("failureDetails"):
            properties["dapr.workflow.failure.error_type"] = state.failureDetails.errorType
            properties["dapr.workflow.failure.error_message"] = state.failureDetails.errorMessage
        return api_v1.GetWorkflowResponse(
            instance_id=state.instanceId,
            workflow_name=state.name,
            created_at=state.createdTimestamp,
            last_updated_at=state.lastUpdatedTimestamp,
            runtime_status=pb.OrchestrationStatus.Name(state.workflowStatus).removeprefix(
                "ORCHESTRATION_STATUS_"
            ),
            properties=properties,
        )

    async def RaiseEventWorkflowBeta1(self, request: api_v1.RaiseEventWorkflowRequest) -> object:
        if not request.event_name:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "missing workflow event name")
        data = request.event_data.decode() if request.event_data else None
        return self._do(
            lambda: self._workflows.raise_event(request.instance_id, request.event_name, data),
            f"error raising event on workflow '{request.instance_id}'",
        )

    async def TerminateWorkflowBeta1(self, request: api_v1.TerminateWorkflowRequest) -> object:
        return self._do_or_missing(
            request.instance_id,
            lambda: self._workflows.terminate(request.instance_id),
            f"error terminating workflow '{request.instance_id}'",
        )

    async def PauseWorkflowBeta1(self, request: api_v1.PauseWorkflowRequest) -> object:
        return self._do(
            lambda: self._workflows.suspend(request.instance_id),
            f"error pausing workflow {request.instance_id}",
        )

    async def ResumeWorkflowBeta1(self, request: api_v1.ResumeWorkflowRequest) -> object:
        return self._do(
            lambda: self._workflows.resume(request.instance_id),
            f"error resuming workflow {request.instance_id}",
        )

    async def PurgeWorkflowBeta1(self, request: api_v1.PurgeWorkflowRequest) -> object:
        return self._do_or_missing(
            request.instance_id,
            lambda: self._workflows.purge(request.instance_id),
            f"error purging workflow {request.instance_id}",
        )

    def _do(self, what: Callable[[], object], otherwise: str) -> object:
        try:
            what()
        except (NoInstance, Stalled, StillRunning) as error:
            raise Refused(_INTERNAL, f"{otherwise}: {error}") from error
        return EMPTY

    def _do_or_missing(self, instance: str, what: Callable[[], object], otherwise: str) -> object:
        try:
            return self._do(what, otherwise)
        except Refused as error:
            if not isinstance(error.__cause__, NoInstance):
                raise
            # Dapr passes the cause to a format string without a verb for it: Go then appends this suffix.
            text = (
                f"unable to find workflow with the provided instance ID: {instance}"
                f"%!(EXTRA *errors.errorString={error.__cause__})"
            )
            raise Refused(grpc.StatusCode.NOT_FOUND, text) from error


class TaskHub:
    """The methods of TaskHubSidecarService, under their names there."""

    def __init__(self, app_id: str, workflows: FakeWorkflows) -> None:
        self._app_id = app_id
        self._workflows = workflows

    async def Hello(self, request: object) -> object:  # noqa: ARG002
        return EMPTY

    async def StartInstance(self, request: pb.CreateInstanceRequest) -> pb.CreateInstanceResponse:
        at = None
        if request.HasField("scheduledStartTimestamp"):
            at = request.scheduledStartTimestamp.ToDatetime(tzinfo=UTC)
        given = request.input.value if request.HasField("input") else None
        instance = request.instanceId or str(uuid.uuid4())
        try:
            await self._workflows.start(self._app_id, instance, request.name, given, at)
        except AlreadyActive as error:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, str(error)) from error
        return pb.CreateInstanceResponse(instanceId=instance)

    async def GetInstance(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        try:
            return self._found(self._workflows.find(request.instanceId).state(), request)
        except NoInstance:
            return pb.GetInstanceResponse(exists=False)

    async def WaitForInstanceStart(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        return await self._wait(self._workflows.begun, request)

    async def WaitForInstanceCompletion(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        return await self._wait(self._workflows.ended, request)

    async def RaiseEvent(self, request: pb.RaiseEventRequest) -> pb.RaiseEventResponse:
        data = request.input.value if request.HasField("input") else None
        self._do(lambda: self._workflows.raise_event(request.instanceId, request.name, data))
        return pb.RaiseEventResponse()

    async def TerminateInstance(self, request: pb.TerminateRequest) -> pb.TerminateResponse:
        output = request.output.value if request.HasField("output") else None
        self._do(lambda: self._workflows.terminate(request.instanceId, output, recursive=request.recursive))
        return pb.TerminateResponse()

    async def SuspendInstance(self, request: pb.SuspendRequest) -> pb.SuspendResponse:
        self._do(lambda: self._workflows.suspend(request.instanceId))
        return pb.SuspendResponse()

    async def ResumeInstance(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        self._do(lambda: self._workflows.resume(request.instanceId))
        return pb.ResumeResponse()

    async def PurgeInstances(self, request: pb.PurgeInstancesRequest) -> pb.PurgeInstancesResponse:
        count = self._do(lambda: self._workflows.purge(request.instanceId, recursive=request.recursive))
        return pb.PurgeInstancesResponse(deletedInstanceCount=count or 0)

    async def GetWorkItems(self, request: pb.GetWorkItemsRequest) -> AsyncIterator[pb.WorkItem]:  # noqa: ARG002
        async for item in self._workflows.work(self._app_id):
            yield item

    async def CompleteOrchestratorTask(self, request: pb.WorkflowResponse) -> pb.CompleteTaskResponse:
        self._workflows.decided(request)
        return pb.CompleteTaskResponse()

    CompleteWorkflowTask = CompleteOrchestratorTask

    async def CompleteActivityTask(self, request: pb.ActivityResponse) -> pb.CompleteTaskResponse:
        self._workflows.performed(request)
        return pb.CompleteTaskResponse()

    async def _wait(
        self, until: Callable[[str], Awaitable[object]], request: pb.GetInstanceRequest
    ) -> pb.GetInstanceResponse:
        try:
            await until(request.instanceId)
            return self._found(self._workflows.find(request.instanceId).state(), request)
        except NoInstance as error:
            raise Refused(grpc.StatusCode.UNKNOWN, str(error)) from error

    def _found(self, state: pb.WorkflowState, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        if not request.getInputsAndOutputs:
            state.ClearField("input")
            state.ClearField("output")
            state.ClearField("customStatus")
        return pb.GetInstanceResponse(exists=True, workflowState=state)

    def _do(self, what: Callable[[], int | None]) -> int | None:
        try:
            return what()
        except (NoInstance, Stalled, StillRunning) as error:
            raise Refused(grpc.StatusCode.UNKNOWN, str(error)) from error
