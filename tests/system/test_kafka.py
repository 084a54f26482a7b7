"""The product's own profile: Kafka, PostgreSQL, Zipkin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import until
from suite.suite import Suite


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite("kafka-postgres", home=tmp_path_factory.mktemp("kafka")) as suite:
        yield suite


async def test_a_command_travels_over_kafka_and_is_one_trace(kafka: Suite, client: Any) -> None:
    task = await client.created()
    row = await client.shown(f"tasks/{task['id']}", task["position"])
    assert row["status"] == "todo"
    events = (await client.query(f"streams/{task['stream']}/events")).json()["items"]
    await until(lambda: client.whole_trace(events[0]["event_id"]))


async def test_a_handover_and_its_notice_travel_over_kafka(kafka: Suite, sagas: Any) -> None:
    await sagas.handed_over_with_notice()
