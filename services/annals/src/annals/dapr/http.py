"""What is asked of the sidecar over HTTP: other apps, and the management of workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson


class NotAnswered(Exception):
    """No answer came: whether the other app did anything is not known."""


class WorkflowError(Exception):
    """The sidecar refused what was asked of a workflow."""


_NOT_FOUND = 404
_EXISTS = "already exists"
_NO_INSTANCE = "no such instance exists"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an app answered; `body` is its JSON, or its text when it is none."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def problem(self) -> str:
        """The kind of problem that it tells of, such as `rule`; empty when it is none of ours."""
        kind = self.body.get("type", "") if isinstance(self.body, dict) else ""
        return kind.removeprefix("urn:annals:problem:") if isinstance(kind, str) else ""

    @property
    def message(self) -> str:
        """What it says, for people."""
        if isinstance(self.body, dict):
            detail = self.body.get("detail") or self.body.get("message")
            errors = self.body.get("errors")
            return f"{detail or self.body}{f': {errors}' if errors else ''}"
        return str(self.body)[:500]


class DaprHttp:
    """The sidecar's HTTP API. Create it on the running loop, share it, close it.

    `timeout` is that of the sidecar's own answers, in seconds; how long another app may take is for
    whoever invokes it to say, with `asyncio.timeout`.
    """

    def __init__(
        self, http_port: int, *, host: str = "127.0.0.1", timeout: float = 10.0, api_token: str | None = None
    ) -> None:
        self._timeout = timeout
        self._session = aiohttp.ClientSession(
            base_url=f"http://{host}:{http_port}",
            headers={"dapr-api-token": api_token} if api_token else None,
            connector=aiohttp.TCPConnector(limit=200),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()

    async def invoke(
        self,
        app: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call an app. Raises NotAnswered."""
        return await self._ask(method, f"/v1.0/invoke/{app}/method/{path}", json, headers)

    async def start_workflow(self, name: str, instance: str, given: Any, traceparent: str | None) -> None:
        """Start a workflow, unless an instance of that id is running.

        An instance that has ended is started anew: whoever calls this looks first. Raises
        NotAnswered, TimeoutError and WorkflowError, as do the other calls about workflows.
        """
        headers = {"traceparent": traceparent} if traceparent else None
        answer = await self._workflow("POST", f"{name}/start?instanceID={instance}", given, headers)
        if not answer.ok and _EXISTS not in answer.message:
            raise WorkflowError(f"{instance} was not started: {answer.message}")

    async def workflow_status(self, instance: str) -> str | None:
        """A workflow's status, such as RUNNING; None when there is no such instance."""
        answer = await self._workflow("GET", instance)
        if answer.ok:
            return str(answer.body["runtimeStatus"])
        if answer.status == _NOT_FOUND or _NO_INSTANCE in answer.message:
            return None
        raise WorkflowError(f"{instance} cannot be looked at: {answer.message}")

    async def raise_workflow_event(self, instance: str, event: str, data: Any) -> None:
        """Raise an event for a workflow; it is kept until the workflow waits for it."""
        answer = await self._workflow("POST", f"{instance}/raiseEvent/{event}", data)
        if not answer.ok and _NO_INSTANCE not in answer.message:
            raise WorkflowError(f"{instance} was not told of {event}: {answer.message}")

    async def manage_workflow(self, instance: str, operation: str) -> None:
        """`terminate`, `pause`, `resume` or `purge` an instance; one that is not there is no error."""
        answer = await self._workflow("POST", f"{instance}/{operation}")
        if not answer.ok and _NO_INSTANCE not in answer.message:
            raise WorkflowError(f"cannot {operation} {instance}: {answer.message}")

    async def _workflow(
        self, method: str, path: str, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        async with asyncio.timeout(self._timeout):
            return await self._ask(method, f"/v1.0/workflows/dapr/{path}", json, headers)

    async def _ask(
        self, method: str, path: str, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        body = None if json is None else orjson.dumps(json)
        given = {"content-type": "application/json", **(headers or {})}
        try:
            async with self._session.request(method, path, data=body, headers=given) as response:
                return Answer(response.status, _parse(await response.read()))
        except aiohttp.ClientError as error:
            raise NotAnswered(f"no answer from {path}: {type(error).__name__}: {error}") from error


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
