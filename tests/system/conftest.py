"""Clients that speak to a running suite as its users do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import nats
import pytest
from dapr.proto import api_v1
from nats.js.errors import NotFoundError

from annals.dapr import DaprError, DaprSidecar
from annals.events import new_id
from annals.sagas.history import SagaKey
from annals.sagas.runs import instance_id
from conftest import beyond_loopback, until
from documented import as_documented
from suite import infra, profiles
from suite.suite import Suite

COMMAND = "http://127.0.0.1:3501/v1.0/invoke/command/method"
PROJECTOR = "http://127.0.0.1:3502/v1.0/invoke/projector/method"


TASK = {"title": "Write the report", "due": "2030-01-01T09:00:00Z"}


class Client:
    """Sends commands and queries through sidecars, as a user does."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def command(self, kind: str, data: object, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"{COMMAND}/commands/{kind}", json=data, headers=names)

    async def query(self, path: str, *, tenant: str = "default", **parameters: object) -> httpx.Response:
        values = {name.rstrip("_"): str(value) for name, value in parameters.items()}
        return await self.http.get(
            f"{PROJECTOR}/queries/{path}", params=values, headers={"x-tenant-id": tenant}
        )

    async def items(self, path: str, **given: Any) -> list[dict[str, Any]]:
        """Return the items that a query lists, or none if it fails now. For use with `until`."""
        answer = await self.query(path, **given)
        return list(answer.json()["items"]) if answer.status_code == 200 else []

    async def shown(self, path: str, position: str, **given: Any) -> dict[str, Any]:
        """Return a query's answer once the read models have reached `position`; until then it answers 504."""

        async def there() -> httpx.Response | None:
            answer = await self.query(path, position=position, **given)
            return None if answer.status_code == 504 else answer

        answer: httpx.Response = await until(there, 60, f"{path} to be shown at {position}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def operate(
        self, method: str, path: str, *, json: object = None, tenant: str = "default"
    ) -> httpx.Response:
        """Call an operator's route of the projector."""
        headers = {"x-tenant-id": tenant, "x-user-id": "ada"}
        return await self.http.request(method, f"{PROJECTOR}/{path}", json=json, headers=headers)

    async def created(self, **headers: str) -> dict[str, Any]:
        answer = await self.command("task.create", TASK, **headers)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def whole_trace(self, event_id: str) -> bool:
        """Return whether Zipkin has one trace from the command to the read model."""
        event = await self.query(f"events/{event_id}")
        if event.status_code != 200:
            return False
        trace_id = event.json()["traceparent"].split("-")[1]
        answer = await self.http.get(f"http://127.0.0.1:9411/api/v2/trace/{trace_id}")
        names = {span["name"] for span in answer.json()} if answer.status_code == 200 else set()
        return {"command task.create", "append", "publish domain-events", "project task.created"} <= names


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=30, event_hooks={"response": [as_documented]}) as http:
        yield Client(http)


async def in_topics(suite: Suite, text: str, topics: str = ">") -> int:
    """Count the broker's messages that contain a text."""
    broker = await nats.connect(infra.Nats(suite.home / ".annals" / "embedded", profiles.NATS_PORT).url)
    found, seq = 0, 1
    try:
        while True:
            message = await broker.jetstream().get_msg("annals", seq, subject=topics, next=True)
            found, seq = found + (text.encode() in (message.data or b"")), (message.seq or 0) + 1
    except NotFoundError:  # past the last message
        return found
    finally:
        await broker.close()


def open_to_the_network(suite: Suite) -> set[tuple[str, int]]:
    """Return the process and port of every socket that listens beyond loopback.

    The health ports of placement and scheduler are left out: they say only that the process is up, and Dapr
    1.18.2 ignores their `--healthz-listen-address` (pkg/healthz/server).
    """
    at = suite.control_plane.ports
    health = {(name, at[f"{name}_health"]) for name in ("placement", "scheduler")}
    return beyond_loopback({name: one.pid for name, one in suite.processes.items()}) - health


SAGAS = "http://127.0.0.1:3503/v1.0/invoke/saga-orchestrator/method/sagas"


@asynccontextmanager
async def workflow_engine() -> AsyncIterator[DaprSidecar]:
    """Connect to the orchestrator's sidecar, to inspect and end workflows behind the orchestrator's back."""
    sidecar = DaprSidecar(13503, timeout=5)
    try:
        yield sidecar
    finally:
        await sidecar.close()


async def workflow_reaches(saga_id: str, status: str, run: int = 0) -> None:
    """Wait until Dapr reports this status for the workflow of a saga, such as TERMINATED."""
    instance = instance_id(SagaKey(saga_id, "default"), run)
    request = api_v1.GetWorkflowRequest(instance_id=instance, workflow_component="dapr")

    async def there() -> bool:
        try:
            answer = await sidecar.call("GetWorkflowBeta1", request)
        except DaprError as error:
            # Dapr reads the workflow's keys one by one and reports this error if a turn was saved in between.
            if "missing from state store" in str(error):
                return False
            raise
        return bool(answer.runtime_status == status)

    async with workflow_engine() as sidecar:
        await until(there, what=f"the workflow of {saga_id} to be {status}")


class Sagas:
    """Uses sagas as a user does, and checks what they leave behind."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def post(self, path: str, data: object = None, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.http.post(f"{SAGAS}/{path}", json=data, headers=names)

    async def start(self, kind: str, data: object, **headers: str) -> str:
        answer = await self.post(kind, data, **headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def repeated(self, kind: str, data: object) -> bool:
        """Start a saga that may have been started before; return False if it has to be sent again."""
        answer = await self.post(kind, data)
        if answer.status_code == 503:
            assert "send it again" in answer.json()["detail"], answer.text
            return False
        assert answer.status_code == 202, answer.text
        return True

    async def get(self, saga_id: str, *, tenant: str = "default") -> dict[str, Any]:
        answer = await self.client.http.get(f"{SAGAS}/{saga_id}", headers={"x-tenant-id": tenant})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def reaches(self, saga_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until a saga has one of these statuses."""

        async def there() -> dict[str, Any] | None:
            answer = await self.client.http.get(f"{SAGAS}/{saga_id}", headers={"x-tenant-id": "default"})
            if answer.status_code == 404:  # a saga that an event starts exists only once the event is read
                return None
            assert answer.status_code == 200, answer.text
            saga = dict(answer.json())
            return saga if saga["status"] in statuses else None

        return dict(await until(there, seconds, f"{saga_id} to be {statuses}"))

    async def waits(self, saga_id: str, *, seconds: float = 30) -> None:
        """Wait until a saga waits for an answer."""

        async def waiting() -> bool:
            return bool((await self.get(saga_id))["waits_for"])

        await until(waiting, seconds, f"{saga_id} to wait for somebody")

    async def member(self, capacity: int = 3) -> str:
        """Register a member and return its id."""
        name = f"m-{new_id()}"
        answer = await self.client.command(
            "member.register", {"id": name, "name": name, "capacity": capacity}
        )
        assert answer.status_code == 201, answer.text
        return name

    async def handover(self, *, deadline: str = "PT1H", capacity: int = 3) -> tuple[str, str, str]:
        """Start a hand-over to a new member; return the ids of saga, task and member."""
        member, task = await self.member(capacity), (await self.client.created())["id"]
        given = {"task_id": task, "assignee": member, "deadline": deadline}
        saga_id = await self.start("task-handover", given)
        return saga_id, task, member

    async def answer(
        self, saga_id: str, member: str, event: str = "accept", data: object = None
    ) -> httpx.Response:
        """Answer as the member who is asked."""
        return await self.post(f"{saga_id}/events/{event}", data, x_user_id=member)

    async def handed_over_with_notice(self) -> None:
        """Run a hand-over whose assignee gets a notice and accepts, until the read model has it completed."""
        saga_id, task, member = await self.handover()
        inbox = f"http://127.0.0.1:3504/v1.0/invoke/notification/method/inbox/{member}"

        async def asked() -> bool:
            answer = await self.client.http.get(inbox)
            items = answer.json()["items"] if answer.status_code == 200 else []
            return "notification.requested" in {item["kind"] for item in items}

        await until(asked)
        await self.answer(saga_id, member)
        await self.reaches(saga_id, "completed")
        await self.check(saga_id, task, member)

        async def projected() -> bool:
            answer = await self.client.query(f"sagas/{saga_id}")
            return answer.status_code == 200 and answer.json()["status"] == "completed"

        await until(projected)

    async def facts(self, stream: str) -> list[dict[str, Any]]:
        """Return a stream's events, straight from the store."""
        answer = await self.client.query(f"streams/{stream}/events", limit=500)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    async def check(self, saga_id: str, task: str, member: str) -> None:
        """Check that task and capacity agree with the saga's end, and that nothing was done twice."""
        saga = await self.get(saga_id)
        kinds = [event["event_type"] for event in await self.facts(f"member-{member}")]
        once = ("step", "attempt", "compensation", "number", "run")
        told = [
            (event["event_type"], *(event["data"].get(name) for name in once))
            for event in await self.facts(f"saga-{saga_id}")
            if event["event_type"] not in ("saga.suspended", "saga.continued", "saga.failed")
        ]
        assert len(set(told)) == len(told), f"a transition was recorded twice: {told}"
        assert kinds.count("member.reserved") <= 1, "capacity was reserved twice"
        changes = await self.facts(f"task-{task}")
        assignee = None
        for event in changes:
            if event["event_type"] in ("task.assigned", "task.unassigned"):
                assignee = event["data"]["assignee"] if event["event_type"] == "task.assigned" else None
        if saga["status"] == "completed":
            assert kinds[1:] == ["member.reserved"], kinds
            assert assignee == member
            assert [event["event_type"] for event in changes].count("task.accepted") == 1
        else:
            assert saga["status"] == "compensated", saga
            assert kinds.count("member.reserved") == kinds.count("member.released"), kinds
            assert assignee is None


@pytest.fixture
async def sagas(client: Client) -> Sagas:
    return Sagas(client)
