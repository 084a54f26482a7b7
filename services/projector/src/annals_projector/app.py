"""The projector: folds events into read models, and answers queries from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from annals.audit import last_checkpoint, read_checkpoints
from annals.dapr import BindingDatabase, Configuration, DaprError, DatabaseError
from annals.deadletters import DeadLetters
from annals.live import LiveSettings
from annals.privacy import SubjectKeys
from annals.projections import (
    Applier,
    Builder,
    Generations,
    Outdated,
    Replays,
    Sweeper,
    Visibility,
    migrate,
    until_reached,
)
from annals.store import DaprEventReader, StoreUnavailable, Undecodable
from annals.web import ServiceApp, create_app, dead_letters, live_settings
from annals.web.background import background
from annals.web.connections import connected
from annals.web.operations import Operations
from annals.web.problems import on_unavailable, on_undecodable
from annals_projector import audit_api, projections_api, subscription
from annals_projector.migrations import LOCK, MIGRATIONS, SCHEMA
from annals_projector.queries import audit, events, sagas, streams, tasks
from annals_projector.queries.parameters import UpToDate, caught_up
from annals_projector.read_models import PROJECTIONS
from annals_projector.settings import ProjectorLive, ProjectorSettings


def create(settings: ProjectorSettings) -> ServiceApp:
    """Create the application; it connects to its sidecar when it starts."""

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        async with connected(settings) as (sidecar, invocation):
            configuration = Configuration(sidecar, settings.settings_store)
            live = LiveSettings("projector", settings.live(ProjectorLive), configuration)
            operations = Operations(invocation, "projector")
            database = BindingDatabase(sidecar, settings.read_models)
            maintenance = BindingDatabase(sidecar, settings.read_models, settings.maintenance_timeout)
            store = DaprEventReader(sidecar, settings.state_store)
            letters = DeadLetters(sidecar, settings.state_store, "projector")
            visibility = Visibility(database, store)
            generations = Generations(database, PROJECTIONS, maintenance)
            applier = Applier(database, store, lambda: generations.live, letters, visibility.applied)
            inbound = subscription.Inbound(applier, store, letters)
            builder = Builder(database, store, generations, letters, settings.instance)
            replays = Replays(database, store, applier, generations, letters)
            sweeper = Sweeper(database, store, applier, [one.table.name for one in PROJECTIONS])

            up_to_date = UpToDate(visibility, lambda: live.current.visibility_timeout)
            app.include_router(subscription.routes(inbound))
            key_encryption = partial(sidecar.secret, settings.keys, "personal-data-keys")
            disclose = SubjectKeys(sidecar, settings.state_store, key_encryption).disclose
            app.include_router(tasks.routes(database, disclose, up_to_date))
            app.include_router(sagas.routes(database, store, up_to_date))
            app.include_router(sagas.unmoved(database))
            app.include_router(streams.routes(store, PROJECTIONS, letters, disclose, up_to_date))
            app.include_router(events.routes(database, store, disclose, up_to_date))
            app.include_router(audit.routes(database, up_to_date, partial(caught_up, visibility, store)))
            public_keys = partial(sidecar.secret, settings.keys, "audit-public-keys")
            checkpoints = partial(read_checkpoints, sidecar, settings.state_store)
            last = partial(last_checkpoint, sidecar, settings.state_store)
            app.include_router(audit_api.routes(store, checkpoints, last, public_keys))
            app.include_router(
                projections_api.routes(maintenance, store, generations, builder, letters, operations)
            )
            app.include_router(dead_letters.routes(letters, store, replays.dry_run, operations))
            app.include_router(live_settings.routes(live, BindingDatabase(sidecar, settings.settings_writer)))

            prepared = asyncio.Event()

            async def prepare() -> None:
                await migrate(maintenance, SCHEMA, LOCK, MIGRATIONS)
                await generations.prepare()
                await letters.refresh()

            async def keep_up() -> None:
                await until_reached(prepare, "the read models cannot be prepared yet")
                prepared.set()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(letters.run())
                    tasks.create_task(generations.run())
                    tasks.create_task(sweeper.run())
                    tasks.create_task(builder.run())
                    tasks.create_task(replays.run())
                    tasks.create_task(inbound.read_again())

            async def ready() -> Mapping[str, str]:
                missing = {}
                if not await sidecar.healthy():
                    missing["sidecar"] = "it does not answer"
                if not prepared.is_set():
                    missing["read models"] = "their tables are not prepared yet"
                else:
                    try:
                        _ = generations.live
                    except Outdated as error:
                        missing["read models"] = str(error)
                if sweeper.applied_but_missing:
                    lanes = ", ".join(
                        f"{lane} up to {seq}" for lane, seq in sorted(sweeper.applied_but_missing.items())
                    )
                    missing["read models"] = (
                        f"they have commits that the store does not have, of lane {lanes}: the store was "
                        "emptied, or it lost commits; docs/operating.md says what to do in each case"
                    )
                return missing

            app.ready = ready
            async with background(live.run(), "live settings"), background(keep_up(), "read models"):
                yield

    app = create_app("Annals projector", settings, lifespan=lifespan)
    for away in (DatabaseError, StoreUnavailable, DaprError):
        app.add_exception_handler(away, on_unavailable)
    app.add_exception_handler(Undecodable, on_undecodable)
    return app
