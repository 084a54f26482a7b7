"""What the sidecar delivers: that there are new events. They are read from the store itself."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from annals.events import RecordedEvent
from annals.sagas import SagaCatalog
from annals.sagas.orchestrator import Orchestrator
from annals.store import Follower
from annals.store.follower import Handle
from annals.web.deliveries import hinted


def handler(orchestrator: Orchestrator, catalog: SagaCatalog) -> Handle:
    """What becomes of an event that the store has."""
    triggering = {trigger.event_type for saga in catalog.all() for trigger in saga.triggers}

    async def handle(event: RecordedEvent) -> None:
        if event.event_type in triggering:
            await orchestrator.on_domain_event(event)

    return handle


def routes(follower: Follower) -> APIRouter:
    """The route that `components/shared/subscriptions.yaml` names."""
    router = APIRouter()

    @router.post("/events/domain-events", include_in_schema=False)
    async def domain_events(request: Request) -> Response:
        follower.look()
        return hinted(await request.body())

    return router
