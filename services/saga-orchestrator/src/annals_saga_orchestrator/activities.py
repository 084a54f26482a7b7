"""The functions that sagas call by name; see `annals.sagas.CallActivity`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from annals.dapr import ServiceInvocation
from annals.sagas.activities import Activity, ActivityCall, Rejected

_PAGE = 500

MOST_TASKS = 400
"""The most tasks that one off-boarding hands over. Each adds 4 to 9 kB to the history of the off-boarding's
workflow, and a sidecar halts a workflow that comes near the largest body it takes, by default 4 MiB."""


def functions(invocation: ServiceInvocation) -> Mapping[str, Activity]:
    """Return the functions by name."""

    async def open_tasks(call: ActivityCall) -> list[str]:
        """Return the ids of an assignee's open tasks, the oldest first."""
        found: list[str] = []
        cursor: str | None = None
        while True:
            query = {"assignee": call.input["assignee"], "status": "todo", "limit": _PAGE}
            path = "queries/tasks?" + urlencode(query | ({"cursor": cursor} if cursor else {}))
            headers = {"x-tenant-id": call.tenant}
            answer = await invocation.invoke("projector", "GET", path, headers=headers)
            if not answer.ok:
                raise RuntimeError(answer.message)
            found += [task["id"] for task in answer.body["items"]]
            if len(found) > MOST_TASKS:
                raise Rejected(f"more than {MOST_TASKS} tasks are open: close or reassign some first")
            cursor = answer.body["next"]
            if cursor is None:
                return found

    return {"open-tasks": open_tasks}
