"""The app behind a sidecar: on a port of this machine, or an ASGI app in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import httpx

Asgi = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
App = int | Asgi


class AppChannel:
    """A sidecar's connection to its app. The lifespan of an ASGI app is left to the test."""

    def __init__(self, app: App) -> None:
        self._port = app if isinstance(app, int) else None
        transport = None if isinstance(app, int) else httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port or 80}",
            transport=transport,
            timeout=None,  # noqa: S113  # Dapr waits until the app answers
            trust_env=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> httpx.Response:
        """Call the app. Raises httpx.HTTPError when it does not answer."""
        url = f"/{path.lstrip('/')}{f'?{query}' if query else ''}"
        return await self._client.request(method, url, content=content, headers=headers)

    async def listening(self) -> None:
        """Wait until the app accepts connections; an ASGI app always does."""
        while self._port is not None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    async def close(self) -> None:
        """Close the connections to the app."""
        await self._client.aclose()
