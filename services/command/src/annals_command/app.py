"""The command service: takes commands, decides them, stores and publishes the events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from annals.aggregates import CommandBus, folding
from annals.aggregates.middleware import count_commands, log_commands, trace_commands
from annals.audit import Checkpointer, SigningKey
from annals.dapr import BindingDatabase, Configuration
from annals.deadletters import DeadLetters
from annals.events import RecordedEvent
from annals.live import LiveSettings
from annals.privacy import SubjectKeys
from annals.store import DaprEventStore, Follower
from annals.web import ServiceApp, create_app, dead_letters, live_settings
from annals.web.admission import admit
from annals.web.background import background
from annals.web.connections import connected
from annals.web.dead_letters import not_tried_out
from annals.web.operations import Operations
from annals_command import store_api
from annals_command.api import post_one, routes
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY, SubjectErased
from annals_command.settings import CommandLive, CommandSettings

_SECONDS_A_DAY = 24 * 3600


def create(settings: CommandSettings) -> ServiceApp:
    """Create the application, which connects to its sidecar when it starts."""

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        async with connected(settings) as (sidecar, invocation):
            configuration = Configuration(sidecar, settings.settings_store)
            own = settings.live(CommandLive)
            live = LiveSettings("command", own, configuration, read_only=settings.read_only)
            store = DaprEventStore(
                sidecar,
                owner=settings.instance,
                store=settings.state_store,
                topic=settings.topic,
                command_ttl_seconds=settings.idempotency_days * _SECONDS_A_DAY,
                max_backlog=lambda: live.current.max_backlog,
                max_event_bytes=settings.max_event_bytes,
            )
            subject_keys = SubjectKeys(
                sidecar, settings.state_store, partial(sidecar.secret, settings.keys, "personal-data-keys")
            )

            async def erase(event: RecordedEvent) -> None:
                await subject_keys.shred(event.tenant_id, event.aggregate_id)

            letters = DeadLetters(sidecar, settings.state_store, "command")
            eraser = Follower(
                sidecar,
                settings.state_store,
                "erasure",
                settings.instance,
                erase,
                letters,
                types=frozenset({SubjectErased.event_type}),
                imported=erase,
            )
            bus = CommandBus(
                store,
                REGISTRY,
                HANDLERS,
                source="command",
                protect=subject_keys.protect,
                middleware=[log_commands, count_commands, trace_commands],
                deadline_seconds=settings.append_deadline,
            )

            async def signing_key() -> SigningKey:
                return SigningKey(await sidecar.secret(settings.signing_keys, "audit-signing-key"))

            checkpointer = Checkpointer(
                sidecar, settings.state_store, signing_key, settings.checkpoint_seconds
            )
            admitted = partial(admit, live)
            app.direct("/commands", post_one(bus, admitted))
            app.include_router(routes(bus, admitted))
            writer = BindingDatabase(sidecar, settings.settings_writer)
            app.include_router(live_settings.routes(live, writer))
            fold = folding(REGISTRY, HANDLERS)
            app.include_router(store_api.routes(sidecar, settings.state_store, fold))
            operations = Operations(invocation, "command")
            app.include_router(dead_letters.routes(letters, store, not_tried_out, operations))

            async def ready() -> Mapping[str, str]:
                missing = {}
                if not await sidecar.healthy():
                    missing["sidecar"] = "it does not answer"
                if store.lane is None:
                    missing["lane"] = "none is held yet"
                if not eraser.placed:
                    missing["erasure"] = "its starting position in the store is not saved yet"
                if not live.asked.is_set():
                    missing["live settings"] = "they have not been asked for yet"
                return missing

            app.ready = ready
            async with (
                background(live.run(), "live settings"),
                background(letters.run(), "dead letters"),
                background(eraser.run(), "erasure"),
                background(checkpointer.run(), "checkpoints"),
                background(store.run(), "lane") as lane,
            ):
                yield
                await store.drain()
                await lane

    return create_app("Annals command", settings, lifespan=lifespan)
