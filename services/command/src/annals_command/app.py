"""The command service: takes commands, decides them, stores and publishes the events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from annals.aggregates import CommandBus
from annals.aggregates.middleware import count_commands, log_commands, trace_commands
from annals.audit import Checkpointer, SigningKey
from annals.dapr import DaprSidecar
from annals.store import DaprEventStore
from annals.web import ServiceApp, create_app
from annals.web.background import background
from annals_command.api import routes
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from annals_command.openapi import describe_commands
from annals_command.settings import CommandSettings

_SECONDS_A_DAY = 24 * 3600


def create(settings: CommandSettings) -> ServiceApp:
    """The application; it reaches for its sidecar when it is started."""
    store: DaprEventStore | None = None
    sidecar: DaprSidecar | None = None

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        nonlocal store, sidecar
        token = settings.dapr_api_token
        sidecar = DaprSidecar(
            settings.dapr_grpc_port,
            timeout=settings.sidecar_timeout,
            api_token=token.get_secret_value() if token else None,
        )
        store = DaprEventStore(
            sidecar,
            owner=settings.instance,
            store=settings.state_store,
            topic=settings.topic,
            command_ttl_seconds=settings.idempotency_days * _SECONDS_A_DAY,
            deadline_seconds=settings.append_deadline,
            max_backlog=settings.max_backlog,
        )
        bus = CommandBus(
            store,
            REGISTRY,
            HANDLERS,
            source="command",
            middleware=[log_commands, count_commands, trace_commands],
        )
        keys = sidecar

        async def signing_key() -> SigningKey:
            return SigningKey(await keys.secret(settings.signing_keys, "audit-signing-key"))

        checkpointer = Checkpointer(sidecar, settings.state_store, signing_key, settings.checkpoint_seconds)
        app.include_router(routes(bus))
        async with background(checkpointer.run(), "checkpoints"), background(store.run(), "lane") as lane:
            yield
            await store.drain()
            await lane
        await sidecar.close()

    async def ready() -> Mapping[str, str]:
        missing = {}
        if sidecar is None or not await sidecar.healthy():
            missing["sidecar"] = "it does not answer"
        if store is None or store.lane is None:
            missing["lane"] = "none is held yet"
        return missing

    app = create_app("Annals command", settings, lifespan=lifespan, ready=ready)
    describe_commands(app, HANDLERS)
    return app
