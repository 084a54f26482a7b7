"""The inbox: notices, deliveries, and hand-overs that ask for an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import expect

from browser.page_alone import (
    AWAY,
    SAGAS,
    TASKS,
    THEN,
    Answer,
    Services,
    Show,
    happened,
    has,
    has_sent,
    noticed,
    operates,
)
from conftest import until


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
    await page.get_by_role("button", name="Mark read", exact=True).first.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".nav .count")).to_have_text("1 unread")
    await expect(page.get_by_role("button", name="Mark unread")).to_be_focused()

    notices.insert(0, notices[1] | {"id": "new"})
    await happened(page, "task", "new", "0-1")
    await page.clock.fast_forward(1_000)
    await expect(page.locator(".notice")).to_have_count(3)
    await expect(page.get_by_role("button", name="Mark unread")).to_be_focused()
    assert await page.evaluate("skeletons") == 0


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


async def test_of_all_the_notices_that_are_shown_it_is_said_what_they_are_about(
    show: Show, services: Services
) -> None:
    requests = [
        noticed(str(number), kind="handover_requested", task_id=f"t{number}", saga_id=f"s{number}")
        for number in range(120)
    ]

    def inbox(_path: str, given: dict[str, str]) -> Answer:
        start = int(given.get("cursor", "0"))
        following = "100" if start == 0 else None
        return 200, {"items": requests[start : start + 100], "next": following, "unread": 120}

    for number in range(120):
        services.task(f"t{number}", title=f"Bill {number}.")
    services.own["/api/notification/inbox/"] = inbox
    services.own[f"{SAGAS}/"] = lambda *_: (200, {"status": "completed", "waits_until": None})
    page = await show("/inbox")
    await expect(page.locator(".notice").nth(99)).to_contain_text("You are asked to take on a task: Bill 99.")
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator(".notice").last).to_contain_text("Bill 119.")
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    assert {services.count(f"{TASKS}/t{number}") for number in range(120)} == {1}


async def test_notices_are_shown_before_it_is_known_what_they_are_about(
    show: Show, services: Services
) -> None:
    go_on = asyncio.Event()
    asked_to_take = noticed("1", kind="handover_requested", task_id="t1", saga_id="s1")
    gone = noticed("2", kind="task.assigned", task_id="gone")
    services.own["/api/notification/inbox/"] = lambda *_: (
        200,
        {"items": [asked_to_take, gone], "next": None, "unread": 2},
    )
    services.task("t1", title="Bill 1.")

    async def saga(*_: object) -> Answer:
        await go_on.wait()
        return 200, {"status": "running", "waits_until": "2030-01-01T00:00:00Z"}

    services.own[f"{SAGAS}/"] = saga
    page = await show("/inbox")
    accept = page.get_by_role("button", name="Accept")
    await expect(page.locator(".notice")).to_have_count(2)
    await expect(accept).to_have_count(0)
    go_on.set()
    await expect(accept).to_have_count(1)
    await expect(page.locator(".notice").first).to_contain_text("Bill 1.")
    await happened(page, "saga", "s1", "0-1")
    await until(lambda: has([one for one in services.asked if one.startswith(f"{SAGAS}/s1")], 2))
    assert services.count(f"{TASKS}/gone") == 1


async def test_an_inbox_asks_no_further_what_its_notices_are_about_while_that_cannot_be_read(
    show: Show, services: Services
) -> None:
    notices = [noticed(str(number), kind="task.assigned", task_id=f"t{number}") for number in range(40)]
    services.own["/api/notification/inbox/"] = lambda *_: (
        200,
        {"items": notices, "next": None, "unread": 40},
    )
    services.own[f"{TASKS}/"] = lambda *_: AWAY
    page = await show("/inbox")
    await expect(page.locator(".notice")).to_have_count(40)
    assert len([path for path in services.asked if path.startswith(f"{TASKS}/")]) < 20


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
    await expect(page.locator(".notice")).to_contain_text("You are asked to take on a task")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"assignee": "ada", "previous": "bob"}, "A task was assigned to you"),
        ({"assignee": "bob", "previous": "ada"}, "Your task was reassigned to bob"),
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
    await expect(page.get_by_role("link", name="View causes")).to_have_count(2)
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)


async def test_what_is_answered_elsewhere_asks_for_no_answer_any_more(show: Show, services: Services) -> None:
    notices = [noticed(kind, kind=kind, saga_id="s") for kind in ("handover_reminder", "handover_requested")]
    saga = {"id": "s", "status": "running", "waits_until": THEN}
    services.own[f"{SAGAS}/s"] = lambda *_: (200, saga)
    found = {"items": notices, "next": None, "unread": 2}
    services.own["/api/notification/inbox/"] = lambda *_: (200, found)
    page = await show("/inbox")
    await expect(page.get_by_role("button", name="Accept")).to_have_count(2)
    saga["waits_until"] = None
    await happened(page, "saga", "s", "0-7")
    await page.clock.fast_forward(1_000)
    await expect(page.get_by_role("button", name="Accept")).to_have_count(0)
    await expect(page.get_by_role("link", name="View causes")).to_have_count(2)


def _asked(services: Services) -> dict[str, Any]:
    """Return a hand-over of the task `a` to Ada, which awaits an answer until the test changes that."""
    saga = {"id": "s", "business_key": "a", "input": {"assignee": "ada"}, "created_at": THEN}
    saga |= {"status": "running", "waits_until": THEN}
    services.own[SAGAS] = lambda *_: (200, {"items": [saga], "next": None})
    return saga


async def test_what_is_answered_beside_its_task_is_read(show: Show, services: Services) -> None:
    services.task("a", assignee="ada")
    _asked(services)
    notices = [noticed(name, kind="handover_requested", saga_id=name) for name in ("r", "s")]
    services.own["/api/notification/inbox/"] = lambda *_: (200, {"items": notices, "next": None, "unread": 2})
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Accept").click()
    await until(lambda: has_sent(services, 2))
    assert services.sent == [
        ("POST /api/saga-orchestrator/sagas/s/events/accept", None),
        ("PUT /api/notification/inbox/ada/s/read", None),
    ]


async def test_a_hand_over_that_goes_on_with_its_answer_asks_for_no_other(
    show: Show, services: Services
) -> None:
    services.task("a", assignee="ada")
    saga = _asked(services)
    page = await show("/tasks?task=a")
    awaiting, drawer = page.locator("[aria-label='Awaiting answer'] .card"), page.get_by_role("dialog")
    await expect(awaiting).to_have_count(1)
    await drawer.get_by_role("button", name="Accept").click()
    await expect(page.locator(".toast")).to_contain_text("Hand-over accepted")
    saga["waits_until"] = None
    await happened(page, "saga", "s", "0-7")
    await page.clock.fast_forward(1_000)
    await expect(drawer).to_contain_text("No answer is awaited.")
    await expect(drawer.get_by_role("link", name="View saga")).to_be_visible()
    for name in ("Accept", "Decline", "Hand over"):
        await expect(drawer.get_by_role("button", name=name)).to_have_count(0)
    await expect(awaiting).to_have_count(0)


_NO_WORKFLOW = (503, {"detail": "the workflow of saga s has not begun yet"})
_NOT_WAITING = (422, {"detail": "nothing waits for accept any more"})
_RAISED = {"type": "saga.event_raised", "event": "accept"}


@pytest.mark.parametrize(
    ("replies", "timeline", "said"),
    [
        ([_NO_WORKFLOW, (202, {})], [], "Hand-over accepted"),
        ([_NO_WORKFLOW] * 5, [_RAISED], "Hand-over accepted"),
        ([_NO_WORKFLOW, _NOT_WAITING], [_RAISED], "Hand-over accepted"),
        ([_NO_WORKFLOW] * 5, [], "Your answer may have arrived"),
        ([_NOT_WAITING], [_RAISED | {"event": "decline"}], "Could not send your answer"),
    ],
)
async def test_an_answer_is_said_to_be_given_if_it_is_recorded(
    show: Show, services: Services, replies: list[Answer], timeline: list[object], said: str
) -> None:
    saga = {"id": "s", "status": "running", "waits_until": THEN, "timeline": timeline}
    services.own[f"{SAGAS}/s"] = lambda *_: (200, saga)
    found = {"items": [noticed("one", kind="handover_requested", saga_id="s")], "next": None, "unread": 1}
    services.own["/api/notification/inbox/"] = lambda *_: (200, found)
    left = iter(replies)
    services.own["POST /api/saga-orchestrator/sagas/s/events/accept"] = lambda *_: next(left)
    page = await show("/inbox")
    await page.get_by_role("button", name="Accept").click()
    for attempt in range(len(replies)):
        await until(lambda sent=attempt + 1: has_sent(services, sent))
        await page.clock.fast_forward(4_000)
    await expect(page.locator(".toast")).to_contain_text(said)
    assert next(left, None) is None
    if said == "Hand-over accepted":
        await until(lambda: has_sent(services, len(replies) + 1))
        assert services.sent[-1][0] == "PUT /api/notification/inbox/ada/one/read"
    else:
        assert len(services.sent) == len(replies)
        await expect(page.get_by_role("button", name="Accept")).to_be_enabled()


async def test_who_answers_twice_is_asked_to_wait(show: Show, services: Services) -> None:
    arrived = asyncio.Event()

    async def answer(*_: object) -> Answer:
        await arrived.wait()
        return 202, {}

    services.task("a", assignee="ada")
    _asked(services)
    services.own["POST /api/saga-orchestrator/"] = answer
    page = await show("/tasks?task=a")
    await page.get_by_role("button", name="Accept").click()
    for name in ("Accept", "Decline"):
        await expect(page.get_by_role("button", name=name)).to_be_disabled()
    arrived.set()
    await expect(page.locator(".toast")).to_contain_text("Hand-over accepted")
    await expect(page.get_by_role("button", name="Decline")).to_be_disabled()
