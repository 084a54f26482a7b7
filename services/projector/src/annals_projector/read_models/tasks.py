"""The read model `tasks`."""

from __future__ import annotations

from annals.events import RecordedEvent
from annals.projections import Delete, Patch, Projection, Put, Table


def _created(event: RecordedEvent) -> Put:
    names = ("title", "description", "due", "priority", "assignee")
    row = {name: event.data.get(name) for name in names}
    return Put(row | {"status": "todo", "tags": event.data.get("tags", [])})


TASKS = Projection(
    Table(
        "tasks",
        {
            "title": "text",
            "description": "text",
            "status": "text",
            "priority": "text",
            "tags": "jsonb",
            "due": "timestamptz",
            "assignee": "text",
            "previous_assignee": "text",
            "completed_at": "timestamptz",
        },
        indexes=(
            "(tenant, created_at, id)",
            "(tenant, assignee, created_at, id)",
            "(tenant, status, created_at, id)",
            "(tenant, due, id)",
            "(tenant, (coalesce(due, 'infinity')), id)",
            "(tenant, title, id)",
            "(tenant, updated_at, id)",
            "USING gin (tags)",
            "USING gin (to_tsvector('simple', title || ' ' || left(coalesce(description, ''), 100000)))",
        ),
    ),
    "task",
    {
        "task.created": _created,
        "task.updated": lambda event: Patch(event.data["changes"]),
        "task.assigned": lambda event: Patch(
            {"assignee": event.data["assignee"], "previous_assignee": event.data.get("previous")}
        ),
        "task.unassigned": lambda event: Patch(
            {"assignee": None, "previous_assignee": event.data["assignee"]}
        ),
        "task.completed": lambda event: Patch(
            {"status": "done", "completed_at": event.timestamp.isoformat()}
        ),
        "task.reopened": lambda _: Patch({"status": "todo", "completed_at": None}),
        "task.deleted": lambda _: Delete(),
        "task.due_date_set": lambda event: Patch({"due": event.data["due"]}),
    },
    version=2,
)
