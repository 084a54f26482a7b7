"""A parameter that a route does not have is refused: a misspelt filter would show everything."""

from __future__ import annotations

from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import Depends, FastAPI, Query

from annals.sagas import SagaCatalog
from annals.web import dead_letters
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import Problem, on_problem
from annals_notification import schedule_api, users_api
from annals_saga_orchestrator import api as sagas_api


class Untouched:
    """Stands for parts that must not be used."""

    def __getattr__(self, name: str) -> Any:
        return None


def client() -> httpx.AsyncClient:
    none = cast("Any", Untouched())
    app = FastAPI()
    app.add_exception_handler(Problem, on_problem)
    app.include_router(users_api.routes(none, none, none))
    app.include_router(schedule_api.routes(none, none, none))
    app.include_router(dead_letters.routes(none, none, none, none))
    app.include_router(sagas_api.routes(none, SagaCatalog(), none, none))

    def since(start: Annotated[str, Query(alias="from")] = "") -> None:
        """Nothing."""

    @app.get("/", dependencies=[Depends(since), REFUSE_UNKNOWN_PARAMETERS])
    async def listing(user: str = "", limit: int = 1) -> None:
        """Nothing."""

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://annals")


@pytest.mark.parametrize(
    ("query", "field", "expected"),
    [
        ("usr=ada", "usr", "one of user, limit, from"),
        ("user=ada&user=bob", "user", "to be given only once"),
        ("limit=1&limit=1", "limit", "to be given only once"),
        ("start=monday", "start", "one of user, limit, from"),
    ],
)
async def test_what_is_wrong_with_a_query_is_said(query: str, field: str, expected: str) -> None:
    async with client() as http:
        assert (await http.get("/?user=ada&limit=1&from=monday")).status_code == 200
        answer = await http.get(f"/?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"field": field, "expected": expected}]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/deliveries"),
        ("GET", "/inbox/ada"),
        ("POST", "/inbox/ada/read"),
        ("GET", "/preferences/ada"),
        ("DELETE", "/preferences/ada"),
        ("GET", "/reminders"),
        ("GET", "/recurrences"),
        ("GET", "/recurrences/one"),
        ("GET", "/dead-letters"),
        ("GET", "/dead-letters/groups"),
        ("GET", "/dead-letters/one"),
        ("GET", "/sagas/one"),
        ("POST", "/sagas/task-handover"),
    ],
)
async def test_no_route_passes_over_what_it_does_not_have(method: str, path: str) -> None:
    async with client() as http:
        answer = await http.request(method, path, params={"usr": "ada"}, json={})
    assert answer.status_code == 400, answer.text
    assert [one["field"] for one in answer.json()["errors"]] == ["usr"]


async def test_a_route_without_parameters_says_so() -> None:
    async with client() as http:
        answer = await http.get("/dead-letters/groups?limit=5")
    assert answer.json()["errors"] == [{"field": "limit", "expected": "no parameters here"}]
