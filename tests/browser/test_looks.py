"""Everybody can read and use the page, at any width and with any amount of data."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from playwright.async_api import Page, expect

from browser.conftest import Api, Visit, live
from suite.page import WEB

VIEWS = (
    "/tasks",
    "/tasks/list",
    "/tasks/recurring",
    "/causes",
    "/sagas",
    "/streams",
    "/health",
    "/health/projections",
    "/health/dead-letters",
    "/health/deliveries",
    "/health/audit",
    "/inbox",
    "/inbox/preferences",
)
MANY = 10_000
BATCH = 1_000
_STANDARDS = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']}"


async def violations(page: Page) -> list[dict[str, Any]]:
    """Return what axe-core finds. It is evaluated, not added to the page, whose policy stays as it is."""
    await page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = await page.evaluate(f"axe.run(document, {_STANDARDS})")
    return [
        {"rule": one["id"], "nodes": [node["html"][:200] for node in one["nodes"]]}
        for one in found["violations"]
    ]


async def settled(page: Page) -> None:
    await live(page)
    await expect(page.locator(".skeleton")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_view_is_accessible(visit: Visit, api: Api, scheme: str) -> None:
    task, saga = f"seen-{uuid.uuid4().hex[:8]}", f"s-{uuid.uuid4().hex[:8]}"
    await api.task(task, due="2020-01-01T00:00:00Z", priority="critical", tags=["a", "b"])
    body = {"task_id": task, "assignee": "ben", "deadline": "PT1H"}
    await api.ask("POST", f"saga-orchestrator/sagas/task-handover?id={saga}", body)
    page = await visit("/tasks", color_scheme=scheme)
    found = {}
    own = (f"/tasks?task={task}", f"/causes/task/{task}", f"/sagas/{saga}", f"/streams/task-{task}")
    for view in (*VIEWS, *own):
        await page.goto(f"http://127.0.0.1:8080{view}")
        await settled(page)
        if wrong := await violations(page):
            found[view] = wrong
    assert found == {}


@pytest.mark.parametrize("view", ["/tasks", "/causes", "/sagas", "/streams", "/health", "/inbox/preferences"])
async def test_on_a_phone_nothing_sticks_out(visit: Visit, api: Api, view: str) -> None:
    page = await visit(view, viewport={"width": 390, "height": 844})
    await settled(page)
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert await violations(page) == []


async def test_on_a_phone_a_task_fits(visit: Visit, api: Api) -> None:
    task = f"a-title-that-is-longer-than-a-phone-is-wide-{uuid.uuid4().hex[:8]}"
    await api.task(task, assignee="ben", priority="high", tags=["a", "b"], due="2030-01-01T00:00:00Z")
    page = await visit(f"/tasks/list?task={task}", viewport={"width": 390, "height": 844})
    drawer = page.get_by_role("dialog")
    for name in ("Close", "Complete"):
        box = await drawer.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    await page.keyboard.press("Escape")
    row = page.locator(".task-row", has_text=task)
    await expect(row).to_be_visible()
    assert await row.evaluate("row => row.scrollHeight <= row.clientHeight + 1")


async def test_a_dialog_keeps_the_focus_and_gives_it_back_to_the_page(visit: Visit, api: Api) -> None:
    page = await visit("/tasks")
    await page.get_by_role("button", name="New task").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    for _ in range(20):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


def test_little_is_sent() -> None:
    """Limit the bytes that a browser without Brotli downloads at its first visit; see docs/console.md."""
    built = WEB / "dist"
    sent = {kind: sum(path.stat().st_size for path in built.rglob(f"*.{kind}.gz")) for kind in ("js", "css")}
    assert 20_000 < sent["js"] < 48_000
    assert 3_000 < sent["css"] < 8_000
    assert sum(path.stat().st_size for path in built.rglob("*.woff2")) < 50_000


async def test_ten_thousand_tasks_are_a_screenful_of_rows(visit: Visit, api: Api) -> None:
    for start in range(0, MANY, BATCH):
        items = [
            {"type": "task.create", "data": {"title": f"Task {number}", "tags": ["many"]}}
            for number in range(start, start + BATCH)
        ]
        answer = await api.http.post(
            "http://127.0.0.1:3501/v1.0/invoke/command/method/commands:batch",
            json=items,
            headers={"x-tenant-id": "many"},
            timeout=300,
        )
        assert {one["status"] for one in answer.json()["results"]} == {201}
    page = await visit("/tasks/list", tenant="many")
    await expect(page.locator(".list-foot")).to_have_text("10,000 tasks", timeout=240_000)

    rows = page.locator(".task-row")
    assert await rows.count() < 60
    await page.get_by_role("list", name="Tasks").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    await expect(page.locator("[aria-posinset='10000']")).to_be_visible()
    assert await rows.count() < 60
    await page.get_by_label("Find tasks").fill("Task 4711")
    await expect(rows).to_have_count(1)
    await page.goto("http://127.0.0.1:8080/tasks")
    await expect(page.get_by_role("region", name="Unassigned")).to_contain_text("10,000", timeout=240_000)
    assert await page.locator(".card").count() < 60
