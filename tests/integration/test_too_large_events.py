"""An event larger than NATS takes, which is stored all the same, as an imported event may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats as client
import pytest

from annals.store import Append, publisher
from conftest import copy_components, until, write_secrets
from event_store_conformance import saying
from event_stores import opened
from suite import infra

LARGEST = 1024 * 1024
"""The size in bytes of the largest message that NATS takes by default."""


async def _published(url: str) -> list[str]:
    """Return the aggregates whose events are on the topic."""
    broker = await client.connect(url)
    try:
        topic = await broker.jetstream().pull_subscribe("domain-events")
        waiting = (await topic.consumer_info()).num_pending
        messages = await topic.fetch(waiting) if waiting else []
        return [json.loads(one.data)["data"]["aggregate_id"] for one in messages]
    finally:
        await broker.close()


async def test_an_event_that_the_broker_does_not_take_holds_up_none_after_it(
    database: str,
    nats: infra.Nats,
    bare_sidecar: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "_RETRY_SECONDS", (0.05,))
    write_secrets(tmp_path, postgres=database, nats=nats.url)
    needed = ("shared/secretstore.yaml", "stores/postgresql/eventstore.yaml", "brokers/nats/pubsub.yaml")
    _, at = await bare_sidecar(copy_components(tmp_path / "components", *needed))

    async with opened(at.grpc) as store:
        for name, size in (("before", 10), ("large", LARGEST), ("after", 10), ("last", 10)):
            event = saying(name, "x" * size)
            await store.append(Append(event.stream, (event,), 0))

        async def all_but_it() -> bool:
            return set(await _published(nats.url)) == {"before", "after", "last"}

        await until(all_but_it)
        # Draining ends, so the event is no longer waited for.
