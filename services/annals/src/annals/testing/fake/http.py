"""The HTTP API of a sidecar: its health, and the invocation of other apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from aiohttp import web

from annals.testing.fake.errors import Refused
from annals.testing.fake.faults import Faults

if TYPE_CHECKING:
    from annals.testing.fake.dapr import FakeDapr

_HOP_BY_HOP = frozenset({"host", "connection", "transfer-encoding", "content-length", "content-encoding"})


class HttpSide:
    """Serves the HTTP port of a sidecar."""

    def __init__(self, dapr: FakeDapr, app_id: str, faults: Faults) -> None:
        self._dapr = dapr
        self._app_id = app_id
        self._faults = faults
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> int:
        """Serve on `port`, or on a free one if it is 0, and return the port."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1.0/healthz", self._well)
        app.router.add_get("/v1.0/healthz/outbound", self._well)
        app.router.add_route("*", "/v1.0/invoke/{app}/method/{path:.*}", self._invoke)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _well(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _invoke(self, request: web.Request) -> web.Response:
        callee = request.match_info["app"]
        try:
            self._faults.before("invoke")
        except Refused as error:
            return _failed(callee, error.details)
        sidecar = self._dapr.sidecar_of(callee)
        if sidecar is None or sidecar.app is None:
            return _failed(callee, f"couldn't find service: {callee}")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        headers |= {"dapr-caller-app-id": self._app_id, "dapr-callee-app-id": callee}
        try:
            answer = await sidecar.app.call(
                request.method,
                request.match_info["path"],
                content=await request.read(),
                headers=headers,
                query=request.query_string,
            )
        except httpx.HTTPError as error:
            return _failed(callee, f"error invoking app: {error}")
        try:
            self._faults.after("invoke")
        except Refused:
            if request.transport is not None:
                request.transport.abort()
        given = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        return web.Response(status=answer.status_code, body=answer.content, headers=given)


def _failed(callee: str, why: str) -> web.Response:
    message = f"failed to invoke, id: {callee}, err: {why}"
    return web.json_response({"errorCode": "ERR_DIRECT_INVOKE", "message": message}, status=500)
