"""Fills a running suite with a believable week of data, through the sidecars only. It can be run again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, StreamId
from annals.store import Append, ConflictError, DaprEventStore
from demo import story
from suite import manifest
from suite.paths import ROOT
from suite.profiles import DEFAULT_PROFILE, DEFAULT_STORE, Choice

_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_ENDED = ("completed", "compensated", "failed")
_OTHER_LANES = range(40, 48)
"""Lanes for the importer: the command service on one machine never leases lanes this high."""

console = Console()
Step = Callable[[], None]


class Failed(Exception):
    """Raised if a service answers something that the story does not expect, or a saga takes too long."""


class Suite:
    """A client of the services, which calls each through the service's own sidecar, on behalf of a user."""

    def __init__(self) -> None:
        choice = Choice.of(DEFAULT_PROFILE, DEFAULT_STORE)  # all choices have the same ports
        apps = manifest.read(ROOT / "dapr.yaml", choice.broker, choice.store)
        self.ports = {app.app_id: app.ports for app in apps}
        self.http = httpx.Client(timeout=_SECONDS, trust_env=False)  # no proxy reaches this machine

    def ask(
        self, app: str, method: str, path: str, by: str, body: Any = None, *, known: tuple[int, ...] = ()
    ) -> httpx.Response:
        """Send a request and return the answer. Raises Failed for an error status that is not in `known`."""
        url = f"http://127.0.0.1:{self.ports[app].http}/v1.0/invoke/{app}/method/{path}"
        headers = {
            "x-user-id": by,
            "idempotency-key": str(uuid5(NAMESPACE_URL, f"demo {method} {path} {body}")),
        }
        answer = self.http.request(method, url, json=body, headers=headers)
        if not answer.is_success and answer.status_code not in known:
            raise Failed(f"{method} {app}/{path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def command(self, kind: str, by: str, **data: Any) -> None:
        """Send a command; if a rule refuses it (422), an earlier run has sent it already."""
        self.ask("command", "POST", f"commands/{kind}", by, data, known=(422,))

    def saga(self, saga_id: str) -> dict[str, Any]:
        """Return a saga's current state."""
        return dict(self.ask("saga-orchestrator", "GET", f"sagas/{saga_id}", "demo").json())

    def wait(self, saga_id: str, there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `there` accepts a saga's state, and return that. Raises Failed after a minute."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = self.saga(saga_id)
            if there(found):
                return found
            time.sleep(_LOOK_SECONDS)
        raise Failed(f"the saga {saga_id} is still {found['status']} after {_SECONDS:.0f} s")


def steps(suite: Suite) -> Iterator[tuple[str, Step]]:
    """Yield each step of the story in order, with the title to show meanwhile."""
    for person in story.PEOPLE:
        yield person.name, partial(_person, suite, person)
    for item in story.ITEMS:
        yield item.title, partial(_task, suite, item)
    for rule_id, rule, title in story.RECURRING:
        yield title, partial(_recurring, suite, rule_id, rule, title)
    for number, handover in enumerate(story.HANDOVERS):
        yield f"{handover.task} to {handover.to}", partial(_hand_over, suite, handover, f"demo-{number}")
    yield "a saga that fails", partial(_terminated, suite)
    yield "a dead letter", lambda: asyncio.run(_poison(suite.ports["command"].grpc))


def _person(suite: Suite, person: story.Person) -> None:
    suite.command("member.register", "ada", id=person.id, name=person.name, capacity=person.capacity)


def _at(hours: float | None) -> str | None:
    """Return the time `hours` from now, on the full hour, so that a second run soon sends the same data."""
    if hours is None:
        return None
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return (now + timedelta(hours=round(hours))).isoformat()


def _task(suite: Suite, item: story.Item) -> None:
    body = {
        "id": item.id,
        "title": item.title,
        "description": item.text,
        "priority": item.priority,
        "tags": [item.project, *item.more],
        "due": _at(item.due),
        "assignee": item.to,
    }
    suite.command("task.create", item.by, **body)
    for edit in item.edits:
        suite.command("task.update", item.to or item.by, id=item.id, **edit)
    if item.moved is not None:
        suite.command("task.set_due_date", item.by, id=item.id, due=_at(item.moved))
    if item.done:
        suite.command("task.complete", item.to or item.by, id=item.id)
    if item.reopened:
        suite.command("task.reopen", item.by, id=item.id)


def _recurring(suite: Suite, rule_id: str, rule: str, title: str) -> None:
    body = {
        "rule": rule,
        "timezone": "Europe/Berlin",
        "start": "2026-01-01T08:00:00+01:00",
        "command": {"type": "task.create", "data": {"title": title, "tags": ["routine"]}},
    }
    suite.ask("notification", "PUT", f"recurrences/{rule_id}", "ada", body)


def _hand_over(suite: Suite, handover: story.Handover, saga_id: str) -> None:
    body = {"task_id": handover.task, "assignee": handover.to, "deadline": handover.deadline}
    suite.ask("saga-orchestrator", "POST", f"sagas/task-handover?id={saga_id}", handover.by, body)
    found = suite.wait(saga_id, lambda saga: bool(saga["waits_for"]) or saga["status"] in _ENDED)
    if found["status"] in _ENDED:
        return
    if handover.answer is not None:
        path = f"sagas/{saga_id}/events/{handover.answer}"
        suite.ask("saga-orchestrator", "POST", path, handover.to)
    if handover.answer is not None or handover.deadline.startswith("PT"):
        suite.wait(saga_id, lambda saga: saga["status"] in _ENDED)


def _terminated(suite: Suite) -> None:
    handover, saga_id = story.TERMINATED, "demo-terminated"
    body = {"task_id": handover.task, "assignee": handover.to, "deadline": handover.deadline}
    suite.ask("saga-orchestrator", "POST", f"sagas/task-handover?id={saga_id}", handover.by, body)
    suite.wait(saga_id, lambda saga: bool(saga["waits_for"]) or saga["status"] in _ENDED)
    reason = {"reason": "Farid is ill; ended by hand, to be taken back later"}
    # 422: since an earlier run, somebody has retried the saga and it was compensated, which is final.
    suite.ask("saga-orchestrator", "POST", f"sagas/{saga_id}/terminate", "ada", reason, known=(422,))


async def _poison(grpc_port: int) -> None:
    """Append an invalid event past the command service, as an old importer might; no read model takes it."""
    sidecar = DaprSidecar(grpc_port, timeout=_SECONDS)
    store = DaprEventStore(sidecar, owner="legacy-importer", lanes=_OTHER_LANES)
    running = asyncio.create_task(store.run())
    stream = StreamId.of("default", "task", story.POISONED)
    kinds = (("task.created", story.POISON), ("task.assigned", {"assignee": "farid", "previous": None}))
    try:
        async with asyncio.timeout(_SECONDS):
            while store.lane is None:
                await asyncio.sleep(_LOOK_SECONDS)
        for version, (kind, data) in enumerate(kinds):
            event = DomainEvent(
                event_type=kind,
                source="legacy-importer",
                user_id="importer",
                aggregate_type="task",
                aggregate_id=story.POISONED,
                data=data,
            )
            await store.append(Append(stream, (event,), version))
    except ConflictError:
        return  # written by an earlier run
    finally:
        await store.drain()
        await running
        await sidecar.close()


def main() -> int:
    """Run all steps of the story and show the progress; return the exit code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    suite = Suite()
    told = list(steps(suite))
    columns = (
        TextColumn("A week of data"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=len(told))
            for what, step in told:
                progress.update(task, description=what)
                step()
                progress.advance(task)
            progress.update(task, description="")
    except httpx.TransportError as error:
        console.print(f"The suite does not answer ({error}): see `make status`; `make start` starts it.")
        return 1
    except Failed as error:
        console.print(str(error), highlight=False)
        return 1
    console.print("Look at http://127.0.0.1:8080")
    return 0


if __name__ == "__main__":
    sys.exit(main())
