"""A Temporal workflow of three activities, each of which invokes a command or does nothing.

It is the counterpart of bare_workflow_app.py. `temporal_app.py invoke SECONDS MEMBER…` runs one workflow
after another for each member and prints the latencies; without arguments the program is the worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import aiohttp

STEPS = 3
QUEUE = "bench"
sessions: list[aiohttp.ClientSession] = []


@activity.defn
async def invoke(call: dict[str, Any]) -> Any:
    if not sessions:
        sessions.append(aiohttp.ClientSession(base_url=f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}"))
    path = f"/v1.0/invoke/command/method/commands/{call['type']}"
    headers = {"idempotency-key": call["key"]}
    async with sessions[0].post(path, json=call["data"], headers=headers) as answer:
        answer.raise_for_status()
        return await answer.json()


@activity.defn
async def nothing(call: dict[str, Any]) -> Any:
    return call


@workflow.defn
class Steps:
    @workflow.run
    async def run(self, kind: str, member: str) -> None:
        for step in range(STEPS):
            call = {
                "type": "member.set_capacity",
                "data": {"id": member, "capacity": step},
                "key": f"{workflow.info().workflow_id}/{step}",
            }
            await workflow.execute_activity(kind, call, start_to_close_timeout=timedelta(seconds=30))


async def work(client: Client) -> None:
    worker = Worker(client, task_queue=QUEUE, workflows=[Steps], activities=[invoke, nothing])
    await worker.run()


async def measure(client: Client, kind: str, seconds: float, members: list[str]) -> None:
    took: list[float] = []
    begun = time.perf_counter()

    async def again(member: str) -> None:
        while (started := time.perf_counter()) < begun + seconds:
            name = str(uuid.uuid4())
            await client.execute_workflow(Steps.run, args=[kind, member], id=name, task_queue=QUEUE)
            took.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(again(member) for member in members))
    print(json.dumps({"seconds": time.perf_counter() - begun, "latencies": took}))


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL"])
    if not sys.argv[1:]:
        await work(client)
        return
    kind, seconds, *members = sys.argv[1:]
    await measure(client, kind, float(seconds), members)
    # The SDK's threads run on and may need the interpreter while it shuts down, which aborts the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
