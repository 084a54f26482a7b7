"""The tasks: what is shown of changes that cannot be read yet, that are refused, or that come late."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from playwright.async_api import Route, expect

from browser.page_alone import (
    AWAY,
    MEMBERS,
    SAGAS,
    TASKS,
    Answer,
    Services,
    Show,
    asked_for,
    happened,
    has,
    noticed,
    row,
    written,
)
from conftest import until


async def test_a_task_that_was_made_and_cannot_be_read_yet_stays_and_is_read_later(
    show: Show, services: Services
) -> None:
    services.own["/api/command/"] = lambda *_: (201, written("x", 1))
    services.own[f"{TASKS}/"] = lambda *_: (504, {"type": "urn:annals:problem:behind", "detail": "not yet"})
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await page.get_by_role("textbox", name="Title").fill("Pay the bill")
    await page.get_by_role("button", name="Create").click()

    await expect(page.locator(".toast", has_text="Created: Pay the bill")).to_be_visible()
    await expect(page.locator(".toast", has_text="cannot be read yet")).to_be_visible()
    await expect(page.locator(".toast[data-tone=bad]")).to_have_count(0)
    await expect(row(page, "Pay the bill")).to_have_attribute("data-pending", "true")

    services.own[f"{TASKS}/"] = lambda path, _: (200, services.task(path.rpartition("/")[2], title="Paid"))
    await page.clock.fast_forward(6_000)
    await expect(row(page, "Paid")).to_have_attribute("data-pending", "false")
    assert services.count("/api/command/commands/task.create") == 1


async def test_all_that_was_edited_is_sent_though_none_of_it_can_be_read_yet(
    show: Show, services: Services
) -> None:
    services.task("a", version=4)
    sent: list[str] = []

    async def take(route: Route) -> None:
        sent.append(f"{route.request.url.rpartition('/')[2]} on {route.request.headers['if-match']}")
        await route.fulfill(status=200, json=written("a", 4 + len(sent)))

    page = await show("/tasks?task=a")
    await page.route("**/api/command/**", take)
    services.own[f"{TASKS}/"] = lambda *_: (503, {"detail": "the read models cannot be reached"})
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_role("textbox", name="Title").fill("another")
    await page.get_by_label("Due", exact=True).fill("2031-01-01T09:00")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".toast", has_text="Saved: another")).to_be_visible()

    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("Priority").select_option("high")
    await page.get_by_role("button", name="Save").click()
    await until(lambda: has(sent, 3))
    assert sent == ['task.update on "4"', 'task.set_due_date on "5"', 'task.update on "6"']


async def test_a_change_that_is_refused_is_taken_back(show: Show, services: Services) -> None:
    services.task("a")
    services.own["/api/command/commands/task.complete"] = lambda *_: (409, {"detail": "no"})
    page = await show("/tasks/list")
    await page.get_by_role("button", name="Complete a").click()
    await expect(page.locator(".toast[data-tone=bad]")).to_be_visible()
    await expect(page.get_by_role("button", name="Complete a")).to_be_enabled()


async def test_tasks_that_cannot_be_read_are_not_said_to_be_none(show: Show, services: Services) -> None:
    answering = asyncio.Event()

    async def late(*_: object) -> Answer:
        await answering.wait()
        return AWAY

    services.own[TASKS] = lambda *_: AWAY
    services.own[MEMBERS] = late
    page = await show("/tasks")
    await page.clock.fast_forward(1_000)
    said = page.locator(".problem")
    await expect(said).to_contain_text("the database cannot be reached", timeout=20_000)
    await expect(page.locator(".skeleton")).to_have_count(0)
    await expect(page.locator(".empty")).to_have_count(0)
    answering.set()
    read = services.count(TASKS)
    for _ in range(2):
        await page.clock.fast_forward(6_000)
        read += 1
        await until(lambda least=read: asked_for(services, TASKS, least))
        await expect(page.locator(".skeleton")).to_have_count(0)
        await expect(page.locator(".empty")).to_have_count(0)
    services.own.clear()
    await page.clock.fast_forward(6_000)
    await expect(page.locator(".empty")).to_contain_text("No tasks yet")
    await expect(said).to_have_count(0)


def _more_than_are_kept(services: Services) -> None:
    """Page after page of tasks; of those that are asked for by name, `old` is older, and others are newer."""
    rows = [services.task(f"task-{number}") for number in range(500)]

    def pages(path: str, given: dict[str, str]) -> Answer:
        if path != TASKS:
            one = path.rpartition("/")[2]
            created = f"20{29 if one == 'old' else 31}-01-01T00:00:00Z"
            return 200, services.task(one, title=f"{one} one", created_at=created)
        start = int(given.get("cursor", "0"))
        items = [one | {"id": f"{start}-{one['id']}"} for one in rows]
        return 200, {"items": items, "next": str(start + 1)}

    services.own[TASKS] = pages


async def test_what_is_left_out_is_said(show: Show, services: Services) -> None:
    _more_than_are_kept(services)
    page = await show("/tasks/list")
    await expect(page.get_by_role("note")).to_contain_text("the newest 20,000 tasks")


async def test_a_task_that_is_older_than_those_that_are_kept_is_shown_to_who_asks_for_it(
    show: Show, services: Services
) -> None:
    _more_than_are_kept(services)
    page = await show("/tasks/list?task=old")
    drawer = page.get_by_role("dialog")
    await expect(drawer).to_contain_text("old one")
    await expect(page.get_by_role("note", include_hidden=True)).to_contain_text("the newest 20,000 tasks")
    asked = services.count(TASKS)
    await page.evaluate("opened.at(-1).onerror()")  # once the stream is back, all is read anew
    await page.clock.fast_forward(1_000)
    await until(lambda: asked_for(services, TASKS, asked + 40))
    await expect(page.locator(".list-foot")).not_to_contain_text("loading more")
    await expect(drawer).to_contain_text("old one")


async def test_no_more_tasks_are_kept_however_many_are_made_while_a_page_is_open(
    show: Show, services: Services
) -> None:
    _more_than_are_kept(services)
    page = await show("/tasks/list")
    await expect(page.locator(".list-foot")).to_have_text("20,000 tasks")
    await page.get_by_role("link", name="Inbox").click()
    for first in range(0, 520, 40):
        for number in range(first, first + 40):
            await happened(page, "task", f"new-{number}", f"0-{number}")
        await page.clock.fast_forward(100)
        await until(lambda last=first + 39: asked_for(services, f"{TASKS}/new-{last}", 1))
    await page.get_by_role("link", name="Tasks").click()
    await page.get_by_role("link", name="List").click()
    await expect(page.locator(".list-foot")).to_have_text(re.compile("^20,0.. tasks$"))
    await page.get_by_label("Find tasks").fill("new-")
    await expect(page.locator(".list-foot")).to_have_text("520 tasks")


async def test_an_address_that_is_no_id_leaves_the_page_as_it_is(show: Show, services: Services) -> None:
    asked: list[str] = []

    def refuse(path: str, _: object) -> Answer:
        asked.append(path)
        return 400, {"detail": "that is not an id"}

    services.own["/api/projector/queries/"] = refuse
    for path in ("/streams/100%25", "/causes/saga/100%25"):
        page = await show(path)
        await expect(page.locator(".problem")).to_contain_text("that is not an id")
    page = await show("/streams/saga-a%3Ab%40c")
    await expect(page.locator(".problem")).to_contain_text("that is not an id")
    streams = {path.rpartition("/streams/")[2] for path in asked if "/streams/" in path}
    assert streams == {"100%25/events", "saga-a%3Ab%40c/events"}


async def test_a_view_that_cannot_be_shown_says_so_and_the_others_are_there(
    show: Show, services: Services
) -> None:
    saga = {"id": "s", "type": "t", "status": "running", "steps": None, "created_at": "2030-01-01T00:00:00Z"}
    services.own[SAGAS] = lambda *_: (200, {"items": [saga], "next": None})
    page = await show("/sagas")
    await expect(page.locator(".empty")).to_contain_text("This view could not be shown")
    services.own.clear()
    services.task("first")
    await page.get_by_role("link", name="Streams").click()
    await expect(page.get_by_role("textbox", name="Stream")).to_be_visible()
    await page.get_by_role("link", name="Sagas").click()
    await expect(page.locator(".empty")).not_to_contain_text("This view could not be shown")


async def test_what_is_said_of_a_time_moves_on_with_it(show: Show, services: Services) -> None:
    found = {"items": [noticed("one")], "next": None, "unread": 1}
    services.own["/api/notification/inbox/"] = lambda *_: (200, found)
    page = await show("/inbox")
    await expect(page.locator(".notice time")).to_have_text("just now")
    for _ in range(6):
        await page.evaluate("opened.at(-1).say('alive', '0-1', null)")
        await page.clock.fast_forward(30_000)
    assert await page.evaluate("opened.length") == 1, "nothing but the time moved on"
    await expect(page.locator(".notice time")).to_have_text("3 min ago")


async def test_a_chart_is_of_what_is_in_sight(show: Show, services: Services) -> None:
    def sample(ago: int, commits: float, p50: float) -> dict[str, Any]:
        return {"time": 1_900_000_000 - ago, "up": {}, "commits": commits, "command_p50": p50}

    samples = [sample(800, 900, 59.7), sample(300, 8, 299.6), sample(0, 2, 0.9997)]
    services.own["/api/health"] = lambda *_: (200, {"items": samples})
    page = await show("/health")
    commits = page.locator(".chart-card", has_text="Commits").first
    await expect(commits).to_contain_text("peak 8.0/s")
    await expect(commits.get_by_role("img")).to_have_attribute("aria-label", "Commits: 2.0/s now, peak 8.0/s")
    median = page.locator(".chart-card", has_text="Command latency, median")
    await expect(median.locator("b")).to_have_text("1.0 s")
    await expect(median).to_contain_text("peak 5 min 0 s")
    await expect(page.get_by_text("Measured since")).to_have_count(0)
