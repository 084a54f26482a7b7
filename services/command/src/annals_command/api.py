"""The HTTP API of commands: one command, one in its envelope, or a batch."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annals.aggregates import (
    CommandBus,
    CommandContext,
    CommandRequest,
    CommandResult,
    KeyReused,
    UnknownCommand,
)
from annals.events import CommandEvent, HeaderId, Priority
from annals.store import StoreUnavailable, Undecodable
from annals.web.app import Endpoint
from annals.web.domain_problems import LOOK_FIRST, REPEAT, domain_problems
from annals.web.openapi import headers, json_body
from annals.web.problems import Problem, damaged, from_validation, malformed, unavailable
from annals.web.request_body import json_object, json_value
from annals.web.request_context import client_of, id_of, tenant_of, traceparent_of
from annals_command.openapi import CONTEXT, Written, described

_BATCH = 1_000
# The lowest status of a failure after which the caller sends the command again.
_TRANSIENT = 500
_NOT_TRIED = (
    "it was not tried, because an earlier command of this batch for the same aggregate has to be sent again;"
    " send both, in this order"
)
_MAYBE_EARLIER = "this request changed nothing, but an earlier one with the same key may have: repeat it"
# Printable ASCII, as the draft of the header says, without `||`, which Dapr reserves in keys. Commands of all
# callers share transactions, so a key that the store refuses would delay other callers' commands.
_KEY = re.compile(r"(?!.*\|\|)[\x20-\x7e]{1,256}")
_IF_MATCH = re.compile(r'(?:W/)?"(\d{1,15})"')


# What a command carries itself is refused in a header: if the two differed, one would be ignored.
_OF_AN_ENVELOPE = {"Idempotency-Key": "`event_id` in the envelope", "If-Match": "`expected_version` in it"}
# With one key for a batch, equal commands would count as repeats of one, and all others be refused.
_OF_A_BATCH = {
    "Idempotency-Key": "`idempotency_key` of each command",
    "If-Match": "`expected_version` in the data of each",
}


class CommandToSend(CommandEvent):
    """A command in its envelope. Its ids must be valid in headers too, in which services pass them on.

    Fields that the service does not act on must have their neutral value.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    correlation_id: HeaderId | None = None
    """By default that of the header, else `causation_id`; without either, the command starts a new one."""
    user_id: HeaderId | None = None
    session_id: HeaderId | None = None
    client: None = None
    """Must be null: the edge or the sidecar says where a command comes from."""
    priority: Literal[Priority.NORMAL] = Priority.NORMAL
    delay_until: None = None
    """Must be null: a command is carried out at once."""


class BatchItem(BaseModel):
    """One command of a batch."""

    model_config = ConfigDict(extra="forbid")

    type: str
    data: dict[str, Any]
    idempotency_key: str | None = None


Batch = Annotated[list[BatchItem], Field(min_length=1, max_length=_BATCH)]


class BatchAnswer(BaseModel):
    """The results, in the order of the commands: a `status`, and the fields of a response or of a problem."""

    results: list[dict[str, Any]]


def post_one(bus: CommandBus, admit: Callable[[], None]) -> Endpoint:
    """Return the endpoint of `POST /commands/{type}`. FastAPI validates nothing: the bus does, once."""

    async def post(request: Request) -> Response:
        admit()
        body = json_object(await request.body())
        command_type = request.scope["path"].rpartition("/")[2]
        key = _key("Idempotency-Key", id_of(request, "idempotency-key"))
        return _response(await _execute(bus, _request(request, command_type, body, key)))

    return post


def routes(bus: CommandBus, admit: Callable[[], None] = lambda: None) -> APIRouter:
    """Return the router of `POST /commands/{type}`, `/commands` and `/commands:batch`.

    `admit` raises a Problem while the service accepts no commands. Raises ValueError for a command without a
    field `id`: a batch could not keep the order of its aggregate's commands.
    """
    router = APIRouter()
    one = post_one(bus, admit)
    for command_type, handler in bus.handlers.items():
        if "id" not in handler.command.model_fields:
            raise ValueError(f"{handler.command.__name__} has no field `id`, the id of its aggregate")
        router.add_api_route(f"/commands/{command_type}", one, methods=["POST"], **described(handler))
    router.add_route("/commands/{unknown}", one, methods=["POST"])

    @router.post(
        "/commands",
        summary="Send a command in its whole envelope",
        description="The envelope replaces headers: its `event_id` is the idempotency key, and it may have an"
        " `expected_version`. The headers `Idempotency-Key` and `If-Match` are refused; so are `x-tenant-id`,"
        " `x-user-id`, `x-session-id` and `x-correlation-id` if they differ from the envelope.",
        response_model=Written,
        responses={201: {"model": Written, "description": "Done, and the aggregate is new."}},
        openapi_extra={"parameters": headers(*CONTEXT)} | json_body(CommandToSend),
    )
    async def post_envelope(request: Request) -> Response:
        admit()
        _refuse(request, _OF_AN_ENVELOPE)
        body = json_object(await request.body())
        try:
            envelope = CommandToSend.model_validate(body)
        except ValidationError as error:
            raise from_validation(error) from error
        tenant = tenant_of(request)
        if "tenant_id" in envelope.model_fields_set and envelope.tenant_id != tenant:
            raise malformed("tenant_id", f"the tenant of the request, which is {tenant}")
        command = CommandRequest(
            envelope.command_type.removesuffix(".command"),
            envelope.command_data,
            CommandContext(
                tenant,
                _said_once(request, "x-user-id", "user_id", envelope.user_id),
                _said_once(request, "x-session-id", "session_id", envelope.session_id),
                client_of(request),
                # From the body: the model fills in a default, which the header must override.
                _said_once(request, "x-correlation-id", "correlation_id", body.get("correlation_id") or None)
                or envelope.correlation_id,
                traceparent_of(request) or envelope.traceparent,
            ),
            # From the body: the outcome of a command whose id the model generated need not be kept.
            _key("event_id", body.get("event_id") or None),
            envelope.expected_version,
        )
        return _response(await _execute(bus, command))

    @router.post(
        "/commands:batch",
        summary=f"Send up to {_BATCH:,} commands; those of one aggregate keep their order",
        description="Each command may have an `idempotency_key`, and an `expected_version` in its data."
        " If a command cannot be carried out now, or its outcome is unknown, the later ones of its aggregate"
        " are not tried. The headers `Idempotency-Key` and `If-Match` are refused.",
        response_model=BatchAnswer,
        openapi_extra={"parameters": headers(*CONTEXT)} | json_body(Batch),
    )
    async def post_batch(request: Request) -> Response:
        admit()
        _refuse(request, _OF_A_BATCH)
        items = _array(await request.body())
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            data = item.get("data")
            key = data.get("id") if isinstance(data, dict) else None
            groups[key if isinstance(key, str) else index].append(index)
        results: list[dict[str, Any]] = [{}] * len(items)

        async def run(indices: list[int]) -> None:
            for place, index in enumerate(indices, start=1):
                results[index] = await _batch_item(bus, request, items[index])
                if results[index]["status"] >= _TRANSIENT:
                    for later in indices[place:]:
                        results[later] = unavailable(_NOT_TRIED).body()
                    return

        await asyncio.gather(*(run(indices) for indices in groups.values()))
        return Response(orjson.dumps({"results": results}, default=str), media_type="application/json")

    return router


def _refuse(request: Request, refused: dict[str, str]) -> None:
    for header, instead in refused.items():
        if header in request.headers:
            raise malformed(header, f"no such header; use {instead}")


def _said_once(request: Request, header: str, field: str, given: str | None) -> str | None:
    """Return an id from the envelope or the header. Raises a Problem if the two differ."""
    said = id_of(request, header)
    if said is not None and given is not None and given != said:
        raise malformed(field, f"the value of the header {header}, or none")
    return said if given is None else given


async def _batch_item(bus: CommandBus, request: Request, item: dict[str, Any]) -> dict[str, Any]:
    try:
        one = BatchItem.model_validate(item)
        key = _key("idempotency_key", one.idempotency_key)
        result = await _execute(bus, _request(request, one.type, one.data, key))
    except ValidationError as error:
        return from_validation(error).body()
    except Problem as problem:
        return problem.body()
    return {"status": 201 if result.created else 200} | _answer(result)


def _request(request: Request, command_type: str, body: dict[str, Any], key: str | None) -> CommandRequest:
    expected = body.pop("expected_version", None)
    if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool) or expected < 0):
        raise malformed("expected_version", "a whole number, 0 or more")
    if (header := request.headers.get("if-match")) is not None:
        match = _IF_MATCH.fullmatch(header)
        if match is None:
            raise malformed("If-Match", 'a version in quotes, such as "3"')
        if expected not in (None, int(match[1])):
            raise malformed(
                "expected_version", f"the version in the header If-Match, which is {match[1]}, or none"
            )
        expected = int(match[1])
    return CommandRequest(
        command_type,
        body,
        CommandContext(
            tenant_of(request),
            id_of(request, "x-user-id"),
            id_of(request, "x-session-id"),
            client_of(request),
            id_of(request, "x-correlation-id"),
            traceparent_of(request),
        ),
        key,
        expected,
    )


def _key(field: str, given: str | None) -> str | None:
    """Return the idempotency key that `field` holds. Raises a Problem for a key that no store accepts."""
    if given is not None and not _KEY.fullmatch(given):
        raise malformed(field, f"like {_KEY.pattern}")
    return given


async def _execute(bus: CommandBus, command: CommandRequest) -> CommandResult:
    """Execute a command. Raises a Problem for every failure that is expected."""
    keyed = command.idempotency_key is not None
    with domain_problems(REPEAT if keyed else LOOK_FIRST):
        try:
            return await bus.execute(command)
        except Undecodable as error:
            raise damaged(error) from error
        except StoreUnavailable as error:
            if not keyed:
                raise
            raise unavailable(f"{error}; {_MAYBE_EARLIER}") from error
        except UnknownCommand as error:
            raise Problem(404, "unknown-command", str(error), known=error.known) from error
        except KeyReused as error:
            raise Problem(422, "key-reused", str(error)) from error


def _answer(result: CommandResult) -> dict[str, Any]:
    appended = result.appended
    return {
        "id": result.aggregate_id,
        "stream": appended.stream.name,
        "version": appended.version,
        "position": str(appended.position),
    }


def _response(result: CommandResult) -> Response:
    return Response(
        orjson.dumps(_answer(result)),
        201 if result.created else 200,
        {"ETag": f'"{result.appended.version}"'},
        "application/json",
    )


def _array(body: bytes) -> list[dict[str, Any]]:
    value = json_value(body)
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= _BATCH
        or not all(isinstance(i, dict) for i in value)
    ):
        raise malformed("(body)", f"a JSON array of 1 to {_BATCH} objects")
    return value
