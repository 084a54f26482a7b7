"""An app that records what its sidecar sends and answers as the test tells it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from conftest import until

Answer = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the app."""

    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class RecordingApp:
    """Records every request. Each path first gives the answers queued for it, then always an empty 200."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, deque[Answer | Callable[[Any], str]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def answer(self, path: str, *answers: Answer | Callable[[Any], str]) -> None:
        self.answers[path] += answers

    def to(self, path: str, marker: str = "") -> list[Call]:
        """Return the requests to a path whose bodies contain `marker`; the marker tells tests apart."""
        return [call for call in self.calls if call.path == path and marker.encode() in call.body]

    async def called(self, path: str, marker: str = "", times: int = 1, seconds: float = 60) -> list[Call]:
        async def there() -> list[Call] | None:
            return calls if len(calls := self.to(path, marker)) >= times else None

        return list(await until(there, seconds, f"{times} calls to {path}"))

    async def stays(self, path: str, marker: str, times: int) -> None:
        """Check that a path gets `times` requests, and no more within half a second."""
        await self.called(path, marker, times)
        await asyncio.sleep(0.5)
        assert len(self.to(path, marker)) == times

    async def handle(self, request: web.Request) -> web.Response:
        call = Call(
            request.path,
            await request.read(),
            {name.lower(): value for name, value in request.headers.items()},
        )
        self.calls.append(call)
        if request.path.startswith(("/dapr/", "/healthz")):
            return web.Response(status=404)
        if self.answers[request.path]:
            said = self.answers[request.path].popleft()
            if not isinstance(said, tuple):
                said = (200, said(call.json))
            return web.Response(status=said[0], text=said[1], content_type="application/json")
        if request.path == "/bulk":
            return web.Response(text=all_of(call.json), content_type="application/json")
        return web.Response()


def all_of(envelope: Any, status: str = "SUCCESS") -> str:
    """Return the bulk answer that gives every message the same status."""
    statuses = [{"entryId": entry["entryId"], "status": status} for entry in envelope["entries"]]
    return json.dumps({"statuses": statuses})


@asynccontextmanager
async def recording_app() -> AsyncIterator[RecordingApp]:
    """Serve the app on a free port and yield it."""
    app = RecordingApp()
    served = web.Application()
    served.router.add_route("*", "/{path:.*}", app.handle)
    runner = web.AppRunner(served, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    app.port = runner.addresses[0][1]
    try:
        yield app
    finally:
        await runner.cleanup()
