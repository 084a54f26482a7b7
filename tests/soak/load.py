"""Mixed load on a running suite from well-behaved callers, and a ledger of the answers they got."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx

PORTS = {"command": 3501, "projector": 3502, "saga-orchestrator": 3503, "notification": 3504}
TENANTS = ("default", "acme")
NAMELESS = ("", "[]", "7", '{"entries": 7}')
"""Hostile bodies without the word "hostile", by which the checks recognise all others."""
_ANSWER_SECONDS = 15.0
_PROBLEM = "urn:annals:problem:"


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer to a request, with the number of `tries` and times by the caller's clock."""

    status: int
    body: Any
    sent: float
    told: float
    tries: int = 1

    @property
    def done(self) -> bool:
        """Whether the request succeeded."""
        return self.status < 300


@dataclass(frozen=True, slots=True)
class Told:
    """A request that changes something, and the answer its caller got."""

    tenant: str
    kind: str
    data: Mapping[str, Any]
    key: str
    answer: Answer


@dataclass
class Ledger:
    """All answers that callers got. `wrong` lists the violations they saw themselves: kind and text."""

    commands: list[Told] = field(default_factory=list)
    sagas: list[Told] = field(default_factory=list)
    operations: set[tuple[str, str, str]] = field(default_factory=set)
    """What operators asked for: tenant, action and target."""
    recurrences: list[Told] = field(default_factory=list)
    notices: list[Told] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, str] = field(default_factory=dict)
    """Requests that are not answered yet."""
    queries: int = 0
    hostile: int = 0
    busy: int = 0
    """How often commands were refused because too many commits wait to be published."""


class Callers:
    """Sends requests through sidecars, and repeats each with the same key until it is answered."""

    def __init__(self, http: httpx.AsyncClient, ledger: Ledger) -> None:
        self.http = http
        self.ledger = ledger
        self._numbers = itertools.count()

    async def ask(
        self,
        app: str,
        method: str,
        path: str,
        tenant: str,
        *,
        json: Any = None,
        key: str | None = None,
        user: str = "caller",
    ) -> Answer:
        """Repeat a request until a service gives its final answer, and return that answer.

        No reply, a truncated reply, a reply of the sidecar itself, a 5xx and a 429 are not final.
        """
        headers = {"x-tenant-id": tenant, "x-user-id": user} | ({"idempotency-key": key} if key else {})
        url = f"http://127.0.0.1:{PORTS[app]}/v1.0/invoke/{app}/method/{path}"
        sent, tries, number = time.time(), 0, next(self._numbers)
        while True:
            tries += 1
            answer = await self.once(method, url, headers, json)
            if answer is not None and self.settles(answer):
                self.ledger.waiting.pop(number, None)
                body = answer.json() if answer.content else None
                return Answer(answer.status_code, body, sent, time.time(), tries)
            said = answer and f"{answer.status_code} {answer.text[:200]}"
            self.ledger.waiting[number] = f"{method} {app}/{path}, {tries} times: {said}"
            await asyncio.sleep(min(0.1 * tries, 1.0))

    async def once(
        self, method: str, url: str, headers: Mapping[str, str], json: Any = None, **body: Any
    ) -> httpx.Response | None:
        """Send a request once, count the outcome and return the response; None if there is none."""
        try:
            answer = await self.http.request(method, url, headers=headers, json=json, **body)
            problem = problem_of(answer)
        except (httpx.HTTPError, ValueError):
            self.ledger.statuses["no answer"] += 1
            return None
        self.ledger.statuses[str(answer.status_code)] += 1
        self.ledger.busy += problem == "busy"
        if problem == "internal":
            self.ledger.wrong.append(("answered 500", f"{method} {url}: {answer.text[:300]}"))
        return answer

    def settles(self, answer: httpx.Response) -> bool:
        """Return whether a response is a service's own and final."""
        if answer.status_code >= 500 or answer.status_code == 429:
            return False
        if answer.status_code < 300:
            # A process that dies while it answers leaves a head, and an empty body that looks complete.
            return bool(answer.content) or answer.status_code == HTTPStatus.NO_CONTENT
        return bool(problem_of(answer))

    async def command(self, tenant: str, kind: str, **data: Any) -> Told:
        """Send a command until it is answered, always with the same key; send one in ten once more."""
        key = f"{tenant}:{uuid.uuid4()}"
        answer = await self.ask("command", "POST", f"commands/{kind}", tenant, json=data, key=key)
        told = Told(tenant, kind, data, key, answer)
        self.ledger.commands.append(told)
        if answer.done and random.Random(key).random() < 0.1:
            again = await self.ask("command", "POST", f"commands/{kind}", tenant, json=data, key=key)
            if (again.status, again.body) != (answer.status, answer.body):
                text = f"{kind} {key}: {answer.status} {answer.body}, then {again.status} {again.body}"
                self.ledger.wrong.append(("answered differently", text))
        return told

    async def batch(self, tenant: str, size: int) -> None:
        """Create many tasks with batches; repeat those that were not taken, with their keys."""
        left = {f"{tenant}:{uuid.uuid4()}": {"title": f"{tenant} burst"} for _ in range(size)}
        sent = dict.fromkeys(left, time.time())
        tries = Counter[str]()
        url = f"http://127.0.0.1:{PORTS['command']}/v1.0/invoke/command/method/commands:batch"
        while left:
            tries.update(left.keys())
            items = [{"type": "task.create", "data": d, "idempotency_key": k} for k, d in left.items()]
            answer = await self.once("POST", url, {"x-tenant-id": tenant}, items)
            results = answer.json()["results"] if answer is not None and answer.status_code == 200 else []
            for item, result in zip(items, results, strict=bool(results)):
                status, key = result["status"], item["idempotency_key"]
                self.ledger.statuses[f"{status} in a batch"] += 1
                self.ledger.busy += result.get("type") == f"{_PROBLEM}busy"
                if status < 500:
                    said = {name: value for name, value in result.items() if name != "status"}
                    last = Answer(status, said, sent[key], time.time(), tries[key])
                    self.ledger.commands.append(Told(tenant, "task.create", left.pop(key), key, last))
            if left:
                await asyncio.sleep(0.5)

    async def start_saga(self, tenant: str, kind: str, **data: Any) -> Told:
        """Start a saga under a new id."""
        saga_id = str(uuid.uuid4())
        answer = await self.ask("saga-orchestrator", "POST", f"sagas/{kind}?id={saga_id}", tenant, json=data)
        told = Told(tenant, kind, data, saga_id, answer)
        self.ledger.sagas.append(told)
        return told

    async def query(self, tenant: str, path: str) -> Answer:
        """Query the projector; a 504, from a read model that is behind, is asked again."""
        self.ledger.queries += 1
        return await self.ask("projector", "GET", f"queries/{path}", tenant)


def problem_of(answer: httpx.Response) -> str:
    """Return the type of a problem that a service answered, without its prefix; empty for anything else."""
    if answer.status_code < 400 or "problem" not in answer.headers.get("content-type", ""):
        return ""
    body = answer.json()
    kind = str(body.get("type", "")) if isinstance(body, dict) else ""
    return kind.removeprefix(_PROBLEM) if kind.startswith(_PROBLEM) else ""


def client(connections: int) -> httpx.AsyncClient:
    """Return the callers' HTTP client."""
    return httpx.AsyncClient(
        timeout=_ANSWER_SECONDS, limits=httpx.Limits(max_connections=connections), trust_env=False
    )


async def lead_tasks(callers: Callers, tenant: str, stop: asyncio.Event) -> None:
    """Create, assign and complete tasks, the plainest load, until told to stop."""
    while not stop.is_set():
        task = (await callers.command(tenant, "task.create", title=f"{tenant} under load")).answer.body
        await callers.command(tenant, "task.assign", id=task["id"], assignee="ada")
        await callers.command(tenant, "task.complete", id=task["id"])


class Mixed:
    """A caller that uses everything the suite offers, at random: see `life`, `handover` and so on."""

    def __init__(self, callers: Callers, tenant: str, dice: random.Random, stop: asyncio.Event) -> None:
        self._callers = callers
        self._tenant = tenant
        self._dice = dice
        self._stop = stop
        self._members: list[str] = []
        self._held: list[tuple[str, str]] = []

    async def run(self) -> None:
        """Go on until told to stop."""
        for _ in range(3):
            await self._join()
        await self._recur()
        deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self.life),
            (6, self.handover),
            (3, self.remind),
            (2, self.capacity),
            (2, self.notify),
            (1, self.offboard),
        ]
        weights, choices = [weight for weight, _ in deeds], [deed for _, deed in deeds]
        while not self._stop.is_set():
            await self._dice.choices(choices, weights)[0]()

    async def life(self) -> None:
        """Take a task through random commands, valid or not. Its assignees are not members."""
        dice, send = self._dice, self._callers.command
        task = await self._task(tags=["life"], priority=dice.choice(["low", "normal", "high"]))
        users = [f"{self._tenant}-user{number}" for number in range(4)]
        deeds: list[tuple[str, dict[str, Any]]] = [
            ("task.assign", {"assignee": dice.choice(users)}),
            ("task.update", {"title": f"{self._tenant} changed", "tags": ["x", "ü"], "description": None}),
            ("task.assign", {"assignee": dice.choice(users)}),
            ("task.unassign", {}),
            ("task.assign", {"assignee": dice.choice(users)}),
            ("task.complete", {}),
            ("task.reopen", {}),
            ("task.delete", {}),
            ("task.set_due_date", {"due": "2031-05-01T10:00:00+02:00"}),
        ]
        last = None
        for kind, data in (deeds[0], *dice.sample(deeds, dice.randint(1, 6))):
            told = await send(self._tenant, kind, id=task, **data)
            if told.answer.done:
                last = told
        if last is not None and dice.random() < 0.5:
            await self._read_own_write(task, last)

    async def _read_own_write(self, task: str, last: Told) -> None:
        position, version = last.answer.body["position"], last.answer.body["version"]
        found = await self._callers.query(self._tenant, f"tasks/{task}?position={position}")
        deleted = any(
            told.kind == "task.delete" and told.data["id"] == task and told.answer.done
            for told in self._callers.ledger.commands[-2_000:]
        )
        if deleted or (found.done and found.body["version"] >= version):
            return
        said = found.body.get("version") if found.done else found.status
        text = f"task {task} at {position} has version {version}; a query that waited for it said {said}"
        self._callers.ledger.wrong.append(("own write not read", text))

    async def handover(self) -> None:
        """Hand a task over. The assignee accepts, declines or stays silent, or the task is completed."""
        dice = self._dice
        if self._held and dice.random() < 0.3:
            task, _ = self._held.pop(dice.randrange(len(self._held)))  # on to the next, or the same
        else:
            task = await self._task(tags=["handed over"])
        member = dice.choice(self._members)
        deadline = dice.choice((4, 8, 30))
        told = await self._callers.start_saga(
            self._tenant, "task-handover", task_id=task, assignee=member, deadline=f"PT{deadline}S"
        )
        answer = dice.choices(("accept", "decline", None, "complete"), (5, 2, 2, 1))[0]
        await asyncio.sleep(dice.uniform(0, 1.5))
        if answer == "complete":
            await self._callers.command(self._tenant, "task.complete", id=task)
        elif answer is not None and told.answer.done:
            # If a saga for the same task and input was started before, the answer carries its id.
            saga_id = str(told.answer.body["id"])
            halted = dice.random() < 0.2
            if halted:
                await self._halt(saga_id)
            await self._answer(saga_id, answer, member)
            if halted:
                await self._go_on(saga_id)
        if answer == "accept":
            self._held.append((task, member))
        if len(self._held) > 4:
            task, _ = self._held.pop(0)
            kind = dice.choice(("task.complete", "task.delete", "task.unassign", "task.assign"))
            other = {"assignee": f"{self._tenant}-user0"} if kind == "task.assign" else {}
            await self._callers.command(self._tenant, kind, id=task, **other)

    async def _halt(self, saga_id: str) -> None:
        """Suspend a saga, once or twice, and insist on no answer: nobody restarts a suspended saga."""
        url = f"http://127.0.0.1:{PORTS['saga-orchestrator']}/v1.0/invoke/saga-orchestrator/method/sagas"
        self._callers.ledger.operations.add((self._tenant, "suspend", saga_id))
        for _ in range(self._dice.choice((1, 2))):
            await self._callers.once("POST", f"{url}/{saga_id}/suspend", {"x-tenant-id": self._tenant})

    async def _go_on(self, saga_id: str) -> None:
        """Resume a saga, once or twice."""
        self._callers.ledger.operations.add((self._tenant, "resume", saga_id))
        for _ in range(self._dice.choice((1, 2))):
            await self._callers.ask("saga-orchestrator", "POST", f"sagas/{saga_id}/resume", self._tenant)

    async def _answer(self, saga_id: str, event: str, member: str) -> None:
        """Answer as the member who is asked; one time in five, somebody else tries first, in vain."""
        path = f"sagas/{saga_id}/events/{event}"
        users = ("caller", member) if self._dice.random() < 0.2 else (member,)
        for user in users:
            said = await self._callers.ask("saga-orchestrator", "POST", path, self._tenant, user=user)
            if said.done if user != member else said.status == 403:
                text = f"{user} answers {event} to {saga_id}, which {member} is asked: {said.status}"
                self._callers.ledger.wrong.append(("wrong one heard", text))

    async def remind(self) -> None:
        """Make a task or its reminder due soon; then move, finish or reassign the task, or leave it alone."""
        dice = self._dice
        soon = dice.uniform(3, 25)
        before = dice.choice((timedelta(0), timedelta(0), timedelta(hours=1), timedelta(hours=24)))
        due = datetime.now(UTC) + timedelta(seconds=soon) + before
        users = [f"{self._tenant}-due{number}" for number in dice.sample(range(3), 2)]
        task = await self._task(tags=["due"], due=due.isoformat(), assignee=users[0])
        match dice.choice(("leave", "leave", "move", "complete", "clear", "reopen", "reassign")):
            case "move":
                moved = datetime.now(UTC) + timedelta(seconds=dice.uniform(3, 25)) + before
                await self._callers.command(self._tenant, "task.set_due_date", id=task, due=moved.isoformat())
            case "complete":
                await self._callers.command(self._tenant, "task.complete", id=task)
            case "clear":
                await self._callers.command(self._tenant, "task.set_due_date", id=task, due=None)
            case "reopen":
                await self._callers.command(self._tenant, "task.complete", id=task)
                await self._callers.command(self._tenant, "task.reopen", id=task)
            case "reassign":
                await self._callers.command(self._tenant, "task.assign", id=task, assignee=users[1])

    async def capacity(self) -> None:
        """Change a member's limit, and try commands that must be refused."""
        dice, send = self._dice, self._callers.command
        member = dice.choice(self._members)
        await send(self._tenant, "member.set_capacity", id=member, capacity=dice.randint(1, 4))
        await send(self._tenant, "member.register", id=member, name=f"{self._tenant} again", capacity=1)
        await send(self._tenant, "task.complete", id=f"none-{uuid.uuid4()}")
        await self._callers.query(self._tenant, "tasks?limit=5")
        await self._callers.query(self._tenant, f"members/{member}")

    async def notify(self) -> None:
        """Publish an integration event, at once or some seconds later."""
        event_id = str(uuid.uuid4())
        data: dict[str, Any] = {
            "event_id": event_id,
            "event_type": "notification.requested",
            "data": {"user": f"{self._tenant}-user0", "kind": "soak"},
        }
        if self._dice.random() < 0.5:
            later = datetime.now(UTC) + timedelta(seconds=self._dice.uniform(2, 15))
            data["delay_until"] = later.isoformat()
        answer = await self._callers.ask("notification", "POST", "events", self._tenant, json=data)
        self._callers.ledger.notices.append(Told(self._tenant, "events", data, event_id, answer))

    async def offboard(self) -> None:
        """Have a member leave, and a new member asked to take over; do so three times in ten."""
        if self._dice.random() < 0.7:
            return
        leaves = self._members.pop(self._dice.randrange(len(self._members)))
        joins = await self._join()
        await self._callers.command(
            self._tenant, "member.leave", id=leaves, successors=[joins], deadline="PT3S"
        )

    async def _join(self) -> str:
        member = f"m-{uuid.uuid4()}"
        await self._callers.command(
            self._tenant, "member.register", id=member, name=f"{self._tenant} member", capacity=3
        )
        self._members.append(member)
        return member

    async def _recur(self) -> None:
        """Create a task every minute; no occurrence may be missing."""
        row_id = f"each-minute-{uuid.uuid4()}"
        data = {
            "rule": "FREQ=MINUTELY",
            "start": datetime.now(UTC).replace(microsecond=0).isoformat(),
            "catch_up": "all",
            "command": {"type": "task.create", "data": {"title": f"{self._tenant} recurs"}},
        }
        answer = await self._callers.ask(
            "notification", "PUT", f"recurrences/{row_id}", self._tenant, json=data
        )
        self._callers.ledger.recurrences.append(Told(self._tenant, "recurrence", data, row_id, answer))

    async def _task(self, **data: Any) -> str:
        told = await self._callers.command(self._tenant, "task.create", title=f"{self._tenant} task", **data)
        return str(told.answer.body["id"])
