"""The live stream: opened, lost, let go and read after, so that the page misses nothing."""

from __future__ import annotations

import asyncio

from playwright.async_api import Page, expect

from browser.page_alone import (
    MEMBERS,
    SAGAS,
    STREAM,
    TASKS,
    Answer,
    Services,
    Show,
    asked_for,
    happened,
    has,
    row,
)
from conftest import until

MINUTES = 5


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
    await until(lambda: asked_for(services, TASKS, loads + 1))


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
    await until(lambda: has([one for one in services.asked if "position=3-2" in one], 1))
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
    await until(lambda: asked_for(services, SAGAS, 2))
    await page.wait_for_function("opened.length === 1")
    places = [f"{lane}-{lane + 100}" for lane in (*range(6), *range(48, 54))]
    await page.evaluate("all => { opened[0].onopen(); opened[0].say('alive', all, {}) }", ",".join(places))
    await page.clock.fast_forward(1_000)
    for place in places:
        await until(lambda place=place: has([one for one in services.asked if f"position={place}" in one], 1))


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
    await until(lambda: asked_for(services, TASKS, loads + 1))


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
    await until(lambda: asked_for(services, TASKS, loads + 1))


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
    await until(lambda: asked_for(services, "/api/projector/queries/audit", 1))
    await page.clock.fast_forward(46_000)
    await expect(page.locator(".problem")).to_contain_text("no answer came within 45 s")
    ended.set()


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
    await until(lambda: has(as_of, 1))
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
    await until(lambda: asked_for(services, MEMBERS, 2))
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
    await until(lambda: has(asked[1:], 1))
    assert asked == ["7-1", None]


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
