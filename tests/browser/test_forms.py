"""The page by itself: forms send what was chosen in them, once, and keep what was typed until it is taken."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, Page, expect

from browser.page_alone import MEMBERS, Services, Show, written

CRITICAL = {"priority": "critical", "assignee": "cleo"}


@pytest.fixture(autouse=True)
def members(services: Services) -> None:
    members = [
        {"id": name, "name": name.title(), "capacity": 3, "reserved": 0, "version": 1}
        for name in ("ada", "ben", "cleo")
    ]
    services.own[MEMBERS] = lambda *_: (200, {"items": members, "next": None})


def title(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Title")


async def test_an_edit_sends_what_was_changed_alone(show: Show, services: Services) -> None:
    services.task("a", version=4, **CRITICAL)
    services.own["/api/command/"] = lambda *_: (200, written("a", 5))
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Edit").click()
    await expect(page.get_by_label("Priority")).to_have_value("critical")
    await expect(page.get_by_label("Assigned to")).to_have_value("cleo")
    await title(page).fill("mine")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".toast", has_text="Saved: mine")).to_be_visible()
    assert services.sent == [("POST /api/command/commands/task.update", {"id": "a", "title": "mine"})]


async def test_forms_begin_with_what_is_usual(show: Show, services: Services) -> None:
    services.task("a")
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Hand over").click()
    await expect(page.get_by_label("They have")).to_have_value("P1D")

    page = await show("/tasks")
    await page.get_by_role("button", name="New task").click()
    await expect(page.get_by_label("Priority")).to_have_value("normal")
    await expect(page.get_by_label("Assigned to")).to_have_value("")

    assert isinstance(services.session[1], dict)
    services.session = (200, services.session[1] | {"auth": "development"})
    page = await show("/tasks")
    await page.get_by_role("button", name="Development").click()
    await expect(page.get_by_label("Role")).to_have_value("operator")
