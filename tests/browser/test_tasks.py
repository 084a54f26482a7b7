"""Tasks are created, changed and completed, live for everyone who looks."""

from __future__ import annotations

import re
import uuid

from playwright.async_api import Locator, Page, Route, expect

from browser.conftest import Api, Visit, live
from conftest import until
from suite.suite import Suite


def name(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


async def test_a_task_that_one_makes_another_sees(visit: Visit) -> None:
    title = name("Write the report")
    here, there = await visit("/tasks"), await visit("/tasks/list", user="ben", role="viewer")
    await live(here)
    await live(there)

    await here.get_by_role("button", name="New task").click()
    await here.get_by_role("textbox", name="Title").fill(title)
    await here.get_by_label("Priority").select_option("high")
    await here.get_by_label("Assigned to").select_option("ben")
    await here.get_by_label("Due", exact=True).fill("2030-01-01T09:00")
    await here.get_by_role("button", name="Create").click()

    await expect(here.get_by_role("region", name="In progress").get_by_text(title)).to_be_visible()
    row = there.locator(".task-row", has_text=title)
    await expect(row).to_contain_text("high")
    await expect(row).to_contain_text("Ben")
    await expect(there.get_by_role("button", name=f"Complete {title}")).to_be_disabled()

    await here.get_by_role("button", name=f"Complete {title}").click()
    await expect(here.get_by_role("region", name="Done").get_by_text(title)).to_be_visible()
    await expect(row).to_have_count(0)


async def test_who_edits_what_another_has_changed_decides_and_nothing_is_lost(visit: Visit, api: Api) -> None:
    task = name("conflict")
    await api.task(task, description="as it was")
    here, there = await visit(f"/tasks?task={task}"), await visit(f"/tasks?task={task}", user="ben")
    await here.get_by_role("button", name="Edit").click()
    await there.get_by_role("button", name="Edit").click()

    await there.get_by_label("Description").fill("as ben says")
    await there.get_by_role("button", name="Save").click()
    await expect(there.locator(".toast", has_text="Saved")).to_be_visible()
    await here.get_by_role("textbox", name="Title").fill(f"{task} as ada says")
    await here.get_by_role("button", name="Save").click()

    conflict = here.get_by_role("region", name="Conflict")
    await expect(conflict).to_contain_text("as ben says")
    await expect(conflict).to_contain_text(f"{task} as ada says")
    await conflict.get_by_role("button", name="Save mine on top of theirs").click()
    await expect(here.locator(".toast", has_text="Saved")).to_be_visible()

    found = await api.ask("GET", f"projector/queries/tasks/{task}")
    assert (found["title"], found["description"]) == (f"{task} as ada says", "as ben says")


async def test_a_hand_over_is_asked_for_seen_in_the_inbox_and_accepted(visit: Visit, api: Api) -> None:
    task, cleo = name("handover"), name("cleo")
    await api.member(cleo)
    await api.task(task)
    here, there = await visit(f"/tasks?task={task}"), await visit("/inbox", user=cleo, role="member")
    await live(there)

    await here.get_by_role("button", name="Hand over").click()
    await here.get_by_label("To").select_option(cleo)
    await here.get_by_role("button", name="Ask", exact=True).click()

    await expect(here.get_by_role("region", name="Awaiting answer").get_by_text(task)).to_be_visible()
    await expect(there.locator(".nav .count")).to_be_visible()
    notice = there.locator(".notice", has_text="You are asked to take on a task")
    await notice.get_by_role("button", name="Accept").click()
    await expect(here.get_by_role("region", name="In progress").get_by_text(task)).to_be_visible()
    sagas = await api.ask("GET", f"projector/queries/sagas?business_key={task}")
    assert len(sagas["items"]) == 1


async def test_a_task_recurs(visit: Visit, api: Api) -> None:
    title = name("Stand-up")
    page = await visit("/tasks")
    await page.get_by_role("button", name="New task").click()
    await page.get_by_role("textbox", name="Title").fill(title)
    await page.get_by_label("How often").select_option("FREQ=WEEKLY")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator(".toast", has_text="Created recurring task")).to_be_visible()

    await page.get_by_role("link", name="Recurring").click()
    row = page.get_by_role("row", name=title)
    await expect(row).to_contain_text("FREQ=WEEKLY")
    await row.get_by_role("button", name="Pause").click()
    await expect(row).to_contain_text("paused")
    await row.get_by_role("button", name="End").click()
    await expect(row).to_have_count(0)


async def test_what_happens_while_the_console_is_away_is_there_when_it_is_back(
    visit: Visit, api: Api, suite: Suite
) -> None:
    page = await visit("/tasks/list")
    await live(page)

    suite.processes["console"].kill()
    await expect(page.locator(".notice-bar")).to_contain_text(re.compile("live connection was lost|offline"))
    await suite.processes["console"].wait_ready()
    title = name("made-meanwhile")
    await api.task(title)

    await live(page)
    await expect(page.locator(".notice-bar")).to_have_count(0)
    await page.get_by_label("Find tasks").fill(title)
    await expect(page.locator(".task-row", has_text=title)).to_be_visible()
    await page.goto("http://127.0.0.1:8080/health")
    await expect(page.get_by_text("Measured since")).to_be_visible()


async def test_who_is_offline_is_told_so_and_catches_up(visit: Visit, api: Api) -> None:
    page = await visit("/tasks/list")
    await live(page)

    await page.context.set_offline(True)
    await expect(page.locator(".notice-bar")).to_contain_text("You are offline")
    title = name("made-offline")
    await api.task(title)
    await page.context.set_offline(False)

    await live(page)
    await page.get_by_label("Find tasks").fill(title)
    await expect(page.locator(".task-row", has_text=title)).to_be_visible()


async def found_to_complete(visit: Visit, api: Api, task: str) -> tuple[Page, Locator]:
    """Create a task; return the page with it in the list, and the button that completes it."""
    await api.task(task)
    page = await visit("/tasks/list")
    await page.get_by_label("Find tasks").fill(task)
    check = page.get_by_role("button", name=f"Complete {task}")
    await expect(check).to_be_enabled()
    return page, check


async def test_what_was_refused_is_taken_back_and_said(visit: Visit, api: Api) -> None:
    task = name("refused")
    page, check = await found_to_complete(visit, api, task)
    await page.context.route("**/api/notification/stream*", lambda route: route.abort())
    await api.command("task.update", id=task, priority="low")
    await page.evaluate("document.querySelector('.check').click()")
    # Whether or not the page had heard of the change by then, it ends up as the store has it.
    found = await api.ask("GET", f"projector/queries/tasks/{task}")
    if found["status"] == "todo":
        await expect(page.locator(".toast[data-tone=bad]")).to_be_visible()
        await expect(check).to_have_attribute("aria-pressed", "false")


async def test_an_answer_that_broke_off_is_asked_for_again(visit: Visit, api: Api) -> None:
    task = name("broken-off")
    page, check = await found_to_complete(visit, api, task)
    keys: list[str] = []

    async def lose_the_first_body(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        answer = await route.fetch()
        if len(keys) > 1:
            await route.fulfill(response=answer)
        else:
            await route.fulfill(status=200, content_type="application/json", body="")

    await page.route("**/commands/task.complete", lose_the_first_body)
    await check.click()
    await until(lambda: asked_again(keys))
    await expect(page.locator(".toast[data-tone=bad]")).to_have_count(0)
    found = await api.ask("GET", f"projector/queries/streams/task-{task}/events")
    assert [event["event_type"] for event in found["items"]] == ["task.created", "task.completed"]


async def asked_again(keys: list[str]) -> bool:
    return len(keys) == 2 and len(set(keys)) == 1
