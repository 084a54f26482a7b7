"""The routes of reminders, recurrences, and events that are held until they are due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, StringConstraints, ValidationError

from annals.dapr import DatabaseError
from annals.events import HeaderId, IntegrationEvent, new_id, require_portable
from annals.store import OutcomeUnknown
from annals.web import Problem
from annals.web.answers import Page, json_answer
from annals.web.domain_problems import domain_problems
from annals.web.openapi import json_body, problem
from annals.web.paging import Cursor, Limit, decode_cursor, page_that_fits
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import from_validation, malformed
from annals.web.request_body import json_object
from annals.web.request_context import id_of, traceparent_of
from annals_notification.answers import Held, RecurrenceNow, ReminderNow
from annals_notification.held_events import HeldEvents
from annals_notification.parameters import Name, Tenant
from annals_notification.recurrence import Recurrence
from annals_notification.recurrences import Recurrences
from annals_notification.reminders import Reminders


class EventToPublish(IntegrationEvent):
    """An integration event to publish. It is of the request's tenant: a different `tenant_id` is refused.

    Without a user, correlation id or trace of its own, it gets those of the request.
    """

    source: str = Field(default="notification", min_length=1, max_length=256)
    # The id and the routing key become headers on the broker.
    event_id: HeaderId = Field(default_factory=new_id)
    routing_key: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


def routes(reminders: Reminders, recurrences: Recurrences, held: HeldEvents) -> APIRouter:
    """Return the router for reminders, recurrences and held events."""
    router = APIRouter()

    @router.get(
        "/reminders",
        summary="Reminders, in the order in which they fire",
        response_model=Page[ReminderNow],
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def list_reminders(
        tenant: Tenant,
        task_id: str | None = None,
        user: str | None = None,
        status: str | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        after = decode_cursor(cursor, str, datetime, str)[1:]
        filters = (task_id, user, status)
        return json_answer(
            await page_that_fits(lambda size: reminders.page(tenant, filters, after, size), limit, "fires")
        )

    @router.get(
        "/recurrences",
        summary="Recurrences, the oldest first",
        response_model=Page[RecurrenceNow],
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def list_recurrences(tenant: Tenant, limit: Limit = 50, cursor: Cursor = None) -> Response:
        after = decode_cursor(cursor, str, datetime, str)[1:]
        found = await page_that_fits(lambda size: recurrences.page(tenant, after, size), limit, "created_at")
        return json_answer(found | {"items": [_recurs(row) for row in found["items"]]})

    @router.get(
        "/recurrences/{id}",
        summary="A recurrence, with its next occurrence",
        response_model=RecurrenceNow,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def get_recurrence(tenant: Tenant, id: Name) -> Response:  # noqa: A002
        row = await recurrences.get(tenant, id)
        if row is None:
            raise Problem(404, "not-found", f"there is no recurrence {id}")
        return json_answer(_recurs(row))

    @router.put(
        "/recurrences/{id}",
        summary="Create or replace a recurrence",
        response_model=RecurrenceNow,
        responses={201: {"description": "The recurrence is new.", "model": RecurrenceNow}},
        openapi_extra=json_body(Recurrence),
    )
    async def put_recurrence(request: Request, tenant: Tenant, id: Name) -> Response:  # noqa: A002
        body = json_object(await request.body())
        known = await recurrences.get(tenant, id)
        if known:
            body.setdefault("start", known["data"]["start"])
        body.setdefault("user", id_of(request, "x-user-id"))
        try:
            recurrence = Recurrence.model_validate(body)
        except ValidationError as error:
            raise from_validation(error) from error
        try:
            require_portable(recurrence.command.data)
        except ValueError as error:
            raise malformed("command.data", str(error)) from error
        with domain_problems():
            try:
                row = await recurrences.put(tenant, id, recurrence)
            except ValueError as error:
                raise malformed("rule", str(error)) from error
        return json_answer(_recurs(row), 200 if known else 201)

    async def steered(tenant: str, row_id: str, paused: bool) -> Response:
        try:
            row = await recurrences.pause(tenant, row_id, paused)
        except ValidationError as error:  # the rule was stored by an earlier release
            raise from_validation(error) from error
        except ValueError as error:
            raise malformed("rule", str(error)) from error
        if row is None:
            raise Problem(404, "not-found", f"there is no recurrence {row_id}")
        return json_answer(_recurs(row))

    @router.post("/recurrences/{id}/pause", summary="Pause a recurrence", response_model=RecurrenceNow)
    async def pause_recurrence(tenant: Tenant, id: Name) -> Response:  # noqa: A002
        return await steered(tenant, id, True)

    @router.post("/recurrences/{id}/resume", summary="Resume a recurrence", response_model=RecurrenceNow)
    async def resume_recurrence(tenant: Tenant, id: Name) -> Response:  # noqa: A002
        return await steered(tenant, id, False)

    @router.delete("/recurrences/{id}", status_code=204, summary="Delete a recurrence")
    async def delete_recurrence(tenant: Tenant, id: Name) -> None:  # noqa: A002
        if not await recurrences.delete(tenant, id):
            raise Problem(404, "not-found", f"there is no recurrence {id}")

    @router.post(
        "/events",
        status_code=202,
        summary="Publish an integration event, now or at its `delay_until`",
        response_model=Held,
        responses={409: problem("The `event_id` was already used for another event.")},
        openapi_extra=json_body(EventToPublish),
    )
    async def hold(request: Request, tenant: Tenant) -> Response:
        body = json_object(await request.body())
        of_the_request = {
            "tenant_id": tenant,
            "user_id": id_of(request, "x-user-id"),
            "correlation_id": id_of(request, "x-correlation-id"),
            "traceparent": traceparent_of(request),
        }
        try:
            event = EventToPublish.model_validate(of_the_request | body)
        except ValidationError as error:
            raise from_validation(error) from error
        if event.tenant_id != tenant:
            raise malformed("tenant_id", f"the tenant of the request, which is {tenant}")
        # A repeat under another id would be another event.
        with domain_problems(f"send it again with the event_id {event.event_id}: it is published once"):
            try:
                kept = await held.hold(event, datetime.now(UTC))
            except DatabaseError as error:
                raise OutcomeUnknown(f"it is not known whether the event is held: {error}") from error
        if not kept:
            raise Problem(409, "id-reused", f"the id {event.event_id} was already used for another event")
        return json_answer({"event_id": event.event_id, "delay_until": event.delay_until}, 202)

    return router


def _recurs(row: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = row.pop("data")
    return data | row
