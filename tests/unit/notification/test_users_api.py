from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI

from annals.web.problems import Problem, on_problem, unavailable
from annals_notification import users_api
from annals_notification.deliveries.preferences import Preferences

HOOK = "https://zoe.example/hook"


class Users:
    """The preferences of users."""

    def __init__(self, **stored: Preferences) -> None:
        self.stored = stored

    async def preferences(self, _tenant: str, user: str) -> Preferences:
        return self.stored.get(user, Preferences())

    async def forget_preferences(self, _tenant: str, user: str) -> bool:
        return self.stored.pop(user, None) is not None

    async def prefer(self, _tenant: str, user: str, preferences: Preferences) -> None:
        self.stored[user] = preferences


class Erasing:
    """Looks at webhooks, while their user is erased."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def check(self, _url: str) -> None:
        self._users.stored.clear()


class Operations:
    """The audit trail, which may be out of reach."""

    def __init__(self, *, away: bool = False) -> None:
        self._away = away
        self.recorded: list[tuple[str, str, str | None]] = []

    async def requested(self, _request: object, action: str, target: str, reason: str | None) -> None:
        if self._away:
            raise unavailable("it cannot be recorded")
        self.recorded.append((action, target, reason))


@asynccontextmanager
async def client_of(users: Users, operations: Operations | None = None) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    parts: tuple[Any, ...] = (users, Erasing(users), operations)
    app.include_router(users_api.routes(*parts))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:
        yield client


async def test_the_secret_of_who_is_erased_meanwhile_is_not_put_back() -> None:
    users = Users(zoe=Preferences.model_validate({"webhook": {"url": HOOK, "secret": "x" * 16}}))
    async with client_of(users) as client:
        refused = await client.put("/preferences/zoe", json={"webhook": {"url": HOOK}})
    assert (refused.status_code, users.stored) == (400, {})


async def test_an_operator_ends_the_deliveries_of_who_left_and_that_is_recorded() -> None:
    users, operations = Users(zoe=Preferences()), Operations()
    async with client_of(users, operations) as client:
        done = await client.request("DELETE", "/preferences/zoe", json={"reason": "left"})
        assert (done.status_code, users.stored) == (204, {})
        assert operations.recorded == [("delete-preferences", "zoe", "left")]
        assert (await client.delete("/preferences/zoe")).status_code == 404


async def test_deliveries_go_on_if_their_end_cannot_be_recorded() -> None:
    users = Users(zoe=Preferences())
    async with client_of(users, Operations(away=True)) as client:
        assert (await client.delete("/preferences/zoe")).status_code == 503
    assert users.stored == {"zoe": Preferences()}
