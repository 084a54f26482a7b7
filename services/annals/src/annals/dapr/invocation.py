"""Service invocation: HTTP to another app by way of both sidecars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson


class NotAnswered(Exception):
    """No answer came: whether the other app did anything is not known."""


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


class ServiceInvocation:
    """Calls other apps. Create it on the running loop, share it, close it.

    How long another app may take is for the caller to say, with `asyncio.timeout`.
    """

    def __init__(self, http_port: int, *, host: str = "127.0.0.1", api_token: str | None = None) -> None:
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
        url = f"/v1.0/invoke/{app}/method/{path}"
        body = None if json is None else orjson.dumps(json)
        given = {"content-type": "application/json", **(headers or {})}
        try:
            async with self._session.request(method, url, data=body, headers=given) as response:
                return Answer(response.status, _parse(await response.read()))
        except aiohttp.ClientError as error:
            raise NotAnswered(f"{app} did not answer: {type(error).__name__}: {error}") from error


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
