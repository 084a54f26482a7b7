"""The page without the suite: its own files, and services whose answers the test provides."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Awaitable, Callable, Sized
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Page, Route

from suite import page as sources

ADDRESS = "https://page.test"
TASKS = "/api/projector/queries/tasks"
MEMBERS = "/api/projector/queries/members"
SAGAS = "/api/projector/queries/sagas"
AWAY = (503, {"detail": "the database cannot be reached"})
THEN = "2030-01-01T00:00:00Z"

# Replaces the page's live stream, so that tests can speak as the service does.
STREAM = """
window.opened = [];
window.EventSource = class extends EventTarget {
  constructor(url) {
    super();
    opened.push(this);
    Object.assign(this, { url, closed: false });
    queueMicrotask(() => this.begins());
  }
  begins() {
    this.onopen?.();
    this.say("alive", "", null);  // the service says how far it has told; here no place
  }
  close() { this.closed = true; }
  say(type, id, data) {
    const message = new MessageEvent(type, { data: JSON.stringify(data), lastEventId: id });
    type === "message" ? this.onmessage(message) : this.dispatchEvent(message);
  }
};
"""

Answer = tuple[int, object]
Show = Callable[[str], Awaitable[Page]]


class Services:
    """The services behind the page. Queries show `tasks`; a test may replace any answer through `own`."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.sent: list[tuple[str, Any]] = []
        """The requests that were to change something: method and path, and body."""
        self.session: Answer = (
            200,
            {"user": "ada", "name": "Ada", "tenant": "t", "role": "operator", "auth": "oidc", "zipkin": None},
        )
        self.own: dict[str, Callable[[str, dict[str, str]], Answer | Awaitable[Answer]]] = {}
        """The test's own answers, by the beginning of a path, or of a method and path."""

    def task(self, task: str, version: int = 1, **changes: object) -> dict[str, Any]:
        """Add a task, which queries show from now on."""
        times = dict.fromkeys(("created_at", "updated_at"), "2030-01-01T00:00:00Z")
        row = {"id": task, "title": task, "status": "todo", "priority": "normal", "version": version}
        self.tasks[task] = (
            row | {"tags": []} | dict.fromkeys(("description", "due", "assignee")) | times | changes
        )
        return self.tasks[task]

    def count(self, path: str) -> int:
        """Return how often a path was requested."""
        return sum(urlsplit(one).path == path for one in self.asked)

    async def answer(self, route: Route) -> None:
        parts = urlsplit(route.request.url)
        path = parts.path
        if not path.startswith(("/api/", "/auth/")):
            await _file(route, path)
            return
        self.asked.append(f"{path}?{parts.query}")
        asked = f"{route.request.method} {path}"
        if not asked.startswith("GET "):
            self.sent.append((asked, route.request.post_data_json))
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        own = next(
            (one for start, one in self.own.items() if path.startswith(start) or asked.startswith(start)),
            None,
        )
        found = own(path, given) if own else self.usual(path)
        status, body = found if isinstance(found, tuple) else await found
        await route.fulfill(status=status, content_type="application/json", body=json.dumps(body))

    def usual(self, path: str) -> Answer:
        """Return the default answer for a path."""
        if path == "/auth/session":
            return self.session
        if path == TASKS:
            return 200, {"items": list(self.tasks.values()), "next": None}
        if path.startswith(f"{TASKS}/"):
            task = self.tasks.get(path.removeprefix(f"{TASKS}/"))
            return (200, task) if task else (404, {"detail": "there is no such task"})
        return 200, {"items": [], "next": None, "unread": 0}


async def _file(route: Route, path: str) -> None:
    file = sources.LINK / path.lstrip("/")
    if not file.is_file():
        file = sources.LINK / "index.html"
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    await route.fulfill(content_type=kind, body=Path(file).read_bytes())


def row(page: Page, title: str) -> Any:
    return page.locator(".task-row", has_text=title)


def written(task: str, version: int) -> dict[str, Any]:
    return {"id": task, "stream": f"task-{task}", "version": version, "position": f"0-{version}"}


async def happened(page: Page, kind: str, one: str, position: str) -> None:
    """Have the live stream report an event."""
    event = {"event_type": f"{kind}.x", "aggregate_type": kind, "aggregate_id": one, "position": position}
    await page.evaluate("([id, event]) => opened.at(-1).say('message', id, event)", [position, event])


async def has(found: Sized, least: int) -> bool:
    """Return whether at least `least` items were found; for use with `until`."""
    return len(found) >= least


async def asked_for(services: Services, path: str, times: int) -> bool:
    """Return whether a path was requested at least `times` times; for use with `until`."""
    return services.count(path) >= times


async def has_sent(services: Services, least: int) -> bool:
    """Return whether at least `least` changes were sent; for use with `until`."""
    return len(services.sent) >= least


def operates(services: Services, role: str) -> None:
    """Give the signed-in user this role."""
    session = services.session[1]
    assert isinstance(session, dict)
    services.session = (200, session | {"role": role})


def noticed(name: str, **data: object) -> dict[str, Any]:
    """Return an unread notice."""
    at = datetime.now(UTC).isoformat()
    return {"id": name, "kind": "x", "data": data, "read_at": None, "created_at": at}
