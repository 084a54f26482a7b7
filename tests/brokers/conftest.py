"""One world for each broker; all its cases run in that world, in their order."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
from fake_world import fake_world
from matrix import BROKERS, Broker
from outcomes import Outcomes
from world import World, world

from suite import infra


@pytest.fixture(scope="session", params=BROKERS, ids=lambda broker: broker.name)
def broker(request: pytest.FixtureRequest) -> Broker:
    """The broker of a case."""
    found: Broker = request.param
    return found


@pytest.fixture(scope="session")
async def at(
    broker: Broker, postgres: infra.Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Set up the world of a broker."""
    name = f"broker_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    home = tmp_path_factory.mktemp(broker.name)
    build = world if broker.server else fake_world
    async with build(broker, home, postgres.dsn.removesuffix("annals") + name) as found:
        yield found


@pytest.fixture(scope="session")
def outcomes(broker: Broker) -> AsyncIterator[Outcomes]:
    """Collect the outcomes of a broker's cases; save them after the last case."""
    found = Outcomes(broker.name)
    yield found
    found.save()
