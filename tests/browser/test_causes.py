"""The chain of causes, the history of a stream, and the steps of a saga."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import expect

from browser.conftest import Api, Visit, live
from conftest import until


@pytest.fixture
async def declined(api: Api) -> dict[str, Any]:
    """Run a hand-over that Ben declines, until it is compensated."""
    task, saga = f"slides-{uuid.uuid4().hex[:8]}", f"s-{uuid.uuid4().hex[:8]}"
    await api.task(task)
    body = {"task_id": task, "assignee": "ben", "deadline": "PT1H"}
    await api.ask("POST", f"saga-orchestrator/sagas/task-handover?id={saga}", body)
    await reaches(api, saga, "running", waits=True)
    await api.answer(saga, "ben", "decline")
    await reaches(api, saga, "compensated")
    return {"task": task, "saga": saga}


async def reaches(api: Api, saga: str, status: str, *, waits: bool = False) -> None:
    async def there() -> bool:
        answer = await api.http.get(f"http://127.0.0.1:8080/api/projector/queries/sagas/{saga}")
        found = answer.json()
        return answer.is_success and found["status"] == status and (not waits or bool(found["waits_for"]))

    await until(there, seconds=60)


@pytest.mark.parametrize("kind", ["task", "saga", "event"])
async def test_from_anything_the_whole_chain_is_one_picture(
    visit: Visit, api: Api, declined: dict[str, Any], kind: str
) -> None:
    thing = declined.get(kind, "")
    if kind == "event":
        found = await api.ask("GET", f"projector/queries/events?correlation_id={declined['saga']}")
        thing = found["items"][-1]["event_id"]
    page = await visit(f"/causes/{kind}/{thing}")

    rows = page.locator("[data-row]")
    await expect(rows.filter(has_text="task-handover")).to_contain_text("compensated")
    reserved = page.locator("[data-row][data-kind=event]", has_text="member.reserved")
    await expect(reserved).to_have_attribute("aria-level", "3")
    await expect(page.locator("[data-row][data-kind=undo]")).to_have_count(4)
    note = page.locator("[data-row][data-kind=note]", has_text="handover requested")
    await expect(note).to_have_attribute("aria-level", "3")
    await expect(page.locator("[data-row]", has_text="decline by")).to_be_visible()
    told = page.locator("[data-row][data-key$='/notify/undo'] + [data-row][data-kind=note]")
    await expect(told).to_contain_text("handover withdrawn")
    await expect(told).to_have_attribute("aria-level", "3")

    await reserved.click()
    details = page.get_by_label("Details: member.reserved")
    await expect(details).to_contain_text("visible to queries after")
    await expect(details).to_contain_text('"reserved"')
    await expect(details.get_by_text("member.reserve", exact=True)).to_be_visible()
    zipkin = details.get_by_role("link", name="in Zipkin")
    assert "/zipkin/traces/" in str(await zipkin.get_attribute("href"))


async def test_a_reminder_is_in_the_picture_of_what_set_it(visit: Visit, api: Api) -> None:
    task = f"reminded-{uuid.uuid4().hex[:8]}"
    due = datetime.now(UTC) + timedelta(seconds=6)
    await api.task(task, due=due.isoformat(), assignee="ben")
    page = await visit(f"/causes/task/{task}")
    await expect(page.locator("[data-row][data-kind=event]")).to_contain_text("task.created")

    async def told() -> bool:
        found = await api.ask("GET", "notification/deliveries?user=ben&limit=50")
        return any(one["data"].get("task_id") == task for one in found["items"])

    await until(told, seconds=60)
    await page.reload()
    note = page.locator("[data-row][data-kind=note]", has_text="reminder due")
    await expect(note).to_have_attribute("aria-level", "3")


async def test_the_picture_is_read_with_the_keyboard(visit: Visit, declined: dict[str, Any]) -> None:
    page = await visit(f"/causes/saga/{declined['saga']}")
    first = page.locator("[data-row]").first
    await first.focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("[data-row]").nth(1)).to_have_attribute("aria-selected", "true")
    await expect(page.locator("[data-row]").nth(1)).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.locator("[aria-selected=true]")).to_have_count(0)


async def test_a_picture_grows_while_it_is_looked_at(visit: Visit, api: Api) -> None:
    task = f"grows-{uuid.uuid4().hex[:8]}"
    await api.task(task)
    page = await visit(f"/causes/task/{task}")
    await live(page)
    await expect(page.locator("[data-row]")).to_have_count(2)
    created = page.locator("[data-row][data-kind=command]", has_text="task.create")
    await expect(created).to_contain_text("by you from 127.0.0.1")
    await api.command("task.complete", id=task)
    await expect(page.locator("[data-row]", has_text="task.completed")).to_be_visible()


async def test_a_stream_is_seen_as_it_was(visit: Visit, api: Api) -> None:
    task = f"stream-{uuid.uuid4().hex[:8]}"
    await api.task(task, title="First", priority="low")
    await api.command("task.update", id=task, title="Second")
    await api.command("task.update", id=task, priority="high")
    page = await visit(f"/streams/task-{task}")

    await expect(page.get_by_role("button", name="task.updated")).to_have_count(2)
    changed = page.locator("section", has_text="What changed").last
    await expect(changed.get_by_role("row", name="priority")).to_contain_text("high")
    slider = page.get_by_label("Version", exact=True)
    await slider.fill("1")
    then = page.locator("section", has_text="State at this version").last
    await expect(then).to_contain_text('"First"')
    await slider.fill("2")
    await expect(changed.get_by_role("row", name="title")).to_contain_text("Second")
    await page.get_by_label("since version").fill("0")
    await page.keyboard.press("Enter")
    await expect(changed.get_by_role("row", name="priority")).to_contain_text("low")


async def test_sagas_are_found_and_their_steps_shown(visit: Visit, declined: dict[str, Any]) -> None:
    page = await visit("/sagas")
    await page.get_by_label("Business key").fill(declined["task"])
    await page.get_by_role("button", name="Search").click()
    rows = page.locator(".sagas tbody tr")
    await expect(rows).to_have_count(1)
    await rows.get_by_role("link").click()

    steps = page.locator(".diagram li")
    await expect(steps).to_have_count(9)
    await expect(steps.filter(has_text="reserve-capacity")).to_contain_text("undone")
    await expect(steps.filter(has_text="await-answer")).to_contain_text("decline by")
