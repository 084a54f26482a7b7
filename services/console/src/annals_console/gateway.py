"""Passes requests that the rules allow to the services, through the sidecar, and streams the responses."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from annals.dapr import Answer, NotAnswered, Opened, ServiceInvocation
from annals.web.domain_problems import LOOK_FIRST, REPEAT
from annals.web.openapi import json_body
from annals.web.problems import MEDIA_TYPE, Problem, malformed
from annals.web.request_body import json_object
from annals_console.access import OWN, RULES, Rule, check_recurrence
from annals_console.identity import Identity, Role

CONNECTIONS = 2_500
"""The most connections to the sidecar. Requests wait while all are in use."""
_STREAMS = 2_000
"""The most live streams; each keeps a connection for as long as somebody watches it."""
_STREAMS_OF_ONE = 100
"""The most live streams of one user; a page opens one."""
_ANSWER_SECONDS = 30.0  # for a service to begin its response
_DRAIN_SECONDS = 1.0  # between two checks of whether a live stream has to end
_LARGEST_BODY = 1024 * 1024  # bytes of a request
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~@:-]{1,256}")
_PARAMETER = re.compile(r"\{(\w+)\}")
_EVENT_STREAM = "text/event-stream"

# The headers that are passed on. The edge itself sets all headers that say who the caller is.
_REQUEST_HEADERS = ("accept", "content-type", "idempotency-key", "if-match", "last-event-id")
_RESPONSE_HEADERS = (
    "content-type",
    "etag",
    "retry-after",
    "cache-control",
    "content-disposition",
    "traceparent",
)

_KEYS_OF_SERVICES = ("saga:", "recurrence:")
"""Prefixes of the idempotency keys of sagas and recurrences, which callers may not use: a service's command
is refused if its key was used before, for another command."""

Authenticate = Callable[[Request], Awaitable[Identity]]


class _Streams:
    """Counts the open live streams, also by user: they must leave connections for all other requests."""

    def __init__(self) -> None:
        self._of: Counter[tuple[str, str]] = Counter()

    def room_for(self, identity: Identity) -> bool:
        """Whether the caller may open another live stream."""
        own = self._of[identity.tenant, identity.user]
        return own < _STREAMS_OF_ONE and self._of.total() < _STREAMS

    @contextmanager
    def held(self, identity: Identity) -> Iterator[None]:
        """Count a live stream while the context is open.

        Enter it only once the response is being sent: if the client has gone before, nothing is sent, and
        nothing would end the count.
        """
        whose = Counter({(identity.tenant, identity.user): 1})
        self._of += whose
        try:
            yield
        finally:
            self._of -= whose


def routes(
    invocation: ServiceInvocation, authenticate: Authenticate, draining: Callable[[], bool]
) -> APIRouter:
    """Return the `/api/{service}/…` router, with a route for each rule."""
    router = APIRouter(prefix="/api")
    streams = _Streams()

    def add(rule: Rule) -> None:
        async def pass_on(request: Request) -> Response:
            identity = await authenticate(request)
            path = _path(rule, identity, request.path_params)
            _require(rule, identity)
            body = await _body(request)
            if rule.fields_of_services:
                rule.refuse_fields_of_services(json_object(body))
            if (
                rule.service == "notification"
                and rule.method == "PUT"
                and rule.path.startswith("recurrences/")
            ):
                body = orjson.dumps(check_recurrence(identity, json_object(body)))
            if rule.path == "recurrences/{id}/resume":
                one = path.removesuffix("/resume")
                check_recurrence(identity, await _known(invocation, rule, one, _headers(request, identity)))
            if query := _query(rule, identity, request):
                path = f"{path}?{query}"
            opened = await _open(invocation, rule, path, body, _headers(request, identity))
            headers = {name: opened.headers[name] for name in _RESPONSE_HEADERS if name in opened.headers}
            headers.setdefault("cache-control", "no-store")
            if headers.get("content-type", "").startswith(_EVENT_STREAM):
                if not streams.room_for(identity):
                    opened.close()
                    detail = "too many live streams are open at this replica"
                    raise Problem(503, "busy", detail, headers={"Retry-After": "5"})
                headers["x-accel-buffering"] = "no"
                live = _live(opened, streams.held(identity), draining, identity.until)
                return StreamingResponse(live, opened.status, headers)
            return StreamingResponse(_whole(opened), opened.status, headers)

        public = _public(rule)
        body = json_body(Any, required=False) if rule.method in ("POST", "PUT") else {}
        router.add_api_route(
            f"/{rule.service}/{public}",
            pass_on,
            methods=[rule.method],
            summary=rule.summary,
            description=f"Role: {rule.role.title}."
            + (" `user` must be the caller." if OWN in rule.path else "")
            + (f" For the data of other users: {rule.role_for_others.title}." if rule.role_for_others else "")
            + (f" To choose the `id`: {rule.role_to_choose_id.title}." if rule.role_to_choose_id else "")
            + (f" It takes the parameters that `{rule.service}` takes." if rule.method == "GET" else "")
            + (f" It takes the body that `{rule.service}` takes." if body else "")
            + (f" It refuses {_named(rule.fields_of_services)}." if rule.fields_of_services else ""),
            response_class=Response,  # of the content type that the service sends
            responses={
                "2XX": {"description": "As the service answers.", "content": {"application/json": {}}}
            },
            tags=[rule.service],
            operation_id=f"{rule.method} {rule.service}/{public}",
            openapi_extra={"parameters": [_described(name) for name in _PARAMETER.findall(public)]} | body,
        )

    for rule in RULES:
        add(rule)
    return router


def _public(rule: Rule) -> str:
    """Return a rule's path as the router and the OpenAPI document have it.

    There, a parameter has the same name in all rules with the same path.
    """
    return rule.path.replace(OWN, "{user}")


def _named(fields: Iterable[str]) -> str:
    return " and ".join(f"`{field}`" for field in fields)


def _described(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _path(rule: Rule, identity: Identity, given: dict[str, str]) -> str:
    """Return the path at the service. Raises a Problem for a malformed id, and for another user's path."""
    for value in given.values():
        if not _SEGMENT.fullmatch(value):
            raise Problem(400, "malformed", f"{value[:100]!r} is not an id")
    if OWN in rule.path and given["user"] != identity.user:
        raise Problem(403, "forbidden", f"you are {identity.user}: this belongs to another user")
    return _PARAMETER.sub(lambda found: quote(given[found[1]], safe="~@:"), _public(rule))


def _query(rule: Rule, identity: Identity, request: Request) -> str:
    """Return the query string, with the caller as its `user` if the rule demands that.

    Raises a Problem if the caller asks for another user's data, or chooses an id without the role for it.
    """
    if (
        rule.role_to_choose_id is not None
        and identity.role < rule.role_to_choose_id
        and "id" in request.query_params
    ):
        needed = rule.role_to_choose_id.title
        raise Problem(403, "forbidden", f"choosing an id needs the role {needed}", needed=needed)
    if rule.role_for_others is None or rule.role_for_others <= identity.role:
        return request.url.query
    given = request.query_params.multi_items()
    if any(value != identity.user for name, value in given if name == "user"):
        needed = rule.role_for_others.title
        detail = f"you are {identity.user}: the data of other users needs the role {needed}"
        raise Problem(403, "forbidden", detail, needed=needed)
    return urlencode([(name, value) for name, value in given if name != "user"] + [("user", identity.user)])


def _require(rule: Rule, identity: Identity) -> None:
    if identity.role < rule.role:
        needed, has = rule.role.title, identity.role.title
        whose = "this concerns all tenants and" if rule.role is Role.SUITE_OPERATOR else "this"
        raise Problem(403, "forbidden", f"{whose} needs the role {needed}; yours is {has}", needed=needed)


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > _LARGEST_BODY:
            raise Problem(413, "too-large", f"a request may have at most {_LARGEST_BODY} bytes")
    return bytes(received)


def _headers(request: Request, identity: Identity) -> dict[str, str]:
    """Return the headers for the service. Raises a Problem for a key that callers may not use."""
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    if headers.get("idempotency-key", "").startswith(_KEYS_OF_SERVICES):
        raise malformed("Idempotency-Key", f"a key that does not begin with {' or '.join(_KEYS_OF_SERVICES)}")
    headers |= {
        "x-tenant-id": identity.tenant,
        "x-user-id": identity.user,
        "x-session-id": identity.session,
    }
    if request.client is not None:
        headers["x-forwarded-for"] = request.client.host
    return headers


async def _open(
    invocation: ServiceInvocation, rule: Rule, path: str, body: bytes, headers: dict[str, str]
) -> Opened:
    again = None if rule.method == "GET" else REPEAT if "idempotency-key" in headers else LOOK_FIRST
    async with _in_time(rule.service, again):
        opened = await invocation.open(rule.service, rule.method, path, body=body or None, headers=headers)
    if _is_away(opened):
        opened.close()
        raise _unanswered(again, f"{rule.service} cannot be reached")
    return opened


async def _known(
    invocation: ServiceInvocation, rule: Rule, path: str, headers: dict[str, str]
) -> dict[str, Any]:
    """Return the object that a service answers to a GET. Raises a Problem if there is no such answer."""
    async with _in_time(rule.service, None):
        answer = await invocation.invoke(rule.service, "GET", path, headers=headers)
    if _is_away(answer):
        raise _unanswered(None, f"{rule.service} cannot be reached")
    if not answer.ok:
        raise Problem(answer.status, answer.problem or "unavailable", answer.message)
    return dict(answer.body)


def _is_away(answer: Answer | Opened) -> bool:
    """Whether the response is the sidecar's own: it did not find the service, or got no answer from it.

    A service's own 500 is a problem. The sidecar's text names internal addresses, so it is not passed on.
    """
    return answer.status == 500 and not answer.headers.get("content-type", "").startswith(MEDIA_TYPE)


def _unanswered(again: str | None, detail: str, status: int = 503, kind: str = "unavailable") -> Problem:
    """Return the problem for a missing answer.

    `again` says how to repeat a request that may have taken effect all the same; a GET has none.
    """
    if again is not None:
        kind = "outcome-unknown"
        detail += f"; it may have done what was asked: {again}"
    return Problem(status, kind, detail, headers={"Retry-After": "2"})


@asynccontextmanager
async def _in_time(service: str, again: str | None) -> AsyncIterator[None]:
    """Raise a Problem if the service does not answer, or not in time; `again` is as for `_unanswered`."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            yield
    except NotAnswered as error:
        # Its text may name the address of the sidecar.
        raise _unanswered(again, f"no answer came from {service}") from error
    except TimeoutError as error:
        detail = f"{service} did not answer within {_ANSWER_SECONDS:.0f} s"
        raise _unanswered(again, detail, 504, "timeout") from error


async def _whole(opened: Opened) -> AsyncIterator[bytes]:
    """Yield a body. If it breaks off, so does the connection: nobody may take a part for the whole."""
    try:
        async for chunk in opened.chunks():
            yield chunk
    finally:
        opened.close()


async def _live(
    opened: Opened, held: AbstractContextManager[None], draining: Callable[[], bool], until: float
) -> AsyncIterator[bytes]:
    """Yield a live stream until its service ends it, the console drains, or the caller's identity expires.

    The browser then reconnects and is authenticated again.
    """
    chunks = aiter(opened.chunks())
    coming: asyncio.Task[bytes] | None = None
    try:
        with held:
            while not draining() and time.time() < until:
                coming = coming or asyncio.ensure_future(_next(chunks))
                done, _ = await asyncio.wait({coming}, timeout=_DRAIN_SECONDS)
                if done:
                    chunk, coming = coming.result(), None
                    if not chunk:
                        return
                    yield chunk
    except NotAnswered as error:
        yield f"event: cut\ndata: {error}\n\n".encode()
    finally:
        if coming is not None:
            coming.cancel()
        opened.close()


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks, b"")
