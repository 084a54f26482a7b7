"""A bare Dapr workflow of three activities, each of which invokes a command or does nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from typing import Any

import aiohttp
from dapr.ext.workflow import DaprWorkflowContext, WorkflowActivityContext, WorkflowRuntime

STEPS = 3
runtime = WorkflowRuntime(port=os.environ["DAPR_GRPC_PORT"])
sessions: list[aiohttp.ClientSession] = []


@runtime.activity(name="invoke")
async def invoke(_context: WorkflowActivityContext, call: dict[str, Any]) -> Any:
    if not sessions:
        sessions.append(aiohttp.ClientSession(base_url=f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}"))
    path = f"/v1.0/invoke/command/method/commands/{call['type']}"
    headers = {"idempotency-key": call["key"]}
    async with sessions[0].post(path, json=call["data"], headers=headers) as answer:
        answer.raise_for_status()
        return await answer.json()


@runtime.activity(name="nothing")
async def nothing(_context: WorkflowActivityContext, call: dict[str, Any]) -> Any:
    return call


def steps(context: DaprWorkflowContext, activity: str, member: str) -> Generator[Any, Any, None]:
    for step in range(STEPS):
        call = {
            "type": "member.set_capacity",
            "data": {"id": member, "capacity": step},
            "key": f"{context.instance_id}/{step}",
        }
        yield context.call_activity(activity, input=call)


@runtime.workflow(name="invoking")
def invoking(context: DaprWorkflowContext, member: str) -> Generator[Any, Any, None]:
    yield from steps(context, "invoke", member)


@runtime.workflow(name="empty")
def empty(context: DaprWorkflowContext, member: str) -> Generator[Any, Any, None]:
    yield from steps(context, "nothing", member)


if __name__ == "__main__":
    runtime.start()
    threading.Event().wait()
