"""The HTTP API of the sagas."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
from operator import or_
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

from fastapi import APIRouter, Path, Query, Request, Response

from annals.dapr import DaprError, NotAnswered, ServiceInvocation
from annals.events import new_id
from annals.sagas import SagaCatalog, SagaState, SagaStatus
from annals.sagas.asker import Asker
from annals.sagas.catalog import NotDeclared, UnknownSaga
from annals.sagas.claims import ClaimContended, SagaRuns
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import NotBegun, Orchestrator, Started
from annals.store import StoreUnavailable, Undecodable
from annals.web import Problem
from annals.web.answers import Page, json_answer
from annals.web.domain_problems import domain_problems
from annals.web.openapi import headers, json_body, parameter
from annals.web.operations import GivenReason, Operations
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import damaged, malformed, unavailable
from annals.web.request_body import json_object, json_value
from annals.web.request_context import client_of, id_of, tenant_of, traceparent_of
from annals_saga_orchestrator.answers import Raised, SagaFound, SagaNow

_ID = r"[A-Za-z0-9_-]{1,100}"
_LIST_SECONDS = 10.0
# Bytes of the data of a raised event: the history of the saga's workflow has it several times.
_LARGEST_DATA = 64 * 1024
_RETRY_SECONDS = 1
# Query parameters that are passed on to the projector, which refuses any other.
_LISTED_BY = {
    **dict.fromkeys(("status", "type", "business_key", "parent", "from", "to"), "string"),
    "limit": "integer",
    "cursor": "string",
    "position": "string",
}
_OF_A_SESSION = {"parameters": headers("x-session-id")}
_KEPT_HEADERS = ("Content-Type", "Retry-After")

SagaId = Annotated[str, Path(pattern=f"^{_ID}$")]
Ask = Callable[[SagaKey, str, Asker], Awaitable[SagaState]]


def routes(
    orchestrator: Orchestrator,
    catalog: SagaCatalog,
    invocation: ServiceInvocation,
    operations: Operations,
    admit: Callable[[], None] = lambda: None,
) -> APIRouter:
    """Return the routes under `/sagas`.

    `admit` raises a Problem while requests that write to a saga's stream are refused. An import needs that:
    it fits no store that was written to before, nor a stream that went on before the rest of it came.
    """
    router = APIRouter(prefix="/sagas")
    inputs: list[Any] = [catalog.newest(saga_type).input for saga_type in catalog.types]
    any_input = reduce(or_, inputs) if inputs else dict[str, Any]

    @router.get(
        "",
        summary="List and search sagas, like the projector's `/queries/sagas`",
        response_model=Page[SagaFound],
        openapi_extra={"parameters": [parameter(name, kind) for name, kind in _LISTED_BY.items()]},
    )
    async def listing(request: Request) -> Response:
        path = f"queries/sagas?{request.url.query}" if request.url.query else "queries/sagas"
        try:
            asker = {"x-tenant-id": tenant_of(request)}
            answer = await invocation.invoke("projector", "GET", path, headers=asker, within=_LIST_SECONDS)
        except NotAnswered as error:
            raise unavailable(str(error), seconds=_RETRY_SECONDS) from error
        if answer.ok:
            return json_answer(answer.body)
        if not answer.problem:  # the sidecar's own answer: it found or reached no projector
            raise unavailable(f"the projector: {answer.message}", seconds=_RETRY_SECONDS)
        kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        return json_answer(answer.body, answer.status, kept)

    @router.post(
        "/{saga_type}",
        status_code=202,
        summary="Start a saga with its input",
        response_model=Started,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
        openapi_extra={"parameters": headers("Idempotency-Key", "x-session-id", "x-correlation-id")}
        | json_body(any_input),
    )
    async def start(request: Request, saga_type: str, id: Annotated[str | None, Query()] = None) -> Response:  # noqa: A002
        admit()
        given = json_object(await request.body())
        if id is not None and not re.fullmatch(_ID, id):
            raise malformed("id", f"like {_ID}")
        tenant, once = tenant_of(request), id_of(request, "idempotency-key")
        new = id is None and once is None
        if id is None:
            id = new_id() if once is None else str(uuid5(NAMESPACE_URL, f"{tenant}/{saga_type}/{once}"))  # noqa: A001
        asker = _asker_of(request)
        key = SagaKey(id, tenant, asker.user, id_of(request, "x-correlation-id"))
        same = f"the id {id}" if new else "the same id or Idempotency-Key"
        with _problems(f"send it again with {same}: it takes effect once"):
            started = await orchestrator.start(key, saga_type, given, asker, new=new)
        return json_answer(asdict(started), 202, {"Location": f"/sagas/{started.id}"})

    @router.get(
        "/{saga_id}",
        summary="One saga as it is now",
        response_model=SagaNow,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def get(request: Request, saga_id: SagaId) -> Response:
        with _problems():
            state = await orchestrator.load(SagaKey(saga_id, tenant_of(request)))
        if state.status is SagaStatus.NONE:
            raise Problem(404, "not-found", f"there is no saga {saga_id}")
        return json_answer(_public(saga_id, state))

    @router.post(
        "/{saga_id}/events/{event}",
        status_code=202,
        summary="Raise an event that a saga waits for",
        description="The body is the data of the event: any JSON of up to 64 KiB, or none.",
        response_model=Raised,
        openapi_extra=_OF_A_SESSION | json_body(Any, required=False),
    )
    async def raise_event(request: Request, saga_id: SagaId, event: str) -> Response:
        admit()
        body = await request.body()
        if len(body) > _LARGEST_DATA:
            raise Problem(413, "too-large", f"the data of an event may have at most {_LARGEST_DATA} bytes")
        data = json_value(body) if body else None
        asker = _asker_of(request)
        with _problems():
            await orchestrator.raise_event(SagaKey(saga_id, tenant_of(request)), event, data, asker)
        return json_answer({"id": saga_id, "event": event}, 202)

    def operation(name: str, summary: str, ask: Ask, *, recorded: bool = False) -> None:
        """Add the route of an operation. `recorded`: the saga's own history says who asked and why."""

        async def operate(request: Request, saga_id: SagaId) -> Response:
            admit()
            body = await request.body()
            with _problems():
                reason = GivenReason.model_validate(json_object(body)).reason if body else None
            asker = _asker_of(request)
            given = reason or f"{name} by {asker.user or 'an operator'}"
            if not recorded:
                await operations.requested(request, name, saga_id, reason)
            with _problems():
                state = await ask(SagaKey(saga_id, tenant_of(request)), given, asker)
            return json_answer(_public(saga_id, state), 202)

        path = f"/{{saga_id}}/{name}"
        router.add_api_route(
            path,
            operate,
            methods=["POST"],
            status_code=202,
            summary=summary,
            response_model=SagaNow,
            openapi_extra=_OF_A_SESSION | json_body(GivenReason, required=False),
        )

    operation("cancel", "Cancel a saga, and compensate what it did", orchestrator.cancel, recorded=True)
    operation(
        "terminate",
        "End a saga without compensation; the answer names the steps that are left",
        orchestrator.terminate,
        recorded=True,
    )
    operation("suspend", "Suspend a saga", lambda key, _, asker: orchestrator.suspend(key, asker))
    operation("resume", "Resume a suspended saga", lambda key, _, asker: orchestrator.resume(key, asker))
    operation(
        "restart",
        "Restart a saga that stands still; it goes on from its history",
        orchestrator.restart,
        recorded=True,
    )
    operation(
        "retry",
        "Retry the compensation of the steps that are left",
        lambda key, _, asker: orchestrator.retry(key, asker),
    )

    @router.post(
        "/{saga_id}/purge", status_code=204, summary="Delete the workflow of an ended saga; its history stays"
    )
    async def purge(request: Request, saga_id: SagaId) -> None:
        await operations.requested(request, "purge", saga_id, None)
        with _problems():
            await orchestrator.purge(SagaKey(saga_id, tenant_of(request)))

    return router


def _asker_of(request: Request) -> Asker:
    return Asker(
        id_of(request, "x-user-id"),
        id_of(request, "x-session-id"),
        client_of(request),
        traceparent_of(request),
    )


def _public(saga_id: str, state: SagaState) -> dict[str, Any]:
    inner = {"steps", "undo_order", "saga_type", "saga_version", "run", "raised", "raises"}
    steps = [
        {"name": name, **step.model_dump(mode="json", exclude={"phase", "undo_phase"})}
        for name, step in state.steps.items()
    ]
    return {
        "id": saga_id,
        "type": state.saga_type,
        "version": state.saga_version,
        **state.model_dump(mode="json", exclude=inner),
        "waits_for": state.waits_for,
        "steps": steps,
    }


@contextmanager
def _problems(again: str = "send it again: a repeat does no harm") -> Iterator[None]:
    """Turn the errors of the orchestrator into problems, here and nowhere else. See `domain_problems`."""
    with domain_problems(again):
        try:
            yield
        except UnknownSaga as error:
            raise Problem(404, "unknown-saga", str(error), known=error.known) from error
        except SagaRuns as error:
            raise Problem(
                409, "saga-runs", f"{error}, with another input", id=error.key.id, input=error.state.input
            ) from error
        except Undecodable as error:
            raise damaged(error) from error
        # A request takes several steps, and the store may be away after the first of them.
        except (ClaimContended, DaprError, NotBegun, NotDeclared, StoreUnavailable) as error:
            raise unavailable(f"{error}; {again}", seconds=_RETRY_SECONDS) from error
