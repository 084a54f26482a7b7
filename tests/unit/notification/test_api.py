from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from annals.web.problems import Problem, on_problem
from annals_notification import api


class Held:
    def __init__(self) -> None:
        self.events: list[Any] = []

    async def hold(self, event: Any, _asked: object) -> None:
        self.events.append(event)


@pytest.mark.parametrize("field", ["event_id", "routing_key"])
@pytest.mark.parametrize("value", ["a\nb", "a\r\nx: y", "\x7f", "\x01"])
async def test_what_becomes_a_header_on_the_broker_has_no_control_characters(field: str, value: str) -> None:
    held, unused = Held(), cast("Any", None)
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(api.routes(unused, unused, unused, unused, cast("Any", held)))
    body = {"event_type": "task.noted", "event_id": "e-1", "routing_key": "task/noted"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:
        refused = await client.post("/events", json=body | {field: value})
        assert refused.status_code == 400, refused.text
        assert [one["field"] for one in refused.json()["errors"]] == [field]
        assert held.events == []
        taken = await client.post("/events", json=body)
    assert taken.status_code == 202
    assert (held.events[0].event_id, held.events[0].routing_key) == ("e-1", "task/noted")
