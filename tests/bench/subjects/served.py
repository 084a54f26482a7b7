"""The HTTP endpoint of a Python subject: FastAPI on uvicorn, like the services of Annals.

Run it as `served.py eventsourcing` or `served.py protean`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import Body, FastAPI


def app(tasks: Any) -> FastAPI:
    """Serve the commands. Both libraries block on the database, so the handlers run in threads."""
    api = FastAPI()

    @api.post("/commands/task.create")
    def create(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008, as FastAPI has it
        return {"version": tasks.create(given)}

    @api.post("/commands/task.assign")
    def assign(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return {"version": tasks.assign(given)}

    @api.post("/commands/task.complete")
    def complete(given: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return {"version": tasks.complete(given)}

    return api


if __name__ == "__main__":
    tasks: Any
    if sys.argv[1] == "eventsourcing":
        from eventsourcing_tasks import Tasks

        tasks = Tasks()
    else:
        import protean_tasks

        tasks = protean_tasks.Tasks()
    uvicorn.run(app(tasks), port=int(os.environ["APP_PORT"]), access_log=False, log_level="warning")
