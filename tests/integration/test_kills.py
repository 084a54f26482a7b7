"""A few kills under load, of everything that may die; `make soak` does it fifty times."""

from __future__ import annotations

import pytest

from storm import check_read_models, check_store, check_topic, published, read_settled_store, storm
from suite import infra, profiles
from suite.suite import Suite


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("victims", "kills"),
    [
        (["command"], 2),
        (["command-dapr"], 2),
        (["postgres"], 2),
        (["nats"], 2),
        (["projector", "projector-dapr"], 2),
        (["saga-orchestrator", "saga-orchestrator-dapr", "scheduler"], 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
async def test_nothing_acknowledged_is_lost_or_doubled(
    embedded: Suite, victims: list[str], kills: int
) -> None:
    acknowledged = await storm(embedded, victims=victims, kills=kills, seed=kills)

    assert len(acknowledged.answers) > 20
    directory = embedded.home / ".annals" / "embedded"
    dsn = infra.Postgres(directory, profiles.POSTGRES_PORT).dsn
    stored = await read_settled_store(dsn)
    check_store(stored, acknowledged)
    await check_read_models(dsn, stored)
    check_topic(await published(infra.Nats(directory, profiles.NATS_PORT).url, stored), stored)
