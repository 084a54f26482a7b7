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
    row = await client.query(f"tasks/{task['id']}", position=task["position"])
    assert row.json()["status"] == "todo"
    events = (await client.query(f"streams/{task['stream']}/events")).json()["items"]
    await until(lambda: client.whole_trace(events[0]["event_id"]))


async def test_a_handover_and_its_notice_travel_over_kafka(kafka: Suite, client: Any, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    inbox = f"http://127.0.0.1:3504/v1.0/invoke/notification/method/inbox/{member}"

    async def asked() -> bool:
        items = (await client.http.get(inbox)).json()["items"]
        return "notification.requested" in {item["kind"] for item in items}

    await until(asked)
    await sagas.post(f"{saga_id}/events/accept")
    await sagas.reaches(saga_id, "completed")
    await sagas.check(saga_id, task, member)

    async def projected() -> bool:
        answer = await client.query(f"sagas/{saga_id}")
        return answer.status_code == 200 and answer.json()["status"] == "completed"

    await until(projected)
