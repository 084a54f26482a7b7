"""A service ends when its background work fails."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from annals.web.background import background
from conftest import until


async def test_a_task_that_fails_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: told.append(given))

    async def fails() -> None:
        raise RuntimeError("broken")

    async def ended() -> bool:
        return bool(told)

    async with background(fails(), "it"):
        await until(ended)
    assert told == [(os.getpid(), signal.SIGTERM)]


async def test_a_task_that_is_cancelled_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: told.append(given))
    async with background(asyncio.Event().wait(), "it"):
        await asyncio.sleep(0)
    assert told == []
