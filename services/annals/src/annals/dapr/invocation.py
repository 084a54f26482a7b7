"""Service invocation: HTTP to another app by way of both sidecars."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from yarl import URL

CONNECTIONS = 200
_REFUSALS = frozenset({"forbidden", "key-reused", "malformed", "not-found", "rule", "too-large"})


class NotAnswered(Exception):
    """No answer came: whether the other app did anything is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an app answered; `body` is its JSON, or its text when it is none."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

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
    def refused(self) -> bool:
        """Whether one of our services refuses the request itself: the same will be refused again.

        A sidecar's own refusal is none, as while a token is being replaced.
        """
        return self.problem in _REFUSALS

    @property
    def message(self) -> str:
        """What it says, for people."""
        if isinstance(self.body, dict):
            detail = self.body.get("detail") or self.body.get("message")
            errors = self.body.get("errors")
            return f"{detail or self.body}{f': {errors}' if errors else ''}"
        return str(self.body)[:500]


class Opened:
    """An answer whose body is still to come. Close it, whatever happens."""

    def __init__(self, app: str, response: aiohttp.ClientResponse) -> None:
        self._app = app
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises NotAnswered when it breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{self._app} broke off: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Let go of it; what has not come yet is not waited for."""
        self._response.close()


class ServiceInvocation:
    """Calls other apps. Create it on the running loop, share it, close it.

    How long another app may take is for the caller to say, with `asyncio.timeout`.
    """

    def __init__(
        self, http_port: int, *, api_token: str | None = None, connections: int = CONNECTIONS
    ) -> None:
        self._session = aiohttp.ClientSession(
            base_url=f"http://127.0.0.1:{http_port}",
            headers={"dapr-api-token": api_token} if api_token else None,
            connector=aiohttp.TCPConnector(limit=connections),
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
        """Call an app. Raises NotAnswered, also for JSON that broke off, and for a success that says nothing.

        Where an app dies between the head of its answer and the body, the sidecar passes on the head, and
        ends the body as if that were all (seen with daprd 1.18). A 204 is whole without one.
        """
        url = f"/v1.0/invoke/{app}/method/{path}"
        body = None if json is None else orjson.dumps(json)
        given = {"content-type": "application/json", **(headers or {})}
        try:
            async with self._session.request(method, url, data=body, headers=given) as response:
                body = await response.read()
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{app} did not answer: {type(error).__name__}: {error}") from error
        try:
            return Answer(response.status, orjson.loads(body), response.headers)
        except orjson.JSONDecodeError as error:
            if response.content_type.endswith("json"):  # a problem is too
                raise NotAnswered(f"{app} broke off in the middle of its answer") from error
            answer = Answer(response.status, body.decode(errors="replace"), response.headers)
            if answer.ok and not body and answer.status != 204:
                raise NotAnswered(f"{app} answered {answer.status} and not a word") from error
            return answer

    async def open(
        self,
        app: str,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Opened:
        """Call an app and pass its answer on as it comes: `path` is encoded already. Raises NotAnswered."""
        url = URL(f"/v1.0/invoke/{app}/method/{path}", encoded=True)
        try:
            return Opened(app, await self._session.request(method, url, data=body, headers=headers))
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{app} did not answer: {type(error).__name__}: {error}") from error
