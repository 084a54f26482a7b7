"""The notification service: live streams, deliveries, reminders, recurrences and held events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from annals.dapr import BindingDatabase, Configuration, DatabaseError, Jobs
from annals.deadletters import DeadLetters
from annals.live import LiveSettings
from annals.projections import migrate, until_reached
from annals.store import DaprEventReader, Follower
from annals.web import ServiceApp, create_app, dead_letters, live_settings
from annals.web.background import background
from annals.web.connections import connected
from annals.web.dead_letters import not_tried_out
from annals.web.operations import Operations
from annals.web.problems import on_unavailable
from annals_notification import schedule_api, subscription, users_api
from annals_notification.deliveries.channels import MailSender, WebhookSender
from annals_notification.deliveries.dispatcher import WEBHOOKS_AT_ONCE, Dispatcher
from annals_notification.deliveries.log import DeliveryLog
from annals_notification.deliveries.users import Users
from annals_notification.due import Alarms, Due, NotNow
from annals_notification.held_events import HeldEvents
from annals_notification.migrations import LOCK, MIGRATIONS, PING, SCHEMA
from annals_notification.notices import Notices
from annals_notification.recurrences import Recurrences
from annals_notification.reminders import Reminders
from annals_notification.retention import Retention
from annals_notification.settings import NotificationLive, NotificationSettings
from annals_notification.streams import routes as streams
from annals_notification.streams.hub import Hub


def create(settings: NotificationSettings) -> ServiceApp:
    """Create the application. It connects to its sidecar when it starts."""

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        async with connected(settings) as (sidecar, invocation):
            configuration = Configuration(sidecar, settings.settings_store)
            live = LiveSettings("notification", settings.live(NotificationLive), configuration)
            database = BindingDatabase(sidecar, settings.database, ping=PING)
            maintenance = BindingDatabase(sidecar, settings.database, settings.maintenance_timeout)
            store = DaprEventReader(sidecar, settings.state_store)
            hub = Hub(
                store,
                lambda: app.draining,
                max_clients=lambda: live.current.max_stream_clients,
                buffer=settings.stream_buffer,
            )
            log, users, alarms = DeliveryLog(database), Users(database), Alarms(Jobs(sidecar))
            # A DNS lookup cannot be cancelled, and a name server that does not answer blocks its thread for
            # long; so there is a thread for each concurrent webhook.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WEBHOOKS_AT_ONCE))
            webhooks = WebhookSender(allow_private=settings.webhook_allow_private)
            mails = MailSender(sidecar, settings.email)
            dispatcher = Dispatcher(
                log, users, webhooks, mails, settings.delivery_retry_seconds, lambda: live.current.paused
            )
            notices = Notices(log, dispatcher.look)
            reminders = Reminders(
                database, store, notices, alarms, settings.remind_before, store.being_imported
            )
            most_bytes = settings.max_event_bytes
            recurrences = Recurrences(database, invocation, alarms, max_event_bytes=most_bytes)
            held = HeldEvents(database, sidecar, alarms, max_event_bytes=most_bytes)
            due = Due(alarms, reminders, recurrences, held)
            letters = DeadLetters(sidecar, settings.state_store, "notification")
            retention = Retention(maintenance, lambda: live.current.retention_days)
            inbound = subscription.Inbound(notices, reminders, held, users, letters)
            follower = Follower(
                sidecar,
                settings.state_store,
                "notification",
                settings.instance,
                inbound.recorded,
                letters,
                imported=inbound.imported,
            )

            app.include_router(subscription.routes(inbound, [hub.look, follower.look], due))
            app.include_router(streams.routes(hub))
            operations = Operations(invocation, "notification")
            app.include_router(dead_letters.routes(letters, store, not_tried_out, operations))
            app.include_router(users_api.routes(users, webhooks, operations))
            app.include_router(schedule_api.routes(reminders, recurrences, held))
            app.include_router(live_settings.routes(live, BindingDatabase(sidecar, settings.settings_writer)))

            migrated = asyncio.Event()

            async def follow_and_send() -> None:
                tables = partial(migrate, maintenance, SCHEMA, LOCK, MIGRATIONS)
                await until_reached(tables, "the tables cannot be prepared yet")
                migrated.set()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(follower.run())
                    tasks.create_task(due.run())
                    # Wait for the operator's settings: whether to send, and for how long to keep old rows.
                    await live.asked.wait()
                    tasks.create_task(dispatcher.run())
                    tasks.create_task(retention.run())

            async def ready() -> Mapping[str, str]:
                missing = {}
                if not await sidecar.healthy():
                    missing["sidecar"] = "it does not answer"
                if not migrated.is_set():
                    missing["tables"] = "they are not prepared yet"
                if not follower.placed:
                    missing["follower"] = "its starting position in the store is not saved yet"
                return missing

            app.ready = ready
            async with (
                background(live.run(), "live settings"),
                background(hub.run(), "hub"),
                background(letters.run(), "dead letters"),
                background(inbound.read_again(), "unreadable messages"),
                background(follow_and_send(), "deliveries"),
            ):
                yield
            await webhooks.close()

    app = create_app("Annals notification", settings, lifespan=lifespan)
    app.add_exception_handler(DatabaseError, on_unavailable)
    app.add_exception_handler(NotNow, on_unavailable)
    return app
