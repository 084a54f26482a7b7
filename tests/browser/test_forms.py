"""The page alone: forms send what was chosen, once, and keep what was typed until it is accepted."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Locator, Page, expect

from browser.page_alone import MEMBERS, TASKS, Answer, Services, Show, row, written
from conftest import until

CRITICAL = {"priority": "critical", "assignee": "cleo"}
REFUSED = (422, {"type": "urn:annals:problem:rule", "detail": "not on a Sunday"})
AWAY = (503, {"detail": "the database cannot be reached"})


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


AS_NO_FORM_HOLDS_IT = {"title": "two\nlines", "description": "  one\r\ntwo\n", "tags": ["Q4, finance"]}


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_an_edit_leaves_what_nobody_touched_as_no_form_could_hold_it(
    show: Show, services: Services, meanwhile: bool
) -> None:
    services.task("a", version=4, **AS_NO_FORM_HOLDS_IT)
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("Due", exact=True).fill("2031-01-01T09:00")
    if meanwhile:
        services.task("a", version=5, **AS_NO_FORM_HOLDS_IT | {"description": "theirs\n"})
        services.own["/api/command/"] = lambda *_: (409, {"detail": "expected 4, is 5"})
        await page.get_by_role("button", name="Save").click()
        conflict = page.get_by_role("region", name="Conflict")
        await expect(conflict.get_by_role("row")).to_have_count(3)
    services.own["/api/command/"] = lambda *_: (200, written("a", 6))
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".toast", has_text="Saved: ")).to_be_visible()
    assert {asked for asked, _ in services.sent} == {"POST /api/command/commands/task.set_due_date"}


async def test_forms_begin_with_what_is_usual(show: Show, services: Services) -> None:
    services.task("a")
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Hand over").click()
    await expect(page.get_by_label("Answer within")).to_have_value("P1D")

    page = await show("/tasks")
    await page.get_by_role("button", name="New task").click()
    await expect(page.get_by_label("Priority")).to_have_value("normal")
    await expect(page.get_by_label("Assigned to")).to_have_value("")

    assert isinstance(services.session[1], dict)
    services.session = (200, services.session[1] | {"auth": "development"})
    page = await show("/tasks")
    await page.get_by_role("button", name="Development").click()
    await expect(page.get_by_label("Role")).to_have_value("operator")


async def test_a_task_that_is_refused_leaves_its_form_as_it_was_filled_in(
    show: Show, services: Services
) -> None:
    errors = [{"field": "tags", "expected": "at most 50 characters"}]
    services.own["/api/command/"] = lambda *_: (400, {"detail": "tags", "errors": errors})
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Pay the bill")
    await page.get_by_label("Description").fill("of the electricity")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator(".field-error")).to_have_text("at most 50 characters")
    await expect(title(page)).to_have_value("Pay the bill")
    await expect(page.get_by_label("Description")).to_have_value("of the electricity")
    await expect(row(page, "Pay the bill")).to_have_count(0)

    async def taken(*_: object) -> Answer:
        await asked.wait()
        return 201, written("x", 1)

    asked = asyncio.Event()
    services.own["/api/command/"] = taken
    create = page.get_by_role("button", name="Create")
    await create.click()
    await expect(create).to_be_disabled()
    asked.set()
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_what_is_wrong_with_one_of_many_is_said_at_their_field(show: Show, services: Services) -> None:
    errors = [{"field": "tags.1", "expected": "at most 50 characters"}]
    services.own["/api/command/"] = lambda *_: (400, {"detail": "tags", "errors": errors})
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Pay the bill")
    await page.get_by_label("Tags").fill("a, bb")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator(".field", has_text="Tags").locator(".field-error")).to_have_text(
        "at most 50 characters"
    )


@pytest.mark.parametrize("width", [1280, 390])
async def test_what_is_told_stands_over_what_is_open_and_over_none_of_its_buttons(
    show: Show, services: Services, width: int
) -> None:
    services.task("a")
    services.own["/api/command/"] = lambda *_: REFUSED
    page = await show("/tasks?task=a")
    await page.set_viewport_size({"width": width, "height": 800})
    await page.get_by_role("button", name="Complete", exact=True).click()
    told = page.locator(".toast", has_text="not on a Sunday")
    await expect(told).to_be_visible()
    assert await _in_sight(told)
    for button in await page.get_by_role("dialog").locator("footer button").all():
        assert await _in_sight(button)

    await page.get_by_role("button", name="Edit").click()
    assert await _in_sight(told), "one is told in what is open next, too"
    await page.get_by_role("button", name="Dismiss").click()
    await expect(told).to_have_count(0)

    await title(page).fill("mine")
    await page.get_by_role("button", name="Save").click()
    await expect(told).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await _in_sight(told), "nor is it lost with what is closed"


async def _in_sight(one: Locator) -> bool:
    """Return whether the element is on top at its centre, where a user sees and clicks it."""
    return bool(
        await one.evaluate("""one => {
          const { x, y, width, height } = one.getBoundingClientRect();
          return one.contains(document.elementFromPoint(x + width / 2, y + height / 2));
        }""")
    )


async def test_a_form_is_not_closed_by_the_answer_to_one_before(show: Show, services: Services) -> None:
    async def late(*_: object) -> Answer:
        await go_on.wait()
        return 201, written("x", 1)

    go_on = asyncio.Event()
    services.own["/api/command/"] = late
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("one")
    await page.get_by_role("button", name="Create").click()
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("other")
    go_on.set()
    await expect(page.locator(".toast", has_text="Created: one")).to_be_visible()
    await expect(title(page)).to_have_value("other")


async def test_text_may_be_selected_beyond_the_edge_of_its_form(show: Show) -> None:
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("a long title, all of which is selected")
    typed = await title(page).bounding_box()
    form = await page.get_by_role("dialog").bounding_box()
    assert typed is not None
    assert form is not None
    beside, height = form["x"] - 40, typed["y"] + typed["height"] / 2
    await page.mouse.move(typed["x"] + 120, height)
    await page.mouse.down()
    await page.mouse.move(beside, height, steps=5)
    await page.mouse.up()
    await expect(title(page)).to_be_visible()
    await page.mouse.click(beside, height)
    await expect(page.get_by_role("dialog")).to_have_count(0)


RECURRENCES = "/api/notification/recurrences"
STAND_UP = {
    "id": "stand-up",
    "rule": "FREQ=DAILY",
    "timezone": "Europe/Berlin",
    "command": {"type": "task.create", "data": {"title": "Stand-up"}},
    "start": "2030-01-01T09:00:00Z",
    "paused": False,
    "user": "grace",
    "next": "2030-01-02T09:00:00Z",
}


async def test_what_recurs_is_set_up_once_however_often_it_is_asked_for(
    show: Show, services: Services
) -> None:
    page = await show("/tasks/recurring")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Stand-up")
    await page.get_by_label("How often").select_option("FREQ=DAILY")
    services.own[f"PUT {RECURRENCES}/"] = lambda *_: AWAY
    create = page.get_by_role("button", name="Create")
    await create.dblclick()
    for attempt in range(1, 6):
        await until(lambda attempt=attempt: _has_sent(services, attempt))
        await page.clock.fast_forward(10_000)
    await expect(page.locator(".toast[data-tone=bad]", has_text="Could not create the task")).to_be_visible()

    services.own[f"PUT {RECURRENCES}/"] = lambda *_: (201, STAND_UP)
    services.own[RECURRENCES] = lambda *_: AWAY
    await create.click()
    await expect(page.locator(".toast", has_text="Created recurring task: Stand-up")).to_be_visible()
    await expect(page.get_by_role("cell", name="Stand-up")).to_be_visible()
    assert len({asked for asked, _ in services.sent}) == 1
    assert len(services.sent) == 6


@pytest.mark.parametrize(
    ("due", "rule"),
    [
        ("2030-01-28T09:00", "FREQ=MONTHLY"),
        ("2030-01-31T09:00", "FREQ=MONTHLY;BYMONTHDAY=28,29,30,31;BYSETPOS=-1"),
    ],
)
async def test_what_recurs_every_month_does_so_also_in_those_that_have_no_such_day(
    show: Show, services: Services, due: str, rule: str
) -> None:
    page = await show("/tasks/recurring")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Rent")
    await page.get_by_label("Due", exact=True).fill(due)
    said = page.get_by_text("They have no due date themselves")
    await expect(said).to_have_count(0)
    await page.get_by_label("How often").select_option("every month")
    await expect(said).to_be_visible()
    services.own[f"PUT {RECURRENCES}/"] = lambda *_: (201, STAND_UP)
    await page.get_by_role("button", name="Create").click()
    await until(lambda: _has_sent(services, 1))
    assert services.sent[-1][1]["rule"] == rule


async def _has_sent(services: Services, most: int) -> bool:
    return len(services.sent) >= most


async def test_what_recurs_is_paused_and_goes_on_with_all_that_is_said_of_it(
    show: Show, services: Services
) -> None:
    services.own[f"POST {RECURRENCES}/stand-up/pause"] = lambda *_: (200, STAND_UP | {"paused": True})
    services.own[f"POST {RECURRENCES}/stand-up/resume"] = lambda *_: (200, STAND_UP)
    services.own[RECURRENCES] = lambda *_: (200, {"items": [STAND_UP], "next": None})
    page = await show("/tasks/recurring")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("cell", name="paused")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert services.sent == [(f"POST {RECURRENCES}/stand-up/{what}", None) for what in ("pause", "resume")]


async def test_an_edit_that_is_saved_in_part_says_so_and_goes_on_from_there(
    show: Show, services: Services
) -> None:
    services.task("a", version=4, **CRITICAL)

    def update(*_: object) -> Answer:
        services.task("a", version=5, title="mine", **CRITICAL)
        return 200, written("a", 5)

    services.own["/api/command/commands/task.update"] = update
    services.own["/api/command/commands/task.set_due_date"] = lambda *_: REFUSED
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Edit").click()
    await title(page).fill("mine")
    await page.get_by_label("Due", exact=True).fill("2031-01-01T09:00")
    await page.get_by_role("button", name="Save").click()
    told = page.locator(".toast[data-tone=bad]")
    await expect(told).to_contain_text("Only these changes were saved: title")
    await expect(told).to_contain_text("not on a Sunday")
    await expect(title(page)).to_have_value("mine")

    def others(*_: object) -> Answer:
        services.task("a", version=6, title="mine", description="theirs", **CRITICAL)
        return 409, {"type": "urn:annals:problem:conflict", "detail": "expected 5, is 6"}

    expected: list[str | None] = []
    page.on(
        "request", lambda one: expected.append(one.headers.get("if-match")) if one.method == "POST" else None
    )
    services.own["/api/command/commands/task.set_due_date"] = others
    await page.get_by_role("button", name="Save").click()
    conflict = page.get_by_role("region", name="Conflict")
    await expect(conflict).to_contain_text("Only these changes were saved: title")
    await expect(conflict.get_by_role("row")).to_have_count(3)
    await expect(conflict.get_by_role("row", name="description")).to_contain_text("theirs")
    await expect(conflict.get_by_role("row", name="due")).to_contain_text("2031")

    services.own["/api/command/commands/task.set_due_date"] = lambda *_: (200, written("a", 7))
    await conflict.get_by_role("button", name="Save mine on top of theirs").click()
    await expect(page.locator(".toast", has_text="Saved: mine")).to_be_visible()
    assert expected == ['"5"', '"6"']
    kinds = [asked.rpartition(".")[2] for asked, _ in services.sent]
    assert kinds == ["update", "set_due_date", "set_due_date", "set_due_date"]


async def test_an_edit_stays_as_it_is_filled_in_while_nobody_knows_what_was_changed_meanwhile(
    show: Show, services: Services
) -> None:
    services.task("a", version=4)
    services.own["/api/command/"] = lambda *_: (409, {"detail": "expected 4, is 5"})
    page = await show("/tasks?task=a")
    services.own[f"{TASKS}/"] = lambda *_: AWAY
    await page.get_by_role("button", name="Edit").click()
    await title(page).fill("mine")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".toast[data-tone=bad]")).to_contain_text("changed meanwhile")
    await expect(title(page)).to_have_value("mine")

    services.own[f"{TASKS}/"] = lambda *_: (200, services.task("a", version=5, description="theirs"))
    await page.get_by_role("button", name="Save").click()
    services.own["/api/command/"] = lambda *_: REFUSED
    await page.get_by_role("button", name="Save mine on top of theirs").click()
    await expect(page.locator(".toast", has_text="not on a Sunday")).to_be_visible()
    await expect(title(page)).to_have_value("mine")
    await expect(page.get_by_label("Description")).to_have_value("theirs")


async def test_of_a_task_all_of_its_title_is_read_and_it_is_late_until_it_is_done(
    show: Show, services: Services
) -> None:
    services.task("a", title="A title of many words " * 20, due="2020-01-01T00:00:00Z")
    page = await show("/tasks?task=a")
    drawer = page.get_by_role("dialog")
    await expect(drawer.get_by_text("late", exact=True)).to_be_visible()
    assert await drawer.get_by_role("heading").evaluate("one => one.scrollWidth <= one.clientWidth")

    services.task("a", due="2020-01-01T00:00:00Z", status="done")
    page = await show("/tasks?task=a")
    await expect(page.get_by_role("dialog").get_by_role("button", name="Reopen")).to_be_visible()
    await expect(page.get_by_role("dialog").get_by_text("late", exact=True)).to_have_count(0)


async def test_a_year_that_is_none_is_refused_in_the_form(show: Show, services: Services) -> None:
    page = await show("/tasks/list")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Pay the bill")
    due = page.get_by_label("Due", exact=True)
    await due.evaluate("due => { due.value = '12345-01-01T09:00'; }")
    await page.get_by_role("button", name="Create").click()
    assert await due.evaluate("due => due.matches(':focus:invalid')")


async def test_who_cannot_be_somebody_else_is_told_why(show: Show, services: Services) -> None:
    assert isinstance(services.session[1], dict)
    services.session = (200, services.session[1] | {"auth": "development"})
    services.own["POST /auth/development"] = lambda *_: (400, {"detail": "a user is up to 128 letters"})
    page = await show("/tasks")
    await page.get_by_role("button", name="Development").click()
    await page.get_by_role("button", name="Switch").click()
    await expect(page.locator(".toast")).to_contain_text("up to 128 letters")


async def test_a_form_stays_as_it_is_filled_in_when_its_task_is_deleted(
    show: Show, services: Services
) -> None:
    services.task("a", version=4)
    gone = (
        404,
        {"type": "urn:annals:problem:not-found", "detail": "there is no such task, or it was deleted"},
    )
    answered = asyncio.Event()

    async def late(*_: object) -> Answer:
        await answered.wait()
        return gone

    services.own["/api/command/"] = late
    page = await show("/tasks?task=a")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    await page.get_by_role("button", name="Edit").click()
    await title(page).fill("mine")
    del services.tasks["a"]
    event = {"event_type": "task.deleted", "aggregate_type": "task", "aggregate_id": "a", "position": "0-5"}
    await page.evaluate("event => opened.at(-1).say('message', event.position, event)", event)
    await page.clock.fast_forward(100)
    await expect(page.get_by_text("No tasks yet")).to_have_count(1)
    await expect(title(page)).to_have_value("mine")

    await page.get_by_role("button", name="Save").click()
    await until(lambda: _has_sent(services, 1))
    await expect(page.get_by_text("No tasks yet")).to_have_count(1)
    answered.set()
    await expect(page.locator(".toast[data-tone=bad]")).to_contain_text("it was deleted")
    await expect(title(page)).to_have_value("mine")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Task not found")


async def test_nobody_is_asked_to_take_on_a_task_that_is_deleted_meanwhile(
    show: Show, services: Services
) -> None:
    services.task("a")
    page = await show("/tasks?task=a")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    await page.get_by_role("button", name="Hand over").click()
    await page.get_by_label("To").select_option("cleo")
    del services.tasks["a"]
    event = {"event_type": "task.deleted", "aggregate_type": "task", "aggregate_id": "a", "position": "0-5"}
    await page.evaluate("event => opened.at(-1).say('message', event.position, event)", event)
    await page.clock.fast_forward(100)
    await expect(page.get_by_text("No tasks yet")).to_have_count(1)

    await page.get_by_role("button", name="Ask", exact=True).click()
    await expect(page.locator(".toast[data-tone=bad]")).to_contain_text("The task was deleted meanwhile")
    assert services.sent == []


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
async def test_who_asks_somebody_to_take_on_a_task_is_told_why_they_do_not(
    show: Show, services: Services, before: bool
) -> None:
    """The reason shows even if the saga ends before the answer says which saga it is."""
    services.task("a")
    begun = asyncio.Event()

    async def begin(*_: object) -> Answer:
        await begun.wait()
        return 202, {"id": "s", "created": True}

    services.own["/api/saga-orchestrator/sagas/task-handover"] = begin
    page = await show("/tasks?task=a")
    await expect(page.locator(".bar .status")).to_have_text("Live")
    await page.get_by_role("button", name="Hand over").click()
    await page.get_by_label("To").select_option("cleo")
    async with page.expect_request(lambda request: request.method == "POST"):
        await page.get_by_role("button", name="Ask", exact=True).click()
    asked = page.locator(".toast", has_text="Cleo is being asked")
    if not before:
        begun.set()
        await expect(asked).to_be_visible()

    event = {"event_type": "saga.compensating", "aggregate_type": "saga", "position": "0-5"}
    event |= {"data": {"reason": "reserve-capacity: the member has left and takes on no more tasks"}}
    for saga in ("other", "s"):
        await page.evaluate(
            "event => opened.at(-1).say('message', event.position, event)", event | {"aggregate_id": saga}
        )
    begun.set()
    bad = page.locator(".toast[data-tone=bad]")
    await expect(bad).to_have_count(1)
    await expect(bad).to_contain_text("Cleo has not taken on the task: reserve-capacity: the member has left")
    await expect(asked).to_have_count(0 if before else 1)


async def test_nobody_is_asked_to_take_on_a_task_who_has_no_place_left(
    show: Show, services: Services
) -> None:
    services.task("a")
    full = {"id": "ada", "name": "Ada", "capacity": 2, "reserved": 2, "version": 1}
    free = full | {"id": "ben", "name": "Ben", "reserved": 1}
    services.own[MEMBERS] = lambda *_: (200, {"items": [full, free], "next": None})
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Hand over").click()
    await expect(page.get_by_role("option", name="Ada (2 of 2 places taken)")).to_be_disabled()
    await expect(page.get_by_label("To")).to_have_value("ben")


@pytest.mark.parametrize("form", ["New task", "Edit"])
async def test_what_nobody_knows_the_outcome_of_is_asked_again_with_its_key(
    show: Show, services: Services, form: str
) -> None:
    services.task("a", version=4)
    keys: list[str] = []
    page = await show("/tasks?task=a" if form == "Edit" else "/tasks")
    button = page.get_by_role("button", name="Save" if form == "Edit" else "Create")
    page.on(
        "request", lambda one: keys.append(one.headers["idempotency-key"]) if one.method == "POST" else None
    )

    async def send(answer: Answer, tries: int) -> None:
        services.own["/api/command/"] = lambda *_: answer
        before = len(services.sent)
        await button.click()
        for attempt in range(1, tries):
            await until(lambda attempt=attempt: _has_sent(services, before + attempt))
            await page.clock.fast_forward(10_000)
        await until(lambda: _has_sent(services, before + tries))

    await page.get_by_role("button", name=form).click()
    await title(page).fill("mine")
    await send(AWAY, 5)
    await expect(button).to_be_enabled()
    await send(REFUSED, 1)
    await expect(page.locator(".toast[data-tone=bad]", has_text="not on a Sunday")).to_be_visible()
    assert len(keys) == 6
    assert len(set(keys)) == 1

    await send(AWAY, 5)
    await expect(button).to_be_enabled()
    await title(page).fill("another")
    await send((200, written("a", 5)), 1)
    await expect(page.locator(".toast", has_text=": another")).to_be_visible()
    assert len(set(keys)) == 3, "one for what was answered, one for what was not, one for what is another"


async def test_a_page_over_plain_http_sends_what_is_filled_in(show: Show, services: Services) -> None:
    services.task("a")
    services.own["/api/command/"] = lambda *_: (201, written("x", 1))
    page = await show("/tasks?task=a")
    await page.evaluate("delete Crypto.prototype.randomUUID")  # as on a page without a secure context
    await page.get_by_role("button", name="Hand over").click()
    await expect(page.locator("select[name=assignee]")).to_have_value("ada")
    await page.get_by_role("button", name="Ask", exact=True).click()
    await until(lambda: _has_sent(services, 1))
    await page.goto(page.url.partition("?")[0])
    await page.evaluate("delete Crypto.prototype.randomUUID")
    await page.get_by_role("button", name="New task").click()
    await title(page).fill("Pay the bill")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator(".toast", has_text="Created: Pay the bill")).to_be_visible()
    given = services.sent[1][1]["id"]
    assert re.fullmatch("[0-9a-f]{32}", given)
