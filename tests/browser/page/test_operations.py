"""The operators' views: what a service that is away, or refuses, leaves on the page."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from browser.page_alone import (
    AWAY,
    THEN,
    Answer,
    Services,
    Show,
    happened,
    has,
    operates,
)
from conftest import until

PROJECTIONS = "/api/projector/projections"
LETTER = {"kind": "event", "consumer": "c", "stream": "task-a", "version": 4, "event_type": "task.created"}
LETTER |= {"reason": "no", "group": "g", "attempts": 1, "trace_id": None, "parked_at": THEN, "id": "one"}
GENERATION = {"number": 2, "version": 1, "status": "building", "reason": "r", "throttle": None}
READ_MODEL = {"name": "tasks", "version": 1, "parked": 0}
READ_MODEL |= {"generations": [GENERATION | {"started_at": THEN, "caught_up": True, "commits": None}]}
LANE = {"lane": 1, "owner": "a-writer", "tail": 1, "published": 1, "backlog": 0}
EVENT = {"event_id": "e1", "event_type": "task.created", "version": 1, "timestamp": THEN, "data": {}}


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
    await page.get_by_role("textbox", name="User").fill("ada")
    await page.get_by_role("button", name="Show operations").click()
    await until(lambda: has(asked[2:], 1))
    assert asked[-1] == {"type": "operation.requested", "limit": "100"}
    await expect(page.get_by_role("textbox", name="User")).to_have_value("")
    await expect(page.get_by_role("textbox", name="Event type")).to_have_value("operation.requested")

    await expect(page.locator("a[href='/causes/event/e3']")).to_be_visible()
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator("a[href='/causes/event/e4']")).to_be_visible()
    assert asked[2:] == [asked[2]] * 2, "who asks for the same again is shown what is there by now"


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
    await page.get_by_label("Reason (kept").fill("$")
    await page.get_by_role("dialog").get_by_role("button", name="Rebuild").click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("reason: no such signs")


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
    await page.get_by_role("button", name="Compare").click()
    await expect(page.get_by_role("dialog")).to_contain_text("No differing row belongs to your tenant")
    await expect(page.get_by_role("dialog")).not_to_contain_text("no row differs")


async def test_a_read_model_that_this_release_does_not_have_cannot_be_rebuilt(
    show: Show, services: Services
) -> None:
    items = [READ_MODEL, READ_MODEL | {"name": "orders", "version": None}]
    services.own[PROJECTIONS] = lambda *_: (200, {"items": items, "lag": 0})
    operates(services, "suite-operator")
    page = await show("/health/projections")
    for name, times in (("tasks", 1), ("orders", 0)):
        shown = page.get_by_role("region", name=name)
        await expect(shown.get_by_role("button", name="Drop")).to_be_visible()
        await expect(shown.get_by_role("button", name="Rebuild")).to_have_count(times)


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


async def test_every_dead_letter_of_a_group_can_be_reached_and_says_if_it_was_released(
    show: Show, services: Services
) -> None:
    letters = [LETTER | {"id": f"l{n}", "stream": f"task-{n:03}", "status": "parked"} for n in range(250)]
    letters[0]["status"] = "released"
    services.own["/api/command/dead-letters"] = lambda *_: (200, {"items": letters, "next": None})
    page = await show("/health/dead-letters")
    group = page.get_by_role("region", name="g", exact=True)
    await expect(group.locator("header")).to_contain_text("1 released249 parked")
    await expect(group.get_by_role("button", name="task-000")).to_contain_text("released")
    await expect(group.get_by_role("button", name="task-001")).not_to_contain_text("released")
    await group.get_by_role("list").evaluate("list => list.scrollTo(0, list.scrollHeight)")
    await group.get_by_role("button", name="task-249").click()
    await expect(page.get_by_role("dialog", name="task-249")).to_be_visible()


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
        await page.get_by_label("Reason (kept").fill("it is not needed")
        await drawer.get_by_role("button", name="Discard").click()
        await expect(drawer.get_by_role("alert")).to_contain_text("another waits")
        await drawer.get_by_role("button", name="Go back").click()
    assert [body["version"] for _, body in services.sent] == [4, 5]
