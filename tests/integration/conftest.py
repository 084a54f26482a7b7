"""Fixtures for tests of one part on real servers: a database and a sidecar for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters
from annals.web.background import background
from conftest import copy_components, write_secrets
from read_model_database import PoolDatabase, prepared


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
async def read_models(pool: asyncpg.Pool) -> PoolDatabase:
    return await prepared(pool)


@pytest.fixture
async def sidecar(database: str, tmp_path: Path, bare_sidecar: Any) -> AsyncIterator[DaprSidecar]:
    """Run a real sidecar whose event store is in the test's own database."""
    write_secrets(tmp_path, postgres=database)
    needed = ("shared/secretstore.yaml", "stores/postgresql/eventstore.yaml")
    _, at = await bare_sidecar(copy_components(tmp_path / "components", *needed))
    sidecar = DaprSidecar(at.grpc)
    yield sidecar
    await sidecar.close()


@pytest.fixture
async def dead_letters(sidecar: DaprSidecar, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeadLetters]:
    # A machine that runs other tests too may not read them within 2 s, which consumers ask for.
    monkeypatch.setattr("annals.deadletters.dead_letters._STALE_SECONDS", 60)
    letters = DeadLetters(sidecar, "eventstore", "projector")
    await letters.refresh()
    async with background(letters.run(), "letters"):
        yield letters
