"""Real workflows on the SDK's real worker, against the fake sidecar and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import FunctionType
from typing import Any

import grpc
import pytest
from dapr.ext.workflow import (
    DaprWorkflowContext,
    RetryPolicy,
    WorkflowActivityContext,
    WorkflowRuntime,
    when_any,
)
from dapr.ext.workflow.logger import LoggerOptions
from dapr.proto import api_v1

from annals.dapr import DaprError, DaprSidecar, Workflows
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock

DAY = timedelta(days=1)
tries: list[int] = []


def add(_: WorkflowActivityContext, numbers: list[int]) -> int:
    return sum(numbers)


def flaky(_: WorkflowActivityContext, given: int) -> int:
    tries.append(given)
    if len(tries) < 3:
        raise RuntimeError("not yet")
    return given


def adding(context: DaprWorkflowContext, numbers: list[int]) -> Generator[Any, Any, int]:
    first = yield context.call_activity("add", input=numbers)
    return int((yield context.call_activity("add", input=[first, 1])))


def patient(context: DaprWorkflowContext, _: Any) -> Generator[Any, Any, str]:
    answer = context.wait_for_external_event("answer")
    timer = context.create_timer(DAY)
    won = yield when_any([answer, timer])
    return "late" if won is timer else str(answer.get_result())


def retrying(context: DaprWorkflowContext, given: int) -> Generator[Any, Any, int]:
    policy = RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=5)
    return int((yield context.call_activity("flaky", input=given, retry_policy=policy)))


def parent(context: DaprWorkflowContext, numbers: list[int]) -> Generator[Any, Any, int]:
    return int((yield context.call_child_workflow("adding", input=numbers, instance_id="the-child")))


def counting(context: DaprWorkflowContext, left: int) -> Generator[Any, Any, str]:
    yield context.create_timer(timedelta(minutes=1))
    if left:
        context.continue_as_new(left - 1)
    return "counted"


def failing(context: DaprWorkflowContext, _: Any) -> Generator[Any, Any, None]:
    yield context.create_timer(timedelta(0))
    raise ValueError("so it is")


def copied(function: Any) -> Any:
    """Copy a function: the SDK registers each function once per process, and each test has its own worker."""
    return FunctionType(function.__code__, function.__globals__, function.__name__)


def runtime(port: int) -> WorkflowRuntime:
    made = WorkflowRuntime(host="127.0.0.1", port=str(port), logger_options=LoggerOptions("ERROR"))
    for workflow in (adding, patient, retrying, parent, counting, failing):
        made.register_workflow(copied(workflow), name=workflow.__name__)
    for activity in (add, flaky):
        made.register_activity(copied(activity), name=activity.__name__)
    return made


@asynccontextmanager
async def working(port: int) -> AsyncIterator[None]:
    """Run a worker and stop it whatever happens; its threads would keep the whole run from ending."""
    made = runtime(port)
    await asyncio.to_thread(made.start)
    try:
        yield
    finally:
        await asyncio.to_thread(made.shutdown)


class Machine:
    """A sidecar with a worker, and the client that manages its workflows."""

    def __init__(self, sidecar: FakeSidecar, clock: VirtualClock) -> None:
        self.sidecar = sidecar
        self.clock = clock
        self.client = DaprSidecar(sidecar.grpc_port, timeout=60)
        self.workflows = Workflows(self.client)

    async def status(self, instance: str) -> tuple[str, str]:
        request = api_v1.GetWorkflowRequest(instance_id=instance)
        answer = await self.client.call("GetWorkflowBeta1", request)
        return answer.runtime_status, answer.properties.get("dapr.workflow.output", "")


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    clock = VirtualClock(patience=120)
    async with FakeSidecar(dapr=FakeDapr(clock=clock)) as sidecar, working(sidecar.grpc_port):
        machine = Machine(sidecar, clock)
        yield machine
        await machine.client.close()


async def test_activities_are_performed(machine: Machine) -> None:
    await machine.workflows.start("adding", "i", [1, 2], None)
    await machine.clock.settle()
    assert await machine.status("i") == ("COMPLETED", "4")


@pytest.mark.parametrize(
    ("instance", "why"), [("task.review", "only alphanumeric"), ("i" * 65, "exceeds the max length of 64")]
)
async def test_an_id_that_dapr_refuses_is_refused(machine: Machine, instance: str, why: str) -> None:
    with pytest.raises(DaprError, match=why) as refused:
        await machine.workflows.start("adding", instance, [1, 2], None)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_timer_fires_when_the_clock_comes_to_it(machine: Machine) -> None:
    await machine.workflows.start("patient", "i", {}, None)
    await machine.clock.advance(DAY - timedelta(seconds=1))
    assert (await machine.status("i"))[0] == "RUNNING"
    await machine.clock.advance(timedelta(seconds=1))
    assert await machine.status("i") == ("COMPLETED", '"late"')


async def test_an_event_is_kept_while_a_workflow_is_halted(machine: Machine) -> None:
    await machine.workflows.start("patient", "i", {}, None)
    await machine.workflows.pause("i")
    assert await machine.workflows.raise_event("i", "answer", "yes")
    await machine.clock.settle()
    assert (await machine.status("i"))[0] == "SUSPENDED"
    await machine.workflows.resume("i")
    await machine.clock.settle()
    assert await machine.status("i") == ("COMPLETED", '"yes"')


async def test_an_activity_is_tried_again_by_the_clock(machine: Machine) -> None:
    tries.clear()
    await machine.workflows.start("retrying", "i", 7, None)
    await machine.clock.settle()
    assert len(tries) == 1
    await machine.clock.advance(timedelta(hours=5))
    assert await machine.status("i") == ("COMPLETED", "7")
    assert len(tries) == 3


async def test_a_child_answers_its_parent(machine: Machine) -> None:
    await machine.workflows.start("parent", "i", [1, 2], None)
    await machine.clock.settle()
    assert await machine.status("i") == ("COMPLETED", "4")
    assert await machine.status("the-child") == ("COMPLETED", "4")


async def test_a_workflow_goes_on_as_a_new_one(machine: Machine) -> None:
    await machine.workflows.start("counting", "i", 3, None)
    await machine.clock.advance(timedelta(minutes=3))
    assert (await machine.status("i"))[0] == "RUNNING"
    await machine.clock.advance(timedelta(minutes=1))
    assert await machine.status("i") == ("COMPLETED", '"counted"')


async def test_a_failure_is_told(machine: Machine) -> None:
    await machine.workflows.start("failing", "i", {}, None)
    await machine.clock.advance()
    answer = await machine.client.call("GetWorkflowBeta1", api_v1.GetWorkflowRequest(instance_id="i"))
    assert answer.runtime_status == "FAILED"
    assert "so it is" in answer.properties["dapr.workflow.failure.error_message"]


async def test_instances_are_managed(machine: Machine) -> None:
    assert await machine.workflows.start("patient", "i", {}, None)
    assert not await machine.workflows.start("patient", "i", {}, None), "it is there already"
    with pytest.raises(DaprError, match="has not yet completed"):
        await machine.workflows.purge("i")
    await machine.workflows.terminate("i")
    await machine.clock.settle()
    assert (await machine.status("i"))[0] == "TERMINATED"
    await machine.workflows.purge("i")
    await machine.workflows.purge("i")
    await machine.workflows.terminate("i")
    assert not await machine.workflows.raise_event("i", "answer", "yes")


async def test_what_a_worker_leaves_undone_another_does() -> None:
    clock = VirtualClock(patience=120)
    dapr = FakeDapr(clock=clock)
    async with FakeSidecar(dapr=dapr) as one, FakeSidecar(dapr=dapr) as other:
        client = DaprSidecar(other.grpc_port, timeout=60)
        async with working(one.grpc_port):
            await Workflows(client).start("patient", "i", {}, None)
            await one.kill()
            async with working(other.grpc_port):
                # A start returns once a worker has begun it, so the second worker is connected from then on.
                await Workflows(client).start("patient", "j", {}, None)
                await clock.advance(DAY)
                assert dapr.workflows.find("i").ended
        await client.close()
