"""Service invocation: HTTP calls to another app through both sidecars."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from yarl import URL

CONNECTIONS = 200  # open to the sidecar at the same time, at most
# Problem types with which a service refuses the request itself.
_REFUSALS = frozenset({"forbidden", "key-reused", "malformed", "not-found", "rule", "too-large"})


class NotAnswered(Exception):
    """No complete answer came; whether the other app did anything is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An app's answer; `body` is its JSON, or its text if it is not JSON."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the status says success (2xx)."""
        return 200 <= self.status < 300

    @property
    def problem(self) -> str:
        """The type of problem that the answer reports, such as `rule`; empty if it reports none."""
        kind = self.body.get("type", "") if isinstance(self.body, dict) else ""
        return kind.removeprefix("urn:annals:problem:") if isinstance(kind, str) else ""

    @property
    def refused(self) -> bool:
        """Whether a service of Annals refuses the request itself, so that it will refuse it again.

        A sidecar's own refusal does not count: it may pass, for example while a token is being replaced.
        """
        return self.problem in _REFUSALS

    @property
    def message(self) -> str:
        """What the answer says, as a text for people."""
        if isinstance(self.body, dict):
            detail = self.body.get("detail") or self.body.get("message")
            errors = self.body.get("errors")
            return f"{detail or self.body}{f': {errors}' if errors else ''}"
        return str(self.body)[:500]


class Opened:
    """An answer whose body is still to come. The caller must close it in any case."""

    def __init__(self, app: str, response: aiohttp.ClientResponse) -> None:
        self._app = app
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises NotAnswered if it breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{self._app} broke off: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close the answer without waiting for the rest of the body."""
        self._response.close()


class ServiceInvocation:
    """Calls other apps. Create one on the running event loop, share it, and close it."""

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
        """Close the connections to the sidecar."""
        await self._session.close()

    async def invoke(
        self,
        app: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        within: float | None = None,
    ) -> Answer:
        """Call an app and return its answer. Raises NotAnswered if the answer is missing or incomplete.

        `within` is how many seconds the answer may take; without it, only the caller limits the call.

        If an app dies between the head of its answer and the body, the sidecar passes on the head and ends
        the body as if it were complete (seen with daprd 1.18). An answer is therefore incomplete if its JSON
        breaks off, or if it is a success with an empty body and not a 204.
        """
        url = f"/v1.0/invoke/{app}/method/{path}"
        body = None if json is None else orjson.dumps(json)
        given = {"content-type": "application/json", **(headers or {})}
        try:
            async with (
                asyncio.timeout(within),
                self._session.request(method, url, data=body, headers=given) as response,
            ):
                body = await response.read()
        except aiohttp.ClientError as error:  # first, as those of its own timeouts are TimeoutErrors too
            raise NotAnswered(f"{app} did not answer: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise NotAnswered(f"{app} did not answer within {within:g} s") from error
        try:
            return Answer(response.status, orjson.loads(body), response.headers)
        except orjson.JSONDecodeError as error:
            if response.content_type.endswith("json"):  # problem+json too
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
        """Call an app and return its answer while the body is still to come. Raises NotAnswered.

        `path` must be URL-encoded already. Only the caller limits how long the answer may take.
        """
        url = URL(f"/v1.0/invoke/{app}/method/{path}", encoded=True)
        try:
            return Opened(app, await self._session.request(method, url, data=body, headers=headers))
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{app} did not answer: {type(error).__name__}: {error}") from error
