"""Tasks on Dapr alone, in the way most people begin.

A stream is one list under one key, guarded by its etag, and each event is published by itself. `plain_app.py
projector` writes the read model: one key for each event that it receives.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
import uvloop
from dapr.aio.clients import DaprClient
from dapr.clients.grpc._state import Concurrency, StateOptions
from fastapi import Body, FastAPI, HTTPException

STORE, PUBSUB, TOPIC = "plainstore", "plain-events", "plain-events"
GUARDED = StateOptions(concurrency=Concurrency.first_write)


class Tasks:
    """The commands."""

    def __init__(self, dapr: DaprClient) -> None:
        self._dapr = dapr

    async def create(self, given: dict[str, Any]) -> int:
        return await self._append(given["id"], "created", given, exists=False)

    async def assign(self, given: dict[str, Any]) -> int:
        return await self._append(given["id"], "assigned", given)

    async def complete(self, given: dict[str, Any]) -> int:
        return await self._append(given["id"], "completed", given)

    async def _append(self, task: str, kind: str, data: dict[str, Any], *, exists: bool = True) -> int:
        key = f"task-{task}"
        stored = await self._dapr.get_state(STORE, key)
        events: list[dict[str, Any]] = json.loads(stored.data) if stored.data else []
        if bool(events) is not exists:
            raise HTTPException(409, "there is such a task" if events else "there is no such task")
        if events and events[-1]["type"] == "completed":
            raise HTTPException(422, "the task is completed")
        event = {
            "id": str(uuid.uuid4()),
            "type": kind,
            "task": task,
            "version": len(events) + 1,
            "data": data,
            "time": time.time(),
        }
        value = json.dumps([*events, event])
        await self._dapr.save_state(STORE, key, value, etag=stored.etag or None, options=GUARDED)
        await self._dapr.publish_event(PUBSUB, TOPIC, json.dumps(event), data_content_type="application/json")
        return len(events) + 1


def commands(dapr: DaprClient) -> FastAPI:
    api, tasks = FastAPI(lifespan=closing(dapr)), Tasks(dapr)

    @api.get("/dapr/subscribe")
    async def subscriptions() -> list[dict[str, str]]:
        return []

    @api.post("/commands/task.create")
    async def create(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008, as FastAPI has it
        return {"version": await tasks.create(given)}

    @api.post("/commands/task.assign")
    async def assign(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return {"version": await tasks.assign(given)}

    @api.post("/commands/task.complete")
    async def complete(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return {"version": await tasks.complete(given)}

    return api


def projector(dapr: DaprClient) -> FastAPI:
    api = FastAPI(lifespan=closing(dapr))
    lags: list[float] = []

    @api.get("/dapr/subscribe")
    async def subscriptions() -> list[dict[str, str]]:
        return [{"pubsubname": PUBSUB, "topic": TOPIC, "route": "/events"}]

    @api.post("/events")
    async def project(message: dict[str, Any] = Body()) -> dict[str, str]:  # noqa: B008
        event = message["data"]
        row = json.dumps({"status": event["type"], **event["data"]})
        await dapr.save_state(STORE, f"read-{event['task']}", row)
        lags.append(time.time() - event["time"])
        return {"status": "SUCCESS"}

    @api.get("/lags")
    async def seen() -> list[float]:
        """Return the lags since the last call, in seconds."""
        told = lags.copy()
        lags.clear()
        return told

    return api


def closing(dapr: DaprClient) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await dapr.close()

    return lifespan


async def main() -> None:
    app = (projector if sys.argv[1:] == ["projector"] else commands)(DaprClient())
    config = uvicorn.Config(app, port=int(os.environ["APP_PORT"]), access_log=False, log_level="warning")
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main())
