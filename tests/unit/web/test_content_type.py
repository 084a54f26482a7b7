"""A body that is not said to be JSON is refused for that, and not for what it holds."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from unit.web.bare_app import bare_app


class Thing(BaseModel):
    name: str


@pytest.fixture
def client() -> TestClient:
    app = bare_app()

    @app.post("/things")
    async def post(thing: Thing) -> str:
        return thing.name

    return TestClient(app)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("application/x-www-form-urlencoded", b'{"name": "one"}', "content-type"),
        ("application/json", b'{"nam": "one"}', "name"),
        ("application/json", b'"one"', "(body)"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, kind: str, body: bytes, field: str) -> None:
    answer = client.post("/things", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


def test_json_is_read(client: TestClient) -> None:
    assert client.post("/things", json={"name": "one"}).json() == "one"
