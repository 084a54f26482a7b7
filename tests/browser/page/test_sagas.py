"""Sagas, streams and chains of causes: shown whole, or said not to be, whichever clock is ahead."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import expect

from browser.page_alone import (
    AWAY,
    MEMBERS,
    SAGAS,
    THEN,
    Answer,
    Services,
    Show,
    asked_for,
    happened,
    has,
)
from conftest import until

_DELIVERIES = "/api/notification/deliveries"


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
    await until(lambda: asked_for(services, f"{SAGAS}/s", 2))
    seen = True
    await page.clock.fast_forward(6_000)
    await expect(status).to_have_text("completed")


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
    await expect(header).not_to_contain_text("in progress")
    await expect(saga).to_contain_text("its end is not shown")
    await expect(page.locator("[data-row][data-kind=note]")).to_have_count(600)

    del chain[2:-2]
    await page.reload()
    await expect(saga).to_contain_text("completed")
    await expect(header).not_to_contain_text("the first")


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
    await expect(header).to_contain_text("in progress")
    notes[0]["status"] = "sent"
    await page.clock.fast_forward(4_000)
    await expect(header).not_to_contain_text("in progress")

    await happened(page, "saga", "s", "0-7")
    await page.clock.fast_forward(1_000)
    await expect(shown).to_have_count(1)
    notes.append(notes[0] | {"id": "logged later"})
    await page.clock.fast_forward(3_000)
    await expect(shown).to_have_count(2)


async def test_what_is_held_up_is_not_asked_for_all_the_time(show: Show, services: Services) -> None:
    _told_of_a_saga(services, "pending", timedelta(minutes=-2))
    page = await show("/causes/correlation/s")
    await expect(page.locator(".picture > header")).to_contain_text("in progress")
    before = services.count(_DELIVERIES)
    for _ in range(8):  # in each round, a delivery that is being sent would be read once
        await page.clock.run_for(3_000)
        await page.evaluate("() => fetch('/api/other').then((answer) => answer.text())")
    # The opening of the live stream may cause two reads.
    assert services.count(_DELIVERIES) <= before + 2


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


async def test_a_command_of_a_saga_belongs_to_the_chain_that_the_saga_is_of(
    show: Show, services: Services
) -> None:
    event = _of_a_saga(1, "started", "00", saga_type="capacity-release") | {"correlation_id": "key-1"}
    chains = {"key-1": [event]}
    services.own[f"{SAGAS}/capacity-release-e1"] = lambda *_: (200, {"correlation_id": "key-1"})
    services.own["/api/projector/queries/events"] = lambda _, given: (
        200,
        {"items": chains.get(given["correlation_id"], []), "next": None},
    )
    page = await show("/causes/command/saga%3Acapacity-release-e1%2Frelease%2Fundo")
    await expect(page.locator("[data-row][data-kind=saga]")).to_contain_text("capacity-release")


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
    await until(lambda: has([one for one in services.asked if "sagas?status=failed&limit" in one], 1))
