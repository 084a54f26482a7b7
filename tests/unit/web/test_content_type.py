"""A body that is not declared as JSON is refused for that, not for its content."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from pydantic import BaseModel

from annals.web.request_body import json_object
from unit.web.bare_app import bare_app


class Thing(BaseModel):
    name: str


@pytest.fixture
def client() -> TestClient:
    app = bare_app()

    @app.post("/things")
    async def post(thing: Thing) -> str:
        return thing.name

    @app.post("/bodies")
    async def read(request: Request) -> str:
        return str(json_object(await request.body()))

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


@pytest.mark.parametrize("body", [b'{"name": ', b"{", b"name"])
def test_what_is_no_json_is_refused_as_by_a_route_that_reads_its_body_itself(
    client: TestClient, body: bytes
) -> None:
    json = {"content-type": "application/json"}
    by_fastapi = client.post("/things", content=body, headers=json)
    by_itself = client.post("/bodies", content=body, headers=json)
    assert (by_fastapi.status_code, by_itself.status_code) == (400, 400)
    for problem in (by_fastapi.json(), by_itself.json()):
        assert problem["detail"].startswith("the body is not JSON: ")
        assert problem["errors"] == [{"field": "(body)", "expected": "JSON"}]


def test_json_is_read(client: TestClient) -> None:
    assert client.post("/things", json={"name": "one"}).json() == "one"
