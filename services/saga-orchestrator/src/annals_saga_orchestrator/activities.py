"""The functions that sagas call by name; see `annals.sagas.CallActivity`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from annals.dapr import ServiceInvocation
from annals.sagas.activities import Activity, ActivityCall, Rejected

_PAGE = 500

MOST_TASKS = 400
"""So many one off-boarding hands over: each is 4 to 9 kB of the history of its workflow, and a sidecar halts
a workflow that comes near the largest body that it takes, which is 4 MiB where nothing else is said."""


def functions(invocation: ServiceInvocation) -> Mapping[str, Activity]:
    """The functions by name."""

    async def open_tasks(call: ActivityCall) -> list[str]:
        """The ids of an assignee's open tasks, the oldest first."""
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
