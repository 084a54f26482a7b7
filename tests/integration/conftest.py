"""The whole suite, for the tests that speak to it as its users do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from suite.suite import Suite

COMMAND = "http://127.0.0.1:3501/v1.0/invoke/command/method"
PROJECTOR = "http://127.0.0.1:3502/v1.0/invoke/projector/method"


TASK = {"title": "Write the report", "due": "2030-01-01T09:00:00Z"}


class Client:
    """What a user does: commands and queries through sidecars."""

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

    async def created(self, **headers: str) -> dict[str, Any]:
        answer = await self.command("task.create", TASK, **headers)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def whole_trace(self, event_id: str) -> bool:
        """Whether Zipkin shows one trace from the command to the read model."""
        event = (await self.query(f"events/{event_id}")).json()
        trace_id = event["traceparent"].split("-")[1]
        answer = await self.http.get(f"http://127.0.0.1:9411/api/v2/trace/{trace_id}")
        names = {span["name"] for span in answer.json()} if answer.status_code == 200 else set()
        return {"command task.create", "append", "publish domain-events", "project task.created"} <= names


@pytest.fixture(scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite("embedded", home=tmp_path_factory.mktemp("suite")) as suite:
        yield suite


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=30) as http:
        yield Client(http)
