"""The FastAPI application that every service starts from."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from annals.web.openapi import describe_api
from annals.web.problems import Problem, invalid, malformed, not_json, on_problem, problem_response
from annals.web.request_context import traceparent_of
from annals.web.settings import ServiceSettings

_log = structlog.get_logger(__name__)
_POLICY_VIOLATION = 1008  # a WebSocket close code: RFC 6455, 7.4.1
_NO_DOCS: Mapping[str, Any] = {"docs_url": None, "redoc_url": None}
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

Ready = Callable[[], Awaitable[Mapping[str, str]]]
Endpoint = Callable[[Request], Awaitable[Response]]


async def _starting() -> Mapping[str, str]:
    return {"service": "it is starting"}


class ServiceApp(FastAPI):
    """A service's application; `draining` is true once shutdown has been requested."""

    draining = False
    ready: Ready
    """Returns what the service still lacks, name to reason; empty means ready. The lifespan assigns it."""

    def __init__(self, *, sidecar_only: str | None = None, **options: Any) -> None:
        """If `sidecar_only` is given, refuse requests that do not carry this token (see `SidecarOnly`)."""
        super().__init__(**options)
        self._sidecar_only = sidecar_only
        self._direct: dict[str, Endpoint] = {}
        self.ready = _starting

    def direct(self, prefix: str, endpoint: Endpoint) -> None:
        """Let `endpoint` answer each POST to a path one segment below `prefix`, without FastAPI's layers.

        Those layers take longer than deciding a command. Declare the routes as usual, too: the OpenAPI
        document and all other methods need them.
        """
        self._direct[prefix] = endpoint

    def build_middleware_stack(self) -> ASGIApp:
        """Put direct endpoints, HEAD and the check of the sidecar's token in front of Starlette's layers."""
        layers = super().build_middleware_stack()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                prefix, _, value = scope["path"].rpartition("/")
                if value and (endpoint := self._direct.get(prefix)) is not None:
                    response = await _answer(endpoint, Request(scope, receive))
                    await response(scope, receive, send)
                    return
            if scope["type"] == "http" and scope["method"] == "HEAD":
                await layers({**scope, "method": "GET"}, receive, _head_alone(send))
                return
            await layers(scope, receive, send)

        return app if self._sidecar_only is None else SidecarOnly(app, self._sidecar_only)


def _head_alone(send: Send) -> Send:
    """Wrap `send` to send only the head of the response to a GET, as HEAD demands (RFC 9110, 9.3.2).

    FastAPI's routes do not answer HEAD. The response ends after its head, so a streaming response is told
    that the client is gone.
    """

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return send_head


async def _answer(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except Problem as problem:
        return problem_response(problem)
    except Exception as error:  # noqa: BLE001 - FastAPI, which this path bypasses, would catch all too
        return failed(request, error)


def failed(request: Request, error: Exception) -> Response:
    """Return the response to an unexpected exception, and log it."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # the client is gone, so nobody reads this
    # The span of a command has ended by now, so the log does not add its trace.
    traceparent = traceparent_of(request)
    trace_id = traceparent.split("-")[1] if traceparent else None
    tenant = request.headers.get("x-tenant-id")
    _log.error("request failed", path=request.url.path, tenant=tenant, trace_id=trace_id, exc_info=error)
    found = f", at trace_id {trace_id}" if trace_id else ""
    return problem_response(Problem(500, "internal", f"internal error; the service's log says more{found}"))


def create_app(
    title: str,
    settings: ServiceSettings,
    *,
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]],
    public: bool = False,
) -> ServiceApp:
    """Create an application with health checks, metrics and problem details.

    A `public` application is reachable by others than its sidecar, so it serves neither metrics nor the
    documentation pages of its API.
    """
    # The sidecar already records a span for each request, and commands and projections record their own.
    quiet: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
    token = settings.app_api_token
    app = ServiceApp(
        sidecar_only=token.get_secret_value() if token else None,
        title=title,
        lifespan=lifespan,
        telemetry=quiet,
        **(_NO_DOCS if public else {}),
    )

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        """Answer that the process is alive; /readyz checks what it depends on."""
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        missing = {"service": "it is shutting down"} if app.draining else await app.ready()
        if missing:
            problem = Problem(503, "not-ready", "the service lacks something that it needs", missing=missing)
            return problem_response(problem)
        return Response(b'{"status":"ready"}', media_type="application/json")

    if not public:

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        if isinstance(error.body, bytes):  # not parsed: its content type is not JSON
            return problem_response(malformed("content-type", "application/json"))
        errors = error.errors()
        if errors[0]["type"] == "json_invalid":
            return problem_response(not_json(errors[0]["ctx"]["error"]))
        return problem_response(invalid([{**one, "loc": one["loc"][1:]} for one in errors]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem_response(Problem(error.status_code, "http", detail, headers=error.headers))

    @app.exception_handler(Exception)
    async def on_error(request: Request, error: Exception) -> Response:
        return failed(request, error)

    app.add_exception_handler(Problem, on_problem)
    app.add_middleware(NoNul)
    describe_api(app, public=public)
    return app


class NoNul:
    """Refuses URLs that contain NUL: databases cannot store it, so nothing has such a name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            await problem_response(malformed("(address)", "no NUL"))(scope, receive, send)
            return
        await self._app(scope, receive, send)


class SidecarOnly:
    """Refuses requests without the token that only the sidecar knows, except health checks and metrics."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] in ("http", "websocket") and scope["path"] not in _OPEN_PATHS:
            given = dict(scope["headers"]).get(b"dapr-api-token", b"")
            if not hmac.compare_digest(given, self._token):
                if scope["type"] == "websocket":
                    await WebSocketClose(_POLICY_VIOLATION)(scope, receive, send)
                    return
                problem = Problem(401, "unauthorised", "only the sidecar may call this service")
                await problem_response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)
