"""The page by itself: what it makes of answers that come late, in another order, or not at all."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from browser.page_alone import MEMBERS, STREAM, TASKS, Answer, Services, Show, row, written
from conftest import until

RECURRENCES = "/api/notification/recurrences"
PROJECTIONS = "/api/projector/projections"
SAGAS = "/api/projector/queries/sagas"
AWAY = (503, {"detail": "the database cannot be reached"})
MINUTES = 5
AT_ONCE = 20_000
"""Milliseconds: before the page wonders why its stream says nothing."""
THEN = "2030-01-01T00:00:00Z"
LETTER = {"kind": "event", "consumer": "c", "stream": "task-a", "version": 4, "event_type": "task.created"}
LETTER |= {"reason": "no", "group": "g", "attempts": 1, "trace_id": None, "parked_at": THEN, "id": "one"}
GENERATION = {"number": 2, "version": 1, "status": "building", "reason": "r", "throttle": None}
READ_MODEL = {"name": "tasks", "version": 1, "parked": 0}
READ_MODEL |= {"generations": [GENERATION | {"started_at": THEN, "caught_up": True, "commits": None}]}
LANE = {"lane": 1, "owner": "a-writer", "tail": 1, "published": 1, "backlog": 0}
EVENT = {"event_id": "e1", "event_type": "task.created", "version": 1, "timestamp": THEN, "data": {}}


async def happened(page: Page, kind: str, one: str, position: str) -> None:
    """The live stream tells of an event."""
    event = {"event_type": f"{kind}.x", "aggregate_type": kind, "aggregate_id": one, "position": position}
    await page.evaluate("([id, event]) => opened.at(-1).say('message', id, event)", [position, event])


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
    await until(lambda: _has(sent, 3))
    assert sent == ['task.update on "4"', 'task.set_due_date on "5"', 'task.update on "6"']


async def _has(found: list[str], most: int) -> bool:
    return len(found) >= most


async def test_a_change_that_is_refused_is_taken_back(show: Show, services: Services) -> None:
    services.task("a")
    services.own["/api/command/commands/task.complete"] = lambda *_: (409, {"detail": "no"})
    page = await show("/tasks/list")
    await page.get_by_role("button", name="Complete a").click()
    await expect(page.locator(".toast[data-tone=bad]")).to_be_visible()
    await expect(page.get_by_role("button", name="Complete a")).to_be_enabled()


async def test_a_stream_on_which_nothing_happens_stays_open(show: Show, services: Services) -> None:
    page = await show("/tasks")
    for beat in range(MINUTES * 4):
        await page.evaluate("id => opened.at(-1).say('alive', id, null)", f"0-{beat}")
        await page.clock.run_for(15_000)
    assert await page.evaluate("opened.length") == 1

    loads = services.count(TASKS)
    await page.evaluate("opened.at(-1).onerror()")
    await page.clock.run_for(1_000)
    await page.wait_for_function("opened.length === 2")
    assert await page.evaluate("opened[1].url") == "/api/notification/stream?after=0-19"
    await expect(page.locator(".notice-bar")).to_have_count(0)
    assert services.count(TASKS) == loads, "what was missed is told"


async def test_a_stream_that_says_nothing_is_opened_anew_and_all_is_read(
    show: Show, services: Services
) -> None:
    page = await show("/tasks")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    loads = services.count(TASKS)
    await page.clock.fast_forward(41_000)
    await page.clock.fast_forward(1_000)
    await page.wait_for_function("opened.length === 2")
    await until(lambda: _asked(services, TASKS, loads + 1))


async def test_what_happens_before_the_stream_is_open_is_read(show: Show, services: Services) -> None:
    services.task("first")
    page = await show("/tasks/list")
    await expect(row(page, "first")).to_be_visible()
    await page.clock.fast_forward(1_000)
    assert services.count(TASKS) == 1, "all is read once where the stream opens soon"

    await page.add_init_script(STREAM.replace("queueMicrotask(() => this.begins());", ""))
    await page.reload()
    await expect(row(page, "first")).to_be_visible()
    visible = asyncio.Event()

    async def members(_: str, given: dict[str, str]) -> Answer:
        if given.get("position") == "3-2":
            await visible.wait()
        return 200, {"items": [], "next": None}

    services.own[MEMBERS] = members
    loads = services.count(TASKS)
    await page.evaluate("opened[0].onopen(); opened[0].say('alive', '0-7,3-2', {})")
    await until(lambda: _has([one for one in services.asked if "position=3-2" in one], 1))
    services.task("missed")
    assert services.count(TASKS) == loads, "it waits until queries see what will not be told"
    visible.set()
    await expect(row(page, "missed")).to_be_visible()
    await page.evaluate("opened[0].onerror()")
    await page.clock.fast_forward(1_000)
    await page.wait_for_function("opened.length === 2")
    loads = services.count(TASKS)
    await page.evaluate("opened[1].onopen()")
    await page.clock.fast_forward(1_000)
    assert services.count(TASKS) == loads, "from then on what happens is told"


async def test_what_is_not_told_is_waited_for_in_every_lane(show: Show, services: Services) -> None:
    page = await show("/sagas")
    await page.add_init_script(STREAM.replace("queueMicrotask(() => this.begins());", ""))
    await page.reload()
    await until(lambda: _asked(services, SAGAS, 2))
    await page.wait_for_function("opened.length === 1")
    places = [f"{lane}-{lane + 100}" for lane in (*range(6), *range(48, 54))]
    await page.evaluate("all => { opened[0].onopen(); opened[0].say('alive', all, {}) }", ",".join(places))
    await page.clock.fast_forward(1_000)
    for place in places:
        await until(
            lambda place=place: _has([one for one in services.asked if f"position={place}" in one], 1)
        )


async def looked_at(page: Page, seen: bool) -> None:
    """Whether the page is in sight, as the browser tells it."""
    await page.evaluate(
        """seen => {
          Object.defineProperty(document, "hidden", { value: !seen, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        seen,
    )


async def test_a_page_that_nobody_looks_at_lets_its_stream_go_and_goes_on_from_its_position(
    show: Show, services: Services
) -> None:
    page = await show("/tasks")
    await page.evaluate("opened[0].say('alive', '0-7', {})")
    await looked_at(page, False)
    await page.clock.fast_forward(29_000)
    await looked_at(page, True)
    await page.evaluate("opened[0].say('alive', '0-8', {})")
    await page.clock.fast_forward(29_000)
    assert not await page.evaluate("opened[0].closed"), "somebody looked in time"

    loads = services.count(TASKS)
    await looked_at(page, False)
    await page.clock.fast_forward(31_000)
    assert await page.evaluate("opened[0].closed")
    asked = services.count("/auth/session")
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    await page.clock.fast_forward(200_000)
    assert await page.evaluate("opened.length") == 1
    assert services.count("/auth/session") == asked, "nor does it ask for anything"

    await looked_at(page, True)
    await page.wait_for_function("opened.length === 2")
    assert await page.evaluate("opened[1].url") == "/api/notification/stream?after=0-8"
    await expect(page.locator(".bar .status")).to_have_text("Live")
    assert services.count(TASKS) == loads, "what was missed is told"


async def test_a_page_that_nobody_has_looked_at_for_long_reads_all(show: Show, services: Services) -> None:
    """To be told of all that happened in a night would take longer."""
    page = await show("/tasks")
    await page.evaluate("opened[0].say('alive', '0-7', {})")
    await looked_at(page, False)
    await page.clock.fast_forward(31_000)
    await page.clock.fast_forward(301_000)
    loads = services.count(TASKS)
    await looked_at(page, True)
    await page.wait_for_function("opened.length === 2")
    assert await page.evaluate("opened[1].url") == "/api/notification/stream"
    await until(lambda: _asked(services, TASKS, loads + 1))


async def test_a_page_that_reads_all_shows_what_is_there_though_a_lane_lags(
    show: Show, services: Services
) -> None:
    services.task("a")
    page = await show("/tasks/list")
    await expect(row(page, "a")).to_be_visible()
    await page.evaluate("opened[0].say('alive', '0-7', {})")
    await looked_at(page, False)
    await page.clock.fast_forward(31_000)
    await page.clock.fast_forward(301_000)
    services.task("second")
    services.own[MEMBERS] = lambda _, given: (
        (504, {"type": "urn:annals:problem:behind", "detail": "not yet"})
        if "position" in given
        else (200, {"items": [], "next": None})
    )
    await looked_at(page, True)
    await page.wait_for_function("opened.length === 2")
    await page.evaluate("opened[1].say('alive', '0-9,3-2', {})")
    await expect(row(page, "second")).to_be_visible()


async def test_what_could_not_be_loaded_is_tried_again_when_one_asks(show: Show, services: Services) -> None:
    services.task("a")
    services.own[TASKS] = lambda *_: (503, {"detail": "the read models cannot be reached"})
    page = await show("/tasks/list")
    again = page.get_by_role("button", name="Try again")
    await expect(again).to_be_visible()
    del services.own[TASKS]
    await page.clock.pause_at(await page.evaluate("Date.now()") / 1000 + 1)
    await again.click()
    await expect(row(page, "a")).to_be_visible()


async def test_a_page_that_has_no_position_reads_all_when_it_is_looked_at_again(
    show: Show, services: Services
) -> None:
    services.task("a")
    page = await show("/tasks/list")
    await expect(row(page, "a")).to_be_visible()
    await looked_at(page, False)
    await page.clock.fast_forward(31_000)
    assert await page.evaluate("opened[0].closed")
    loads = services.count(TASKS)
    await looked_at(page, True)
    await until(lambda: _asked(services, TASKS, loads + 1))


async def test_a_page_that_is_opened_behind_another_lets_its_stream_go_too(
    show: Show, services: Services
) -> None:
    page = await show("/tasks")
    await page.add_init_script("Object.defineProperty(document, 'hidden', { value: true })")
    await page.reload()
    await expect(page.locator(".bar .status")).to_have_text("Live")
    await page.clock.fast_forward(31_000)
    assert await page.evaluate("opened[0].closed")


async def test_what_is_not_answered_in_time_is_said_to_be_so(show: Show, services: Services) -> None:
    ended = asyncio.Event()

    async def hang(*_: object) -> Answer:
        await ended.wait()
        return 200, {"items": [], "next": None}

    services.own["/api/projector/queries/audit"] = hang
    page = await show("/health/audit")
    await until(lambda: _asked(services, "/api/projector/queries/audit", 1))
    await page.clock.fast_forward(46_000)
    await expect(page.locator(".problem")).to_contain_text("no answer came within 45 s")
    ended.set()


async def _asked(services: Services, path: str, times: int) -> bool:
    return services.count(path) >= times


async def test_who_could_not_be_signed_in_reads_why(show: Show, services: Services) -> None:
    page = await show("/tasks")
    kind = "urn:annals:problem:sign-in-failed"
    services.session = (401, {"type": kind, "detail": "the token has none of the roles"})
    await page.reload()
    await expect(page.get_by_role("alert")).to_have_text("the token has none of the roles")
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()


async def test_who_is_found_not_to_be_signed_in_may_sign_in(show: Show, services: Services) -> None:
    page = await show("/tasks")
    services.session = (503, {"detail": "the issuer does not answer"})
    await page.reload()
    again = page.get_by_role("button", name="Try again")
    await again.wait_for()
    services.session = (401, {"detail": "nobody is signed in"})
    await again.click()
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()


async def test_who_is_signed_out_hears_nothing_more(show: Show, services: Services) -> None:
    page = await show("/tasks")
    await page.get_by_role("button", name="Sign out").first.click()
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    assert await page.evaluate("opened[0].closed")


async def test_a_stream_of_a_session_that_is_over_is_not_asked_for_again(
    show: Show, services: Services
) -> None:
    page = await show("/tasks")
    services.session = (401, {"detail": "sign in"})
    await page.evaluate("opened[0].onerror()")
    await page.clock.fast_forward(1_000)
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    await page.clock.fast_forward(60_000)
    assert await page.evaluate("opened.length") == 1


async def test_what_happens_while_all_is_read_is_not_lost(show: Show, services: Services) -> None:
    old, going = services.task("old"), services.task("going")
    page = await show("/tasks/list")
    await expect(row(page, "going")).to_be_visible()
    second = asyncio.Event()
    asked = asyncio.Event()

    async def pages(_path: str, given: dict[str, str]) -> Answer:
        if "cursor" not in given:
            return 200, {"items": [old], "next": "second"}
        asked.set()
        await second.wait()
        return 200, {"items": [going], "next": None}

    services.own[f"{TASKS}/"] = lambda path, _: services.usual(path)
    services.own[TASKS] = pages
    await page.evaluate("opened.at(-1).onerror()")
    await page.clock.fast_forward(1_000)
    await asked.wait()
    for wanted, position in (("old", "0-2"), ("new", "0-3"), ("going", "0-4")):
        services.tasks.pop(wanted, None)
        if wanted != "going":
            services.task(wanted, version=2, title=f"{wanted}, as it is")
        await happened(page, "task", wanted, position)
        await page.clock.fast_forward(100)
        await expect(row(page, "as it is" if wanted != "going" else "going")).to_have_count(
            {"old": 1, "new": 2, "going": 0}[wanted]
        )
    second.set()
    await expect(page.locator(".list-foot")).to_have_text("2 tasks")
    await expect(row(page, "as it is")).to_have_count(2)
    await expect(row(page, "going")).to_have_count(0)


async def test_members_are_read_one_at_a_time_when_all_that_happened_is_visible(
    show: Show, services: Services
) -> None:
    page = await show("/tasks")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    reading, most = 0, 0
    awaited: list[str] = []
    as_of: list[set[str]] = []
    go_on = asyncio.Event()

    async def members(_path: str, given: dict[str, str]) -> Answer:
        nonlocal reading, most
        if "position" in given:
            awaited.append(given["position"])
        else:
            as_of.append(set(awaited))
            reading += 1
            most = max(most, reading)
            await go_on.wait()
            reading -= 1
        return 200, {"items": [], "next": None}

    services.own[MEMBERS] = members
    for number in range(1, 5):
        await happened(page, "member", f"m{number}", f"7-{number}")
        await page.clock.fast_forward(100)
    await until(lambda: _any(as_of))
    await happened(page, "member", "m2", "7-9")
    await happened(page, "member", "m5", "8-1")
    await page.clock.fast_forward(100)
    go_on.set()
    await page.clock.fast_forward(100)
    await until(lambda: _all(as_of, {*(f"7-{number}" for number in (1, 2, 3, 4, 9)), "8-1"}))
    assert most == 1
    assert len(as_of) <= 4
    assert len(awaited) == 6, "each is waited for once"


async def test_what_cannot_be_read_yet_keeps_nothing_else_waiting(show: Show, services: Services) -> None:
    page = await show("/tasks/list")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    behind = (504, {"type": "urn:annals:problem:behind", "detail": "not yet"})
    services.own[MEMBERS] = lambda *_: behind
    await happened(page, "member", "m", "7-1")
    await page.clock.fast_forward(100)
    await until(lambda: _asked(services, MEMBERS, 2))
    services.task("new")
    await happened(page, "task", "new", "0-1")
    await page.clock.fast_forward(100)
    await expect(row(page, "new")).to_be_visible()

    asked: list[str | None] = []

    def members(_path: str, given: dict[str, str]) -> Answer:
        asked.append(given.get("position"))
        return 200, {"items": [], "next": None}

    services.own[MEMBERS] = members
    await page.clock.fast_forward(6_000)
    await until(lambda: _any(asked[1:]))
    assert asked == ["7-1", None]


async def _any(found: list[Any]) -> bool:
    return bool(found)


async def _all(found: list[set[str]], wanted: set[str]) -> bool:
    return found[-1] == wanted


async def test_a_list_is_shown_though_something_happens_all_the_time(show: Show, services: Services) -> None:
    go_on = asyncio.Event()
    asked = 0

    async def sagas(*_: object) -> Answer:
        nonlocal asked
        asked += 1
        await go_on.wait()
        return 200, {"items": [], "next": None}

    services.own[SAGAS] = sagas
    page = await show("/sagas")
    for number in range(20):
        await happened(page, "saga", "s", f"7-{number}")
        await page.clock.fast_forward(300)
    assert asked == 1, "one that runs is let come to its end"
    go_on.set()
    await expect(page.locator(".empty")).to_be_visible()


async def test_a_saga_is_shown_as_it_ended_however_late_queries_see_it(
    show: Show, services: Services
) -> None:
    saga = dict.fromkeys(
        ("business_key", "user_id", "reason", "remaining", "waits_for", "ended_at", "correlation_id")
    )
    saga |= {"id": "s", "type": "task-handover", "status": "running", "suspended": False, "version": 3}
    saga |= {"created_at": "2030-01-01T00:00:00Z", "input": {}, "steps": []}
    seen = False

    def members(_path: str, given: dict[str, str]) -> Answer:
        if "position" in given and not seen:
            return 504, {"type": "urn:annals:problem:behind", "detail": "not yet"}
        return 200, {"items": [], "next": None}

    services.own[MEMBERS] = members
    services.own[f"{SAGAS}/s"] = lambda *_: (200, saga | ({"status": "completed"} if seen else {}))
    page = await show("/sagas/s")
    status = page.locator(".saga-head .tag")
    await expect(status).to_have_text("running")
    await happened(page, "saga", "s", "7-1")
    await page.clock.fast_forward(200)
    await until(lambda: _asked(services, f"{SAGAS}/s", 2))
    seen = True
    await page.clock.fast_forward(6_000)
    await expect(status).to_have_text("completed")


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
    await until(lambda: _asked(services, TASKS, asked + 40))
    await expect(page.locator(".list-foot")).not_to_contain_text("more are coming")
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
        await until(lambda last=first + 39: _asked(services, f"{TASKS}/new-{last}", 1))
    await page.get_by_role("link", name="Tasks").click()
    await page.get_by_role("link", name="List").click()
    await expect(page.locator(".list-foot")).to_have_text(re.compile("^20,0.. tasks$"))
    await page.get_by_label("Find tasks").fill("new-")
    await expect(page.locator(".list-foot")).to_have_text("520 tasks")


async def test_who_has_a_webhook_need_not_say_its_secret_again(show: Show, services: Services) -> None:
    prefs = {"subscriptions": [], "timezone": "UTC", "quiet_hours": None, "digest_at": None, "email": None}
    hook = {"url": "https://example.org/hook"}
    services.own["/api/notification/preferences/"] = lambda *_: (200, prefs | {"webhook": hook})
    page = await show("/inbox/preferences")
    await page.get_by_label("E-mail", exact=True).fill("ada@example.org")
    async with page.expect_request(lambda request: request.method == "PUT") as sent:
        await page.get_by_role("button", name="Save").click()
    body = (await sent.value).post_data_json
    assert (body["email"], body["webhook"]) == ("ada@example.org", hook)


async def test_who_once_asked_for_what_sagas_record_can_save_the_rest(show: Show, services: Services) -> None:
    other = {"events": "order.*", "channels": ["inbox"], "mine": False}
    prefs = {"timezone": "UTC", "quiet_hours": None, "digest_at": None, "email": None, "webhook": None}
    prefs |= {"subscriptions": [other, other | {"events": "saga.failed"}]}
    services.own["/api/notification/preferences/"] = lambda *_: (200, prefs)
    page = await show("/inbox/preferences")
    async with page.expect_request(lambda request: request.method == "PUT") as sent:
        await page.get_by_role("button", name="Save").click()
    assert (await sent.value).post_data_json["subscriptions"] == [other]


async def test_what_is_not_changed_of_ones_preferences_stays_as_it_is(show: Show, services: Services) -> None:
    all_of_them = {"events": "task.*", "channels": ["inbox"], "mine": False}
    own = {"events": "task.*", "channels": ["email"], "mine": True}
    asked = {"events": "notification.*", "channels": ["inbox", "email"], "mine": True}
    prefs = {"timezone": "UTC", "email": "ada@example.org", "webhook": None, "digest_at": "08:00:15"}
    prefs |= {"quiet_hours": {"start": "22:00:30", "end": "07:00:00"}}
    prefs |= {"subscriptions": [all_of_them, own, asked]}
    services.own["/api/notification/preferences/"] = lambda *_: (200, prefs)
    page = await show("/inbox/preferences")
    await page.get_by_label("Time zone").fill("Europe/Berlin")
    await page.get_by_role("button", name="Save").click()
    await until(lambda: _has_sent(services, 1))
    assert services.sent[-1][1] == {
        name: value for name, value in (prefs | {"timezone": "Europe/Berlin"}).items() if name != "webhook"
    }

    await page.get_by_label("until").fill("06:30")
    await page.get_by_role("row", name="What I am asked").get_by_label("email").uncheck()
    await page.get_by_role("row", name="Everything about my tasks").get_by_label("webhook").check()
    await page.get_by_role("button", name="Save").click()
    await until(lambda: _has_sent(services, 2))
    assert services.sent[-1][1]["quiet_hours"] == {"start": "22:00:30", "end": "06:30"}
    assert services.sent[-1][1]["subscriptions"] == [
        all_of_them,
        own,
        asked | {"channels": ["inbox"]},
        {"events": "task.*", "channels": ["webhook"], "mine": True},
    ]


async def test_quiet_hours_are_sent_as_far_as_they_are_given(show: Show, services: Services) -> None:
    prefs = {"subscriptions": [], "timezone": "UTC", "digest_at": None, "email": None, "webhook": None}
    errors = [{"field": "quiet_hours.end", "expected": "Field required"}]
    services.own["PUT /api/notification/preferences/"] = lambda *_: (
        400,
        {"detail": "some fields are not as expected", "errors": errors},
    )
    services.own["/api/notification/preferences/"] = lambda *_: (200, prefs | {"quiet_hours": None})
    page = await show("/inbox/preferences")
    await page.get_by_label("Quiet from").fill("22:00")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".field", has_text="until").locator(".field-error")).to_have_text(
        "Field required"
    )
    assert services.sent[-1][1]["quiet_hours"] == {"start": "22:00"}
    await page.get_by_label("Quiet from").fill("")
    await page.get_by_role("button", name="Save").click()
    await until(lambda: _has_sent(services, 2))
    assert services.sent[-1][1]["quiet_hours"] is None


async def _has_sent(services: Services, most: int) -> bool:
    return len(services.sent) >= most


@pytest.mark.parametrize("other", [{"user": "ben", "name": "Ben"}, {"tenant": "other"}, {"role": "viewer"}])
@pytest.mark.parametrize("noticed", ["stream", "looked at"])
async def test_who_became_somebody_else_in_another_tab_is_so_in_this_one(
    show: Show, services: Services, other: dict[str, str], noticed: str
) -> None:
    services.task("of-ada")
    page = await show("/tasks/list")
    await expect(row(page, "of-ada")).to_be_visible()
    services.tasks.clear()
    was = services.session[1]
    assert isinstance(was, dict)
    services.session = (200, was | other)
    async with page.expect_event("load"):
        if noticed == "stream":
            await page.evaluate("opened[0].onerror()")
            await page.clock.fast_forward(1_000)
        else:
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    now = was | other
    await expect(page.locator(".side-foot")).to_contain_text(now["name"])
    await expect(page.locator(".empty")).to_contain_text("No tasks yet")


async def test_who_becomes_somebody_else_is_so_in_a_window_beside_this_one(
    show: Show, services: Services
) -> None:
    was = services.session[1]
    assert isinstance(was, dict)
    services.session = (200, was | {"auth": "development"})
    services.task("of-ada")
    this, beside = await show("/tasks/list"), await show("/tasks/list")
    await expect(row(beside, "of-ada")).to_be_visible()

    def become(*_: object) -> Answer:
        services.tasks.clear()
        services.session = (200, was | {"auth": "development", "user": "ben", "name": "Ben"})
        return 200, {}

    services.own["POST /auth/development"] = become
    await this.locator(".side-foot button").click()
    await this.get_by_role("textbox", name="User").fill("ben")
    await this.get_by_role("button", name="Be this one").click()
    for page in (this, beside):
        await expect(page.locator(".side-foot")).to_contain_text("Ben", timeout=AT_ONCE)
        await expect(page.locator(".empty")).to_contain_text("No tasks yet")


async def test_who_signs_out_and_in_again_does_so_in_a_window_beside_this_one(
    show: Show, services: Services
) -> None:
    services.task("of-ada")
    was = services.session
    this, beside = await show("/tasks/list"), await show("/tasks/list")
    await expect(row(beside, "of-ada")).to_be_visible()

    def sign_out(*_: object) -> Answer:
        services.session = (401, {"detail": "nobody is signed in"})
        return 200, {}

    services.own["POST /auth/logout"] = sign_out
    await this.get_by_role("button", name="Sign out").click()
    for page in (this, beside):
        await expect(page.get_by_role("link", name="Sign in")).to_be_visible(timeout=AT_ONCE)
    services.session = was
    await this.reload()
    for page in (this, beside):
        await expect(row(page, "of-ada")).to_be_visible(timeout=AT_ONCE)


async def test_who_stayed_the_same_reads_on(show: Show, services: Services) -> None:
    page = await show("/tasks")
    await page.evaluate("window.same = true")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: _asked(services, "/auth/session", 2))
    services.session = (503, {"detail": "the issuer is away"})
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: _asked(services, "/auth/session", 3))
    await page.clock.fast_forward(2_000)
    assert await page.evaluate("same && opened.length") == 1
    assert not await page.evaluate("opened[0].closed")


async def test_who_could_not_be_signed_out_is_told(show: Show, services: Services) -> None:
    services.own["/auth/logout"] = lambda *_: (503, {"detail": "the issuer is away"})
    page = await show("/tasks")
    await page.get_by_role("button", name="Sign out").first.click()
    await expect(page.locator(".toast[data-tone=bad]")).to_contain_text("the issuer is away")


async def test_operators_actions_are_shown_from_the_newest_on(show: Show, services: Services) -> None:
    entry = dict.fromkeys(("user", "trace_id", "session", "client"))
    entry |= {"time": "2030-01-01T00:00:00Z", "type": "t", "stream": "s-1", "version": 1}
    asked: list[dict[str, str]] = []

    def audit(_path: str, given: dict[str, str]) -> Answer:
        asked.append(given)
        return 200, {"items": [entry | {"event_id": f"e{len(asked)}"}], "next": "second"}

    services.own["/api/projector/queries/audit"] = audit
    page = await show("/health/audit")
    await page.get_by_role("button", name="Older").click()
    await page.get_by_role("button", name="Newest").wait_for()
    await page.get_by_role("textbox", name="Who").fill("ada")
    await page.get_by_role("button", name="Operators' actions").click()
    await until(lambda: _any(asked[2:]))
    assert asked[-1] == {"type": "operation.requested", "limit": "100"}
    await expect(page.get_by_role("textbox", name="Who")).to_have_value("")
    await expect(page.get_by_role("textbox", name="Event type")).to_have_value("operation.requested")

    await expect(page.locator("a[href='/causes/event/e3']")).to_be_visible()
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("a[href='/causes/event/e4']")).to_be_visible()
    assert asked[2:] == [asked[2]] * 2, "who asks for the same again is shown what is there by now"


async def test_an_inbox_stays_in_sight_and_in_focus_while_it_changes(show: Show, services: Services) -> None:
    notices = [
        {
            "id": name,
            "kind": "task.assigned",
            "data": {},
            "read_at": None,
            "created_at": "2030-01-01T00:00:00Z",
        }
        for name in ("one", "other")
    ]

    def read(*_: object) -> Answer:
        notices[0]["read_at"] = "2030-01-01T00:00:00Z"
        return 200, {"changed": 1}

    def inbox(*_: object) -> Answer:
        return 200, {"items": notices, "next": None, "unread": sum(one["read_at"] is None for one in notices)}

    services.own["PUT /api/notification/inbox/"] = read
    services.own["/api/notification/inbox/"] = inbox
    page = await show("/inbox")
    await page.locator(".notice").first.wait_for()
    await page.evaluate("""
      window.skeletons = 0;
      new MutationObserver(() => { skeletons += document.querySelectorAll(".skeleton").length; })
        .observe(document.body, { childList: true, subtree: true });
    """)
    await page.get_by_role("button", name="Read", exact=True).first.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".nav .count")).to_have_text("1 unread")
    await expect(page.get_by_role("button", name="Unread")).to_be_focused()

    notices.insert(0, notices[1] | {"id": "new"})
    await happened(page, "task", "new", "0-1")
    await page.clock.fast_forward(1_000)
    await expect(page.locator(".notice")).to_have_count(3)
    await expect(page.get_by_role("button", name="Unread")).to_be_focused()
    assert await page.evaluate("skeletons") == 0


async def test_of_a_long_stream_the_newest_is_shown_and_whatever_a_link_leads_to(
    show: Show, services: Services
) -> None:
    long = 6_000

    def event(version: int) -> dict[str, Any]:
        event = dict.fromkeys(("user_id", "traceparent", "causation_id"))
        return event | {
            "event_id": f"e{version}",
            "event_type": f"task.x{version}",
            "timestamp": "2030-01-01T00:00:00Z",
            "version": version,
            "stream": "task-x",
            "data": {},
        }

    def events(_path: str, given: dict[str, str]) -> Answer:
        versions = range(int(given.get("from", "1")), int(given.get("to", long)) + 1)
        ordered = reversed(versions) if given.get("backwards") == "true" else versions
        return 200, {"items": [event(one) for one in list(ordered)[: int(given.get("limit", "100"))]]}

    services.own["/api/projector/queries/streams/task-x/events"] = events
    services.own["/api/projector/queries/streams/task-x/state"] = lambda _, given: (200, given)
    page = await show("/streams/task-x")
    listed, at = page.get_by_role("region", name="Events"), page.get_by_role("region", name="Through time")
    await expect(listed.locator("header")).to_contain_text("the newest 5,000 of 6,000 events")
    await expect(listed.get_by_role("listitem").first).to_contain_text("v6000")
    await expect(at).to_contain_text("task.x6000")

    await page.goto(page.url.partition("?")[0] + "?version=120")
    await expect(at).to_contain_text("task.x120")
    await expect(at.get_by_role("slider")).to_have_value("120")


async def test_of_many_chains_the_newest_are_shown(show: Show, services: Services) -> None:
    event = dict.fromkeys(("user_id", "traceparent", "causation_id", "visible_at"))
    event |= {"event_type": "task.updated", "aggregate_type": "task", "aggregate_id": "x", "stream": "task-x"}
    all_of_it = [
        event
        | {"event_id": f"e{version}", "version": version, "correlation_id": f"c{version}", "data": {}}
        | {"timestamp": f"2030-01-01T00:{version:02}:00Z"}
        for version in range(1, 60)
    ]
    chains: set[str] = set()

    def events(_path: str, given: dict[str, str]) -> Answer:
        if "stream" in given:
            ordered = reversed(all_of_it) if given.get("backwards") == "true" else all_of_it
            return 200, {"items": list(ordered), "next": None}
        chains.add(given["correlation_id"])
        found = [one for one in all_of_it if one["correlation_id"] == given["correlation_id"]]
        return 200, {"items": found, "next": None}

    services.own["/api/projector/queries/events"] = events
    page = await show("/causes/task/x")
    await expect(page.get_by_text("the newest 50 of 59 chains")).to_be_visible()
    assert chains == {f"c{version}" for version in range(10, 60)}


def _of_a_saga(version: int, kind: str, at: str, **data: object) -> dict[str, Any]:
    event = dict.fromkeys(("user_id", "traceparent", "causation_id", "visible_at", "client", "command_type"))
    event |= {"event_type": f"saga.{kind}", "aggregate_type": "saga", "aggregate_id": "s", "stream": "saga-s"}
    event |= {"event_id": f"e{version}", "version": version, "correlation_id": "s", "data": data}
    return event | {"timestamp": f"2030-01-01T00:00:{at}Z", "causation_id": "s"}


async def test_of_a_long_chain_it_is_said_what_is_not_shown(show: Show, services: Services) -> None:
    begin = [
        _of_a_saga(1, "started", "00", saga_type="offboarding"),
        _of_a_saga(2, "step_started", "01", step="a"),
    ]
    end = [_of_a_saga(2_401, "step_completed", "02", step="a"), _of_a_saga(2_402, "completed", "03")]
    chain = [*begin, *(_of_a_saga(version, "event_raised", "01") for version in range(3, 2_401)), *end]
    told = dict.fromkeys(("user_id", "causation_id", "ended_at", "answer")) | {
        "event_id": "e1",
        "attempts": 1,
    }
    told |= {"channel": "inbox", "status": "sent", "kind": "x", "data": {}, "correlation_id": "s"}
    told |= dict.fromkeys(("created_at", "occurred", "due"), "2030-01-01T00:00:01Z")
    notes = [told | {"id": str(number)} for number in range(600)]

    def paged(rows: list[dict[str, Any]], given: dict[str, str]) -> Answer:
        start = int(given.get("cursor", "0"))
        following = start + 500
        return 200, {
            "items": rows[start:following],
            "next": str(following) if following < len(rows) else None,
        }

    services.own["/api/projector/queries/events"] = lambda _, given: paged(chain, given)
    services.own["/api/notification/deliveries"] = lambda _, given: paged(notes, given)
    page = await show("/causes/correlation/s")
    header, saga = page.locator(".picture > header"), page.locator("[data-row][data-kind=saga]")
    await expect(header).to_contain_text("the first 2,000 events of a chain")
    await expect(header).not_to_contain_text("under way")
    await expect(saga).to_contain_text("its end is not shown")
    await expect(page.locator("[data-row][data-kind=note]")).to_have_count(600)

    del chain[2:-2]
    await page.reload()
    await expect(saga).to_contain_text("completed")
    await expect(header).not_to_contain_text("the first")


_DELIVERIES = "/api/notification/deliveries"


def _told_of_a_saga(services: Services, status: str, due: timedelta) -> list[dict[str, Any]]:
    """What was told of a saga, which is one e-mail; `due` from now."""
    chain = [_of_a_saga(1, "started", "00", saga_type="task-handover"), _of_a_saga(2, "completed", "01")]
    told = dict.fromkeys(("user_id", "causation_id", "ended_at", "answer")) | {
        "id": "first",
        "event_id": "e1",
        "attempts": 0,
    }
    told |= dict.fromkeys(("created_at", "occurred"), "2020-01-01T00:00:00Z")
    told |= {"due": (datetime.now(UTC) + due).isoformat(), "status": status, "channel": "email"}
    notes: list[dict[str, Any]] = [told | {"kind": "x", "data": {}, "correlation_id": "s"}]
    services.own["/api/projector/queries/events"] = lambda *_: (200, {"items": chain, "next": None})
    services.own[_DELIVERIES] = lambda *_: (200, {"items": notes, "next": None})
    return notes


@pytest.mark.parametrize(
    ("status", "due"), [("pending", timedelta(seconds=-1)), ("sending", timedelta(minutes=2))]
)
async def test_what_becomes_of_a_delivery_is_shown_though_no_event_tells_of_it(
    show: Show, services: Services, status: str, due: timedelta
) -> None:
    notes = _told_of_a_saga(services, status, due)
    page = await show("/causes/correlation/s")
    header, shown = page.locator(".picture > header"), page.locator("[data-row][data-kind=note]")
    await expect(header).to_contain_text("under way")
    notes[0]["status"] = "sent"
    await page.clock.fast_forward(4_000)
    await expect(header).not_to_contain_text("under way")

    await happened(page, "saga", "s", "0-7")
    await page.clock.fast_forward(1_000)
    await expect(shown).to_have_count(1)
    notes.append(notes[0] | {"id": "logged later"})
    await page.clock.fast_forward(3_000)
    await expect(shown).to_have_count(2)


async def test_what_is_held_up_is_not_asked_for_all_the_time(show: Show, services: Services) -> None:
    _told_of_a_saga(services, "pending", timedelta(minutes=-2))
    page = await show("/causes/correlation/s")
    await expect(page.locator(".picture > header")).to_contain_text("under way")
    before = services.count(_DELIVERIES)
    await page.clock.run_for(10_000)
    assert services.count(_DELIVERIES) == before


async def test_a_saga_has_ended_whichever_of_two_clocks_is_ahead(show: Show, services: Services) -> None:
    chain = [
        _of_a_saga(1, "started", "00", saga_type="task-handover"),
        _of_a_saga(2, "step_started", "01", step="a"),
        _of_a_saga(3, "step_compensated", "03", step="a"),
        _of_a_saga(4, "compensated", "02"),
    ]
    services.own["/api/projector/queries/events"] = lambda *_: (200, {"items": chain, "next": None})
    page = await show("/causes/correlation/s")
    await expect(page.locator("[data-row][data-kind=saga]")).to_contain_text("compensated")


async def test_a_saga_and_its_causes_stay_when_they_cannot_be_read_again(
    show: Show, services: Services
) -> None:
    saga = dict.fromkeys(("business_key", "user_id", "reason", "remaining", "waits_for", "ended_at"))
    saga |= {"id": "s", "type": "task-handover", "status": "running", "suspended": False, "version": 3}
    saga |= {"created_at": "2030-01-01T00:00:00Z", "input": {}, "steps": []}
    saga |= {"correlation_id": "s"}
    chain = [_of_a_saga(1, "started", "00", saga_type="task-handover")]
    for path, shown in (("/sagas/s", ".saga-head"), ("/causes/saga/s", "[data-row][data-kind=saga]")):
        services.own[f"{SAGAS}/s"] = lambda *_: (200, saga)
        services.own["/api/projector/queries/events"] = lambda *_: (200, {"items": chain, "next": None})
        page = await show(path)
        await expect(page.locator(shown)).to_be_visible()
        services.own[f"{SAGAS}/s"] = lambda *_: AWAY
        await happened(page, "saga", "s", "7-1")
        await page.clock.fast_forward(1_000)
        await expect(page.locator(".problem")).to_contain_text("the database cannot be reached")
        await expect(page.locator(shown)).to_be_visible()


async def test_a_version_that_cannot_be_projected_shows_no_other_ones_state(
    show: Show, services: Services
) -> None:
    event = dict.fromkeys(("user_id", "traceparent", "causation_id")) | {"event_type": "task.updated"}
    event |= {"timestamp": "2030-01-01T00:00:00Z", "stream": "task-x", "data": {}}
    events = [event | {"event_id": f"e{version}", "version": version} for version in (3, 2, 1)]

    def state(_path: str, given: dict[str, str]) -> Answer:
        if given["version"] == "1":
            return 200, {"title": "as it was"}
        return 409, {"type": "urn:annals:problem:not-projected", "detail": "version 2 cannot be projected"}

    services.own["/api/projector/queries/streams/task-x/events"] = lambda *_: (200, {"items": events})
    services.own["/api/projector/queries/streams/task-x/state"] = state
    page = await show("/streams/task-x?version=1")
    await expect(page.get_by_text("as it was")).not_to_have_count(0)

    await page.get_by_role("button", name="v2").click()
    await expect(page.get_by_text("version 2 cannot be projected")).to_be_visible()
    await expect(page.get_by_text("as it was")).to_have_count(0)


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
    await expect(page.get_by_role("button", name="Go on")).to_be_visible()
    go_on.set()
    await until(lambda: _asked(services, RECURRENCES, reads + 2))
    await expect(page.get_by_role("button", name="Go on")).to_be_visible()


async def test_a_notice_says_what_somebody_asked_to_be_told(show: Show, services: Services) -> None:
    notice = {"id": "1", "kind": "notification.requested", "read_at": None}
    notice |= {
        "created_at": "2030-01-01T00:00:00Z",
        "data": {"title": "Lunch", "body": "At noon.\nBring one."},
    }
    services.own["/api/notification/inbox/"] = lambda *_: (
        200,
        {"items": [notice], "next": None, "unread": 1},
    )
    page = await show("/inbox")
    await expect(page.locator(".notice b")).to_have_text("Lunch")
    await expect(page.locator(".notice .prose")).to_have_text("At noon. Bring one.")


async def test_a_notice_that_says_what_is_odd_leaves_the_inbox_as_it_is(
    show: Show, services: Services
) -> None:
    odd = {"kind": "handover_requested", "task_id": "Task 7", "answer_by": "Friday noon"}
    notices = [
        {"id": name, "kind": "x", "data": data, "read_at": None, "created_at": "2030-01-01T00:00:00Z"}
        for name, data in (("odd", odd), ("usual", {"kind": "task.assigned", "task_id": "a"}))
    ]
    services.task("a", title="Pay the bill")
    services.own[f"{TASKS}/Task%207"] = lambda *_: (400, {"detail": "there is no such path"})
    services.own["/api/notification/inbox/"] = lambda *_: (200, {"items": notices, "next": None, "unread": 2})
    page = await show("/inbox")
    await expect(page.locator(".notice")).to_have_count(2)
    await expect(page.locator(".notice").first).to_contain_text("answer by Friday noon")
    await expect(page.locator(".notice").last).to_contain_text("assigned to you: Pay the bill")


async def test_an_inbox_stays_when_it_cannot_be_read_again(show: Show, services: Services) -> None:
    notice = {"id": "one", "kind": "x", "read_at": None, "created_at": "2030-01-01T00:00:00Z"}
    notice["data"] = {"kind": "task.assigned", "task_id": "a"}
    inbox = {"items": [notice], "next": None}
    services.own["/api/notification/inbox/"] = lambda *_: (200, inbox | {"unread": 1})
    services.own[f"{TASKS}/"] = lambda *_: (503, {"detail": "the read models cannot be reached"})
    page = await show("/inbox")
    await expect(page.locator(".notice")).to_contain_text("A task was assigned to you")

    def away(_path: str, given: dict[str, str]) -> Answer:
        if given.get("unread"):
            return 200, inbox | {"unread": 2}
        return 503, {"detail": "the database cannot be reached"}

    services.own["/api/notification/inbox/"] = away
    await page.clock.fast_forward(21_000)
    await expect(page.locator(".problem")).to_contain_text("the database cannot be reached")
    await expect(page.locator(".notice")).to_have_count(1)


async def test_older_notices_are_shown_below_the_newest(show: Show, services: Services) -> None:
    def inbox(_path: str, given: dict[str, str]) -> Answer:
        start = int(given.get("cursor", "0"))
        notices = [
            {"id": str(number), "kind": f"number {number}", "data": {}, "read_at": None}
            | {"created_at": "2030-01-01T00:00:00Z"}
            for number in range(start, min(start + int(given["limit"]), 250))
        ]
        following = str(start + len(notices)) if start + len(notices) < 250 else None
        return 200, {"items": notices, "next": following, "unread": 250}

    services.own["/api/notification/inbox/"] = inbox
    page = await show("/inbox")
    for shown in (100, 200):
        await expect(page.locator(".notice")).to_have_count(shown)
        await page.get_by_role("button", name="Older").click()
    await expect(page.locator(".notice")).to_have_count(250)
    await expect(page.get_by_role("button", name="Older")).to_have_count(0)
    await expect(page.locator(".panel > header")).to_contain_text("250 unread")


async def test_older_deliveries_are_a_page_further(show: Show, services: Services) -> None:
    def deliveries(_path: str, given: dict[str, str]) -> Answer:
        to = f"{given.get('channel', 'any')}-{given.get('cursor', 'newest')}"
        one = dict.fromkeys(("answer", "correlation_id")) | {"id": to, "user_id": to, "kind": "x", "data": {}}
        one |= {"channel": "email", "status": "sent", "attempts": 1, "created_at": "2030-01-01T00:00:00Z"}
        return 200, {"items": [one], "next": None if "cursor" in given else "older"}

    services.own["/api/notification/deliveries"] = deliveries
    page = await show("/health/deliveries")
    await expect(page.get_by_role("cell", name="any-newest")).to_be_visible()
    await page.get_by_role("button", name="Older").click()
    await expect(page.get_by_role("cell", name="any-older")).to_be_visible()
    await page.get_by_role("button", name="Newest").wait_for()
    await page.get_by_label("Channel").select_option("email")
    await expect(page.get_by_role("cell", name="email-newest")).to_be_visible()


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
    await expect(page.locator(".empty")).to_contain_text("This cannot be shown")
    services.own.clear()
    services.task("first")
    await page.get_by_role("link", name="Streams").click()
    await expect(page.get_by_role("textbox", name="Stream")).to_be_visible()
    await page.get_by_role("link", name="Sagas").click()
    await expect(page.locator(".empty")).not_to_contain_text("This cannot be shown")


async def test_who_gives_a_reason_that_is_not_taken_reads_what_one_may_hold(
    show: Show, services: Services
) -> None:
    read_model = {"name": "tasks", "version": 1, "parked": 0, "generations": []}
    session = services.session[1]
    assert isinstance(session, dict)
    services.session = (200, session | {"role": "suite-operator"})
    errors = [{"field": "reason", "expected": "no such signs"}]
    services.own["/api/projector/projections/tasks/rebuild"] = lambda *_: (
        400,
        {"detail": "some fields are not as expected", "errors": errors},
    )
    services.own["/api/projector/projections"] = lambda *_: (200, {"items": [read_model], "lag": 0})
    page = await show("/health/projections")
    await page.get_by_role("button", name="Rebuild").click()
    await page.get_by_label("Why?").fill("$")
    await page.get_by_role("dialog").get_by_role("button", name="Rebuild").click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("reason: no such signs")


def operates(services: Services, role: str) -> None:
    """Have one be somebody with this role."""
    session = services.session[1]
    assert isinstance(session, dict)
    services.session = (200, session | {"role": role})


async def test_rows_that_differ_and_cannot_be_shown_are_told_of(show: Show, services: Services) -> None:
    counts = dict.fromkeys(("only_old", "only_new", "on_their_way", "parked"), 0) | {
        "old_rows": 9_000,
        "new_rows": 9_000,
    }
    found = counts | {"differing": 4_812, "samples": []}
    services.own[f"{PROJECTIONS}/tasks/generations/2/difference"] = lambda *_: (200, found)
    services.own[PROJECTIONS] = lambda *_: (200, {"items": [READ_MODEL], "lag": 0})
    operates(services, "suite-operator")
    page = await show("/health/projections")
    await page.get_by_role("button", name="Difference").click()
    await expect(page.get_by_role("dialog")).to_contain_text("None of these rows is of your tenant")
    await expect(page.get_by_role("dialog")).not_to_contain_text("no row differs")


async def test_dead_letters_are_shown_though_one_service_is_away(show: Show, services: Services) -> None:
    parked: list[dict[str, Any]] = []
    services.own["/api/projector/dead-letters"] = lambda *_: AWAY
    services.own["/api/command/dead-letters"] = lambda *_: (200, {"items": parked, "next": None})
    page = await show("/health/dead-letters")
    away = page.get_by_role("region", name="projector")
    await expect(away).to_contain_text("the database cannot be reached")
    await expect(page.locator(".empty")).to_have_count(0)

    parked.append(LETTER)
    await page.clock.fast_forward(3_000)
    await expect(page.get_by_role("button", name="task-a")).to_be_visible()
    for service in ("command", "saga-orchestrator", "notification"):
        services.own[f"/api/{service}/dead-letters"] = lambda *_: AWAY
    await page.clock.fast_forward(3_000)
    await expect(away).to_have_count(0)
    await expect(page.locator(".problem")).to_have_count(1)
    await expect(page.get_by_role("button", name="task-a")).to_be_visible()


@pytest.mark.parametrize(
    ("view", "path", "answer", "seen"),
    [
        ("/health/projections", PROJECTIONS, {"items": [READ_MODEL], "lag": 0}, "up to date"),
        ("/health", "/api/command/store/lanes", {"items": [LANE], "backlog": 0}, "a-writer"),
        (
            "/streams/task-a",
            "/api/projector/queries/streams/task-a/events",
            {"items": [EVENT]},
            "task.created",
        ),
    ],
)
async def test_what_is_shown_and_cannot_be_read_again_is_said_to_be_so(
    show: Show, services: Services, view: str, path: str, answer: dict[str, Any], seen: str
) -> None:
    services.own["/api/health"] = lambda *_: (200, {"items": [{"time": 1_900_000_000, "up": {}}]})
    services.own[path] = lambda *_: (200, answer)
    page = await show(view)
    await expect(page.get_by_text(seen).first).to_be_visible()
    services.own[path] = lambda *_: AWAY
    await happened(page, "task", "a", "0-2")
    await page.clock.fast_forward(3_000)
    await expect(page.locator(".problem")).to_contain_text("the database cannot be reached")
    await expect(page.get_by_text(seen).first).to_be_visible()


def noticed(name: str, **data: object) -> dict[str, Any]:
    """A notice that nobody has read."""
    at = datetime.now(UTC).isoformat()
    return {"id": name, "kind": "x", "data": data, "read_at": None, "created_at": at}


async def test_a_notice_that_comes_as_another_goes_is_shown(show: Show, services: Services) -> None:
    notices = [noticed("first", kind="task.assigned")]
    services.own["/api/notification/inbox/"] = lambda *_: (
        200,
        {"items": notices, "next": None, "unread": 1},
    )
    page = await show("/inbox")
    await expect(page.locator(".notice")).to_contain_text("A task was assigned to you")
    notices[:] = [noticed("second", kind="handover_requested")]
    await page.clock.fast_forward(21_000)
    await expect(page.locator(".notice")).to_contain_text("You are asked to take a task on")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"assignee": "ada", "previous": "bob"}, "A task was assigned to you"),
        ({"assignee": "bob", "previous": "ada"}, "A task that you had was assigned to bob"),
        ({"assignee": "bob", "previous": None}, "A task was assigned to bob"),
    ],
)
async def test_a_notice_says_whom_a_task_was_assigned_to(
    show: Show, services: Services, data: dict[str, object], said: str
) -> None:
    services.task("a", title="Pay the bill")
    found = {"items": [noticed("one", stream="task-a", **data) | {"kind": "task.assigned"}]}
    services.own["/api/notification/inbox/"] = lambda *_: (200, found | {"next": None, "unread": 1})
    page = await show("/inbox")
    await expect(page.locator(".notice b")).to_have_text(f"{said}: Pay the bill")


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


async def test_a_hand_over_is_answered_once_and_by_members_alone(show: Show, services: Services) -> None:
    notices = [noticed(kind, kind=kind, saga_id="s") for kind in ("handover_reminder", "handover_requested")]

    def read(path: str, _: object) -> Answer:
        notices[path.endswith("handover_requested/read")]["read_at"] = "2030-01-01T00:00:00Z"
        return 200, {"changed": 1}

    services.own["PUT /api/notification/inbox/"] = read
    services.own["/api/notification/inbox/"] = lambda *_: (
        200,
        {"items": notices, "next": None, "unread": sum(one["read_at"] is None for one in notices)},
    )
    page = await show("/inbox")
    await expect(page.get_by_role("button", name="Accept")).to_have_count(2)
    await page.get_by_role("button", name="Accept").first.click()
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    assert [one["read_at"] is None for one in notices] == [False, False]

    for one in notices:
        one["read_at"] = None
    operates(services, "viewer")
    page = await show("/inbox")
    await expect(page.get_by_role("link", name="Why")).to_have_count(2)
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)


async def test_what_is_answered_elsewhere_asks_for_no_answer_any_more(show: Show, services: Services) -> None:
    notices = [noticed(kind, kind=kind, saga_id="s") for kind in ("handover_reminder", "handover_requested")]
    saga = {"id": "s", "status": "running"}
    services.own[f"{SAGAS}/s"] = lambda *_: (200, saga)
    found = {"items": notices, "next": None, "unread": 2}
    services.own["/api/notification/inbox/"] = lambda *_: (200, found)
    page = await show("/inbox")
    await expect(page.get_by_role("button", name="Accept")).to_have_count(2)
    saga["status"] = "completed"
    await happened(page, "saga", "s", "0-7")
    await page.clock.fast_forward(1_000)
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    await expect(page.get_by_role("link", name="Why")).to_have_count(2)


async def test_what_is_answered_beside_its_task_is_read(show: Show, services: Services) -> None:
    services.task("a", assignee="ada")
    saga = {"id": "s", "business_key": "a", "input": {"assignee": "ada"}, "created_at": THEN}
    services.own[SAGAS] = lambda *_: (200, {"items": [saga], "next": None})
    notices = [noticed(name, kind="handover_requested", saga_id=name) for name in ("r", "s")]
    services.own["/api/notification/inbox/"] = lambda *_: (200, {"items": notices, "next": None, "unread": 2})
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Accept").click()
    await until(lambda: _has_sent(services, 2))
    assert services.sent == [
        ("POST /api/saga-orchestrator/sagas/s/events/accept", None),
        ("PUT /api/notification/inbox/ada/s/read", None),
    ]


async def test_a_chart_is_of_what_is_in_sight(show: Show, services: Services) -> None:
    def sample(ago: int, commits: float, p50: float) -> dict[str, Any]:
        return {"time": 1_900_000_000 - ago, "up": {}, "commits": commits, "command_p50": p50}

    samples = [sample(800, 900, 59.7), sample(300, 8, 299.6), sample(0, 2, 0.9997)]
    services.own["/api/health"] = lambda *_: (200, {"items": samples})
    page = await show("/health")
    commits = page.locator(".chart-card", has_text="Commits").first
    await expect(commits).to_contain_text("peak 8.0/s")
    await expect(commits.get_by_role("img")).to_have_attribute(
        "aria-label", "Commits: 2.0/s now, at most 8.0/s"
    )
    median = page.locator(".chart-card", has_text="Command, median")
    await expect(median.locator("b")).to_have_text("1.0 s")
    await expect(median).to_contain_text("peak 5 min 0 s")
    await expect(page.get_by_text("Measured since")).to_have_count(0)


async def test_sagas_are_of_whatever_type_they_are(show: Show, services: Services) -> None:
    saga = {"id": "s", "type": "task-review", "business_key": "a", "status": "running", "suspended": False}
    saga |= {"steps": [], "waits_for": None, "reason": None, "created_at": THEN}
    services.own[SAGAS] = lambda *_: (200, {"items": [saga], "next": None})
    page = await show("/sagas")
    await page.get_by_label("Type").select_option("task-review")
    await expect(page).to_have_url(re.compile("type=task-review"))
    page = await show("/sagas?type=another")
    await expect(page.get_by_label("Type")).to_have_value("another")


async def test_from_a_page_of_sagas_that_a_link_led_to_the_newest_are_one_step_away(
    show: Show, services: Services
) -> None:
    page = await show("/sagas?status=failed&cursor=further")
    await page.get_by_role("link", name="Newest").click()
    await expect(page).to_have_url("https://page.test/sagas?status=failed")
    await until(lambda: _has([one for one in services.asked if "sagas?status=failed&limit" in one], 1))


async def test_a_dead_letter_that_could_not_be_discarded_is_read_again(
    show: Show, services: Services
) -> None:
    versions = [4]
    full = LETTER | {"stack": "", "raw": None, "history": [], "waiting": 1, "events": []}
    services.own["POST /api/command/dead-letters/one/discard"] = lambda *_: (409, {"detail": "another waits"})
    services.own["/api/command/dead-letters/one"] = lambda *_: (200, full | {"version": versions[-1]})
    services.own["/api/command/dead-letters"] = lambda *_: (
        200,
        {"items": [LETTER], "next": None},
    )
    page = await show("/health/dead-letters")
    await page.get_by_role("button", name="task-a").click()
    drawer = page.get_by_role("dialog")
    for seen, meanwhile in ((4, 5), (5, 6)):
        await expect(drawer).to_contain_text(f"task.created v{seen}")
        versions.append(meanwhile)
        await drawer.get_by_role("button", name="Discard").click()
        await page.get_by_label("Why?").fill("it is not needed")
        await drawer.get_by_role("button", name="Discard").click()
        await expect(drawer.get_by_role("alert")).to_contain_text("another waits")
        await drawer.get_by_role("button", name="Go back").click()
    assert [body["version"] for _, body in services.sent] == [4, 5]
