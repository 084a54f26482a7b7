"""The saga orchestrator: runs sagas, and keeps their history in the event store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from annals.dapr import BindingDatabase, Configuration, Workflows
from annals.deadletters import DeadLetters
from annals.live import LiveSettings
from annals.sagas import SagaCatalog
from annals.sagas.activities import SagaActivities
from annals.sagas.children import ChildSagas
from annals.sagas.claims import Claims
from annals.sagas.history import SagaHistory
from annals.sagas.orchestrator import Orchestrator
from annals.sagas.triggers import Triggers
from annals.sagas.watch import Watch
from annals.sagas.workflow import SagaWorker
from annals.store import SAGA_LANES, DaprEventStore, Follower
from annals.web import ServiceApp, create_app, dead_letters, live_settings
from annals.web.admission import admit
from annals.web.background import background
from annals.web.connections import connected
from annals.web.dead_letters import not_tried_out
from annals.web.operations import Operations
from annals_saga_orchestrator import api, subscription
from annals_saga_orchestrator.activities import functions
from annals_saga_orchestrator.sagas import CATALOG
from annals_saga_orchestrator.settings import SagaLive, SagaSettings
from annals_saga_orchestrator.unmoved import unmoved


def create(settings: SagaSettings, catalog: SagaCatalog = CATALOG) -> ServiceApp:
    """Return the application for a catalogue of sagas. It connects to its sidecar when it is started."""

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        async with connected(settings) as (sidecar, invocation):
            configuration = Configuration(sidecar, settings.settings_store)
            own = settings.live(SagaLive)
            live = LiveSettings("saga-orchestrator", own, configuration, read_only=settings.read_only)
            store = DaprEventStore(
                sidecar,
                owner=settings.instance,
                store=settings.state_store,
                topic=settings.topic,
                lanes=SAGA_LANES,
                max_backlog=lambda: live.current.max_backlog,
            )
            history = SagaHistory(store)
            claims = Claims(sidecar, settings.state_store, history)
            orchestrator = Orchestrator(
                catalog, history, claims, Workflows(sidecar), max_event_bytes=settings.max_event_bytes
            )
            children = ChildSagas(orchestrator, history, claims)
            called = functions(invocation)
            catalog.require_functions(called)
            activities = SagaActivities(history, invocation, sidecar, called)
            worker = SagaWorker(
                settings.dapr_grpc_port,
                catalog,
                {
                    "perform": activities.perform,
                    "record": activities.record,
                    "begin_child": children.begin,
                    "cancel_child": children.cancel,
                },
            )
            seconds = settings.stalled_after
            ask = unmoved(invocation, seconds)
            watch = Watch(catalog, history, orchestrator, ask, store.being_imported, seconds=seconds)
            operations = Operations(invocation, "saga-orchestrator")
            admitted = partial(admit, live)
            app.include_router(api.routes(orchestrator, catalog, invocation, operations, admitted))
            letters = DeadLetters(sidecar, settings.state_store, "saga-orchestrator")
            follower = Follower(
                sidecar,
                settings.state_store,
                "saga-triggers",
                settings.instance,
                Triggers(catalog, claims, orchestrator).on_domain_event,
                letters,
                types=subscription.triggers(catalog),
            )
            app.include_router(dead_letters.routes(letters, store, not_tried_out, operations))
            app.include_router(subscription.routes(follower))
            app.include_router(live_settings.routes(live, BindingDatabase(sidecar, settings.settings_writer)))

            async def ready() -> Mapping[str, str]:
                missing = {}
                if not await sidecar.healthy():
                    missing["sidecar"] = "it does not answer"
                if store.lane is None:
                    missing["lane"] = "none is held yet"
                if not worker.connected:
                    missing["worker"] = "it is not connected to the workflow engine"
                if not follower.placed:
                    missing["follower"] = "its starting position in the store is not saved yet"
                if not live.asked.is_set():
                    missing["live settings"] = "they have not been asked for yet"
                return missing

            app.ready = ready
            async with background(store.run(), "lane") as lane:
                async with (
                    background(live.run(), "live settings"),
                    background(worker.run(), "worker"),
                    background(letters.run(), "dead letters"),
                    background(follower.run(), "follower"),
                    background(watch.run(), "watch"),
                ):
                    yield
                await store.drain()
                await lane

    return create_app("Annals saga orchestrator", settings, lifespan=lifespan)
