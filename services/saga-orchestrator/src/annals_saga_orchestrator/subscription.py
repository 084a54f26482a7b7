"""What the sidecar delivers: that there are new events. They are read from the store itself."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from annals.sagas import SagaCatalog
from annals.store import Follower
from annals.web.deliveries import hinted


def triggers(catalog: SagaCatalog) -> frozenset[str]:
    """The types of the events that concern a saga."""
    return frozenset(trigger.event_type for saga in catalog.all() for trigger in saga.triggers)


def routes(follower: Follower) -> APIRouter:
    """The route that `components/shared/subscriptions.yaml` names."""
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    async def domain_events(request: Request) -> Response:
        follower.look()
        return hinted(await request.body())

    return router
