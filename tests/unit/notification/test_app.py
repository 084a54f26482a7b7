"""What the service leaves alone until it knows what an operator wants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from annals.live import LiveSettings
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock
from annals_notification.app import create
from annals_notification.settings import NotificationSettings
from conftest import until


async def test_nothing_is_sent_or_forgotten_before_the_live_settings_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator may have paused it, or taken back for how long things are kept."""
    asked = asyncio.Event()
    statements: list[str] = []

    async def ask(live: LiveSettings[NotificationSettings]) -> None:
        await asked.wait()
        live.asked.set()
        await asyncio.Event().wait()

    def database(_operation: str, _data: bytes, metadata: Mapping[str, str]) -> bytes:
        statements.append(metadata["sql"])
        if "FOR UPDATE" in metadata["sql"] and "DELETE" not in metadata["sql"]:
            return (
                b'[["{\\"claimed\\": [], \\"preferences\\": [], \\"too_large\\": 0, \\"seconds\\": null}"]]'
            )
        return b'[["[]"]]' if "json_agg" in metadata["sql"] else b'[["0"]]'

    def of(*words: str) -> list[str]:
        return [one for one in statements if all(word in one for word in words)]

    async def due_was_looked_for() -> bool:
        return bool(of("notifications.reminders", "ORDER BY fires"))

    async def sending_and_forgetting() -> bool:
        return bool(of("notifications.deliveries", "SKIP LOCKED") and of("SET forgotten"))

    monkeypatch.setattr(LiveSettings, "run", ask)
    dapr = FakeDapr(clock=VirtualClock(), bindings={"notifications": database})
    async with FakeSidecar("notification", dapr=dapr) as sidecar:
        settings = NotificationSettings(dapr_grpc_port=sidecar.grpc_port, dapr_http_port=sidecar.http_port)
        app = create(settings)
        async with app.router.lifespan_context(app):
            await until(due_was_looked_for)
            assert not of("SKIP LOCKED") and not of("SET forgotten")
            asked.set()
            await until(sending_and_forgetting)
