"""User input never becomes part of an SQL statement; it reaches the database as a parameter."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
from fastapi import FastAPI

from annals.dapr import DatabaseError
from annals.deadletters import DeadLetters
from annals.store import MemoryEventStore
from annals.web.paging import encode_cursor
from annals.web.problems import Problem, on_problem
from annals_notification import schedule_api, users_api
from annals_notification.deliveries.users import Users
from annals_notification.recurrences import Recurrences
from annals_notification.reminders import Reminders
from annals_projector.queries import audit, events, sagas, streams, tasks
from annals_projector.read_models import PROJECTIONS

ASKED = "task-asked.for"
"""An id, name and text in one that passes every check, so that it gets as far as possible."""
NOON = "2030-01-01T12:00:00+00:00"
CURSORS = (encode_cursor(NOON, ASKED), encode_cursor("created_at", NOON, ASKED))


class Statements:
    """A database that answers nothing and records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str | None, ...]]] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        self.asked.append((sql, params))
        raise DatabaseError("it is away")


class Recorded:
    """An audit trail that takes everything."""

    async def requested(self, *_: object) -> None: ...


def app_of(database: Statements) -> FastAPI:
    async def up_to_date() -> None:
        """Return at once: nothing is written meanwhile."""

    unused = cast("Any", None)
    waits, store = cast("Any", up_to_date), MemoryEventStore()
    reminders = Reminders(database, store, unused, unused, (), unused)
    recurrences = Recurrences(database, unused, unused)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(tasks.routes(database, unused, waits))
    app.include_router(sagas.routes(database, store, waits))
    app.include_router(streams.routes(store, PROJECTIONS, DeadLetters(unused, "", ""), unused, waits))
    app.include_router(events.routes(database, store, unused, waits))
    app.include_router(audit.routes(database, waits, up_to_date))
    app.include_router(users_api.routes(Users(database), unused, cast("Any", Recorded())))
    app.include_router(schedule_api.routes(reminders, recurrences, unused))
    return app


async def test_what_is_asked_for_is_never_a_part_of_a_statement() -> None:
    database = Statements()
    app = app_of(database)
    arrived: set[str] = set()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://annals") as http:

        async def ask(method: str, path: str, name: str, query: dict[str, str]) -> None:
            database.asked.clear()
            address = re.sub("{.*?}", ASKED, path)
            await http.request(method, address, params=query, headers={"x-tenant-id": "acme"}, json={})
            for sql, params in database.asked:
                assert ASKED not in sql
                if any(ASKED in (one or "") for one in params):
                    arrived.add(f"{method} {path}{name}")

        for path, operations in app.openapi()["paths"].items():
            for method, operation in operations.items():
                if "{" in path:
                    await ask(method, path, "", {})
                for one in operation.get("parameters", ()):
                    if one["in"] == "query":
                        for value in CURSORS if one["name"] == "cursor" else (ASKED,):
                            await ask(method, path, f"?{one['name']}", {one["name"]: value})
    assert {"get /queries/tasks?text", "get /queries/tasks/{task_id}", "get /inbox/{user}?cursor"} <= arrived
    assert len(arrived) > 50, "what is refused at the door says nothing"
