"""The routes of a user's preferences and inbox, and of the delivery log."""

from __future__ import annotations

import socket
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from annals.web.answers import Page, json_answer
from annals.web.openapi import json_body
from annals.web.operations import Operations, OptionalReason
from annals.web.paging import Cursor, Limit, as_many_as_fit, decode_cursor, page, page_that_fits
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import Problem, from_validation, malformed, unavailable
from annals.web.request_body import json_object
from annals_notification.answers import Changed, Delivery, Inbox, ShownPreferences
from annals_notification.deliveries.channels import WebhookSender
from annals_notification.deliveries.preferences import GivenPreferences, Preferences
from annals_notification.deliveries.users import Users
from annals_notification.parameters import Name, Tenant


def routes(users: Users, webhooks: WebhookSender, operations: Operations) -> APIRouter:
    """Return the router for preferences, inboxes and deliveries."""
    router = APIRouter()

    @router.get(
        "/preferences/{user}",
        summary="A user's preferences",
        response_model=ShownPreferences,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def get_preferences(tenant: Tenant, user: Name) -> Response:
        return json_answer(_shown(await users.preferences(tenant, user)))

    @router.put(
        "/preferences/{user}",
        summary="Replace a user's preferences",
        response_model=ShownPreferences,
        openapi_extra=json_body(GivenPreferences),
    )
    async def put_preferences(request: Request, tenant: Tenant, user: Name) -> Response:
        try:
            given = GivenPreferences.model_validate(json_object(await request.body()))
            if given.webhook is not None:
                # This may take long; what is stored is read after it, for the user may be erased meanwhile.
                await webhooks.check(given.webhook.url)
            preferences = given.kept(await users.preferences(tenant, user))
        except ValidationError as error:
            raise from_validation(error) from error
        except OSError as error:  # also Forbidden
            if isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN:
                raise unavailable(f"the webhook's host cannot be looked up now: {error}") from error
            raise malformed("webhook.url", f"a host that may be reached: {error}") from error
        await users.prefer(tenant, user, preferences)
        return json_answer(_shown(preferences))

    @router.delete(
        "/preferences/{user}",
        status_code=204,
        summary="Delete a user's preferences, for an operator; the defaults apply then",
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def delete_preferences(
        request: Request, tenant: Tenant, user: Name, body: OptionalReason = None
    ) -> None:
        await operations.requested(request, "delete-preferences", user, body.reason if body else None)
        if not await users.forget_preferences(tenant, user):
            raise Problem(404, "not-found", f"{user} has no preferences")

    @router.get(
        "/inbox/{user}",
        summary="A user's inbox, the newest first",
        response_model=Inbox,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def inbox(
        tenant: Tenant, user: Name, unread: bool = False, limit: Limit = 50, cursor: Cursor = None
    ) -> Response:
        after = decode_cursor(cursor, str, datetime, str)[1:]
        found, size = await as_many_as_fit(
            lambda size: users.inbox(tenant, user, unread=unread, after=after, limit=size), limit
        )
        return json_answer({"unread": found["unread"]} | page(found["rows"], size, "-created_at"))

    @router.post(
        "/inbox/{user}/read",
        summary="Mark all notices of an inbox as read",
        response_model=Changed,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def read_all(tenant: Tenant, user: Name) -> Response:
        return json_answer({"changed": await users.read_all(tenant, user)})

    @router.put("/inbox/{user}/{notice}/read", summary="Mark a notice as read", response_model=Changed)
    async def read(tenant: Tenant, user: Name, notice: Name) -> Response:
        return json_answer({"changed": await users.mark(tenant, user, notice, read=True)})

    @router.delete("/inbox/{user}/{notice}/read", summary="Mark a notice as unread", response_model=Changed)
    async def unread(tenant: Tenant, user: Name, notice: Name) -> Response:
        return json_answer({"changed": await users.mark(tenant, user, notice, read=False)})

    @router.get(
        "/deliveries",
        summary="The delivery log, the newest first",
        response_model=Page[Delivery],
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def deliveries(
        tenant: Tenant,
        user: str | None = None,
        status: str | None = None,
        event_id: str | None = None,
        channel: str | None = None,
        correlation_id: str | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        filters = (user, status, event_id, channel, correlation_id)
        after = decode_cursor(cursor, str, datetime, str)[1:]
        return json_answer(
            await page_that_fits(
                lambda size: users.deliveries(tenant, filters, after, size), limit, "-created_at"
            )
        )

    return router


def _shown(preferences: Preferences) -> dict[str, Any]:
    """Return preferences without the webhook's secret, which nobody may read back."""
    shown = preferences.model_dump(mode="json")
    if shown["webhook"] is not None:
        shown["webhook"] = {"url": shown["webhook"]["url"]}
    return shown
