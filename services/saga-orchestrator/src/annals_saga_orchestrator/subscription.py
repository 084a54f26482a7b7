"""The subscription to domain events. A delivery only says that the store has new events to read."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from annals.sagas import SagaCatalog
from annals.store import Follower
from annals.web.deliveries import acknowledge_hints


def triggers(catalog: SagaCatalog) -> frozenset[str]:
    """Return the types of the domain events that start or cancel a saga."""
    return frozenset(trigger.event_type for saga in catalog.all() for trigger in saga.triggers)


def routes(follower: Follower) -> APIRouter:
    """Return the route that `components/shared/subscriptions.yaml` names."""
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    async def domain_events(request: Request) -> Response:
        follower.look()
        return acknowledge_hints(await request.body())

    return router
