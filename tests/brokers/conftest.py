"""One world for each broker: what is started for it serves all cases, in their order."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
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
    """The world of a broker."""
    name = f"broker_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    home = tmp_path_factory.mktemp(broker.name)
    async with world(broker, home, postgres.dsn.removesuffix("annals") + name) as found:
        yield found


@pytest.fixture(scope="session")
def outcomes(broker: Broker) -> AsyncIterator[Outcomes]:
    """What is found of a broker, saved when its cases are over."""
    found = Outcomes(broker.name)
    yield found
    found.save()
