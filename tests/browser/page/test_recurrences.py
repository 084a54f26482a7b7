"""Recurrences: shown as they go on, and not taken back by what was read before."""

from __future__ import annotations

import asyncio

from playwright.async_api import expect

from browser.page_alone import (
    AWAY,
    Answer,
    Services,
    Show,
    asked_for,
)
from conftest import until

RECURRENCES = "/api/notification/recurrences"


async def test_all_that_recurs_is_shown(show: Show, services: Services) -> None:
    def recurrences(_path: str, given: dict[str, str]) -> Answer:
        name, following = ("second", None) if "cursor" in given else ("first", "x")
        command = {"type": "task.create", "data": {"title": name}}
        one = {"id": name, "rule": "FREQ=DAILY", "timezone": "UTC", "paused": False, "command": command}
        return 200, {"items": [one], "next": following}

    services.own["/api/notification/recurrences"] = recurrences
    page = await show("/tasks/recurring")
    for name in ("first", "second"):
        await expect(page.get_by_role("cell", name=name)).to_be_visible()


async def test_what_recurs_is_shown_as_it_goes_on(show: Show, services: Services) -> None:
    recurs = {
        "id": "one",
        "rule": "FREQ=DAILY",
        "timezone": "UTC",
        "command": {"type": "task.create", "data": {"title": "Stand-up"}},
        "paused": False,
        "next": "2030-01-02T12:00:00Z",
        "last_error": None,
    }
    go_on = asyncio.Event()

    async def late(*_: object) -> Answer:
        await go_on.wait()
        return AWAY

    services.own[RECURRENCES] = late
    page = await show("/tasks/recurring")
    await expect(page.locator(".main .skeleton")).to_be_visible()
    go_on.set()
    await expect(page.locator(".problem")).to_contain_text("the database cannot be reached")
    await expect(page.locator(".empty")).to_have_count(0)

    services.own[RECURRENCES] = lambda *_: (200, {"items": [recurs], "next": None})
    await page.clock.fast_forward(21_000)
    cell = page.get_by_role("cell")
    await expect(cell.filter(has_text="2 Jan").or_(cell.filter(has_text="Jan 2"))).to_be_visible()
    await expect(page.locator(".problem")).to_have_count(0)

    recurs |= {"next": "2030-01-03T12:00:00Z", "last_error": "there is no such member"}
    await page.clock.fast_forward(21_000)
    await expect(cell.filter(has_text="3 Jan").or_(cell.filter(has_text="Jan 3"))).to_be_visible()
    await expect(cell.filter(has_text="FREQ=DAILY")).to_contain_text("there is no such member")

    services.own[RECURRENCES] = lambda *_: AWAY
    await page.clock.fast_forward(21_000)
    await expect(page.locator(".problem")).to_contain_text("the database cannot be reached")
    await expect(cell.filter(has_text="Stand-up")).to_be_visible()


async def test_what_was_changed_of_what_recurs_is_not_taken_back_by_what_was_read_before(
    show: Show, services: Services
) -> None:
    stand_up = {
        "id": "one",
        "rule": "FREQ=DAILY",
        "timezone": "UTC",
        "command": {"type": "task.create", "data": {"title": "Stand-up"}},
        "paused": False,
        "next": "2030-01-02T12:00:00Z",
        "last_error": None,
    }
    before = (200, {"items": [dict(stand_up)], "next": None})
    paused = stand_up | {"paused": True, "next": None}
    services.own[f"POST {RECURRENCES}/one/pause"] = lambda *_: (200, paused)
    services.own[RECURRENCES] = lambda *_: before
    page = await show("/tasks/recurring")
    await page.get_by_role("button", name="Pause").wait_for()

    go_on = asyncio.Event()
    asked = asyncio.Event()

    async def late(*_: object) -> Answer:
        asked.set()
        await go_on.wait()
        services.own[RECURRENCES] = lambda *_: (200, {"items": [paused], "next": None})
        return before

    services.own[RECURRENCES] = late
    reads = services.count(RECURRENCES)
    await page.clock.fast_forward(21_000)
    await asked.wait()
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    go_on.set()
    await until(lambda: asked_for(services, RECURRENCES, reads + 2))
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
