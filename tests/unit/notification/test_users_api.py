from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI

from annals.web.problems import Problem, on_problem
from annals_notification import users_api
from annals_notification.deliveries.preferences import Preferences

HOOK = "https://zoe.example/hook"


class Users:
    """The preferences of users."""

    def __init__(self, **stored: Preferences) -> None:
        self.stored = stored

    async def preferences(self, _tenant: str, user: str) -> Preferences:
        return self.stored.get(user, Preferences())

    async def prefer(self, _tenant: str, user: str, preferences: Preferences) -> None:
        self.stored[user] = preferences


class Erasing:
    """Looks at webhooks, while their user is erased."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def check(self, _url: str) -> None:
        self._users.stored.clear()


@asynccontextmanager
async def client_of(users: Users) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.add_exception_handler(Problem, cast("Any", on_problem))
    app.include_router(users_api.routes(cast("Any", users), cast("Any", Erasing(users))))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notification") as client:
        yield client


async def test_the_secret_of_who_is_erased_meanwhile_is_not_put_back() -> None:
    users = Users(zoe=Preferences.model_validate({"webhook": {"url": HOOK, "secret": "x" * 16}}))
    async with client_of(users) as client:
        refused = await client.put("/preferences/zoe", json={"webhook": {"url": HOOK}})
    assert (refused.status_code, users.stored) == (400, {})
