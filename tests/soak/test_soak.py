"""Everything that may die dies, at random, under load: `make soak`. SOAK_KILLS and SOAK_SEED set it."""

from __future__ import annotations

import os
import random
import sys

import pytest

from storm import check_read_models, check_store, check_topic, published, read_settled_store, storm
from suite import infra, profiles
from suite.suite import Suite

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
SEED = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))


@pytest.mark.soak
@pytest.mark.timeout(60 + KILLS * 30)
async def test_nothing_acknowledged_is_lost_or_doubled(tmp_path_factory: pytest.TempPathFactory) -> None:
    sys.stdout.write(f"SOAK_SEED={SEED} SOAK_KILLS={KILLS}\n")
    services = ("command", "projector", "saga-orchestrator", "notification")
    sidecars = tuple(f"{name}-dapr" for name in services)
    victims = [*services, *sidecars, "postgres", "nats", "placement", "scheduler"]
    async with Suite("embedded", home=tmp_path_factory.mktemp("soak")) as suite:
        acknowledged = await storm(suite, victims=victims, kills=KILLS, seed=SEED)
        directory = suite.home / ".annals" / "embedded"
        dsn = infra.Postgres(directory, profiles.POSTGRES_PORT).dsn
        stored = await read_settled_store(dsn)
        check_store(stored, acknowledged)
        await check_read_models(dsn, stored)
        messages = await published(infra.Nats(directory, profiles.NATS_PORT).url, stored)
        check_topic(messages, stored)
    events = sum(len(stream) for stream in stored.streams.values())
    sys.stdout.write(
        f"{KILLS} kills: {len(acknowledged.answers)} commands acknowledged, {events} events stored, "
        f"{len(messages)} messages published; answers by status {dict(acknowledged.attempts)}\n"
    )
