"""The projector: folds events into read models, and answers queries from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from annals.dapr import DaprSidecar
from annals.projections import Applier, BindingDatabase, DatabaseError, Sweeper, Visibility, migrate
from annals.store import DaprEventReader
from annals.web import ServiceApp, create_app
from annals.web.background import background
from annals_projector import subscription
from annals_projector.migrations import LOCK, MIGRATIONS, SCHEMA
from annals_projector.queries import events, sagas, tasks
from annals_projector.queries.parameters import UpToDate
from annals_projector.read_models import PROJECTIONS
from annals_projector.settings import ProjectorSettings

_log = structlog.get_logger(__name__)
_MIGRATE_SECONDS = 0.5


def create(settings: ProjectorSettings) -> ServiceApp:
    """The application; it reaches for its sidecar when it is started."""
    sidecar: DaprSidecar | None = None
    migrated = asyncio.Event()

    async def prepare_and_sweep(database: BindingDatabase, sweeper: Sweeper) -> None:
        while not migrated.is_set():
            try:
                await migrate(database, SCHEMA, LOCK, MIGRATIONS)
                migrated.set()
            except DatabaseError as error:
                _log.warning("the read models cannot be prepared yet", error=str(error))
                await asyncio.sleep(_MIGRATE_SECONDS)
        await sweeper.run()

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        nonlocal sidecar
        token = settings.dapr_api_token
        sidecar = DaprSidecar(
            settings.dapr_grpc_port,
            timeout=settings.sidecar_timeout,
            api_token=token.get_secret_value() if token else None,
        )
        database = BindingDatabase(sidecar, settings.read_models)
        store = DaprEventReader(sidecar, settings.state_store)
        visibility = Visibility(database)
        applier = Applier(database, store, PROJECTIONS, visibility.applied)
        up_to_date = UpToDate(visibility, settings.visibility_timeout)
        app.include_router(subscription.routes(applier))
        app.include_router(tasks.routes(database, up_to_date))
        app.include_router(sagas.routes(database, store, up_to_date))
        app.include_router(events.routes(database, store, PROJECTIONS, up_to_date))
        async with background(prepare_and_sweep(database, Sweeper(database, store, applier)), "sweeper"):
            yield
        await sidecar.close()

    async def ready() -> Mapping[str, str]:
        missing = {}
        if sidecar is None or not await sidecar.healthy():
            missing["sidecar"] = "it does not answer"
        if not migrated.is_set():
            missing["read models"] = "their tables are not prepared yet"
        return missing

    return create_app("Annals projector", settings, lifespan=lifespan, ready=ready)
