"""The routes of live streams: `/stream` (Server-Sent Events) and `/ws` (WebSocket)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers, QueryParams

from annals.store import StoreError
from annals.web import Problem
from annals.web.parameters import require_known
from annals.web.problems import malformed, unavailable
from annals.web.request_context import tenant_of
from annals_notification.streams import positions
from annals_notification.streams.filters import TOPICS, Filter
from annals_notification.streams.hub import Hub, TooMany, TooSlow

_FILTERS = ("topic", "type", "stream", "user")
# Values of one filter. Each event is compared with all filters of all clients, which blocks the event loop.
_MOST_NAMED = 20
_Named = Annotated[list[str] | None, Query(description=f"at most {_MOST_NAMED} values")]
_EVENT_STREAM = "text/event-stream"
_POLICY_VIOLATION, _TRY_AGAIN = 1008, 1013
_REASON_BYTES = 123


def routes(hub: Hub) -> APIRouter:
    """Return the router for live streams."""
    router = APIRouter()

    @router.get(
        "/stream",
        summary="Live events, as Server-Sent Events",
        response_class=StreamingResponse,
        responses={200: {"content": {_EVENT_STREAM: {"schema": {"type": "string"}}}}},
    )
    async def stream(
        request: Request,
        topic: _Named = None,  # noqa: ARG001 - documented here, read below
        type: _Named = None,  # noqa: A002, ARG001
        stream: _Named = None,  # noqa: ARG001
        user: _Named = None,  # noqa: ARG001
        after: str | None = None,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> StreamingResponse:
        """To continue where a stream ended, on any replica, send its last id: `Last-Event-ID`, or `after`."""
        wanted = _filter(request.query_params, tenant_of(request))
        seen = _seen("Last-Event-ID", last_event_id) or _seen("after", after)
        listening = hub.listen(wanted, seen)
        try:
            first = await anext(listening)
        except TooMany as error:
            raise Problem(503, "busy", str(error), headers={"Retry-After": "5"}) from error
        except StoreError as error:
            raise unavailable(str(error)) from error
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(_sse(first, listening), media_type=_EVENT_STREAM, headers=headers)

    @router.websocket("/ws")
    async def websocket(socket: WebSocket) -> None:
        try:
            wanted = _filter(socket.query_params, _tenant(socket.headers))
            seen = _seen("after", socket.query_params.get("after"))
        except Problem as problem:
            await socket.accept()
            errors = (f"{error['field']}: {error['expected']}" for error in problem.fields["errors"])
            await socket.close(_POLICY_VIOLATION, _reason("; ".join(errors)))
            return
        await socket.accept()
        try:
            async for token, events in hub.listen(wanted, seen):
                await socket.send_text(f'{{"id":"{token}","events":[{",".join(events)}]}}')
            await socket.close(_TRY_AGAIN, "this replica is shutting down")
        except (TooSlow, TooMany, StoreError) as error:
            await socket.close(_TRY_AGAIN, _reason(str(error)))
        except WebSocketDisconnect:
            return

    return router


async def _sse(
    first: tuple[str, list[str]], listening: AsyncIterator[tuple[str, list[str]]]
) -> AsyncIterator[str]:
    """Yield a live stream as Server-Sent Events, with heartbeats of type `alive`.

    A heartbeat moves the client's position on. It has data, as a browser ignores an event without any.
    """
    yield f"retry: 1000\n{_alive(first[0])}"
    try:
        async for seen, events in listening:
            # Only the last event of a commit has the id: a client that is cut off halfway gets the whole
            # commit again.
            for text in events[:-1]:
                yield f"data: {text}\n\n"
            yield f"id: {seen}\ndata: {events[-1]}\n\n" if events else _alive(seen)
    except (TooSlow, StoreError) as error:
        yield f"event: cut\ndata: {error}\n\n"


def _reason(text: str) -> str:
    """Return as much of a text as fits into a close frame (RFC 6455, 5.5)."""
    return text.encode()[:_REASON_BYTES].decode(errors="ignore")


def _alive(seen: str) -> str:
    return f"event: alive\nid: {seen}\ndata: {{}}\n\n"


def _filter(parameters: QueryParams, tenant: str) -> Filter:
    require_known(parameters, ("after",), often=_FILTERS)
    named = {name: tuple(parameters.getlist(name)) for name in _FILTERS}
    for name, values in named.items():
        if len(values) > _MOST_NAMED:
            raise malformed(name, f"{_MOST_NAMED} at most")
    for topic in named["topic"]:
        if topic not in TOPICS:
            raise malformed("topic", f"one of {', '.join(TOPICS)}")
    for kind in named["type"]:
        if "*" in kind[:-1]:
            raise malformed("type", "a star only at the end, as in task.*")
    return Filter(tenant, *named.values())


def _seen(name: str, token: str | None) -> dict[int, int] | None:
    if not token:
        return None
    try:
        return positions.parse(token)
    except ValueError as error:
        raise malformed(name, f"an id of this stream: {error}") from error


def _tenant(headers: Headers) -> str:
    return tenant_of(Request({"type": "http", "headers": headers.raw}))
