"""What operators do, and that who did it and why is recorded."""

from __future__ import annotations

import uuid
from typing import Any

from playwright.async_api import Page, expect

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, StreamId
from annals.store import Append, DaprEventStore
from annals.web.background import background
from browser.conftest import Api, Visit, live
from browser.test_causes import reaches
from conftest import until
from suite.suite import Suite


async def because(page: Page, action: str, reason: str) -> None:
    """Answer the dialog that asks for a reason."""
    await page.get_by_label("Reason (kept in the audit trail)").fill(reason)
    await page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()
    await expect(page.get_by_label("Reason (kept in the audit trail)")).to_have_count(0)


async def recorded(api: Api, reason: str) -> dict[str, Any]:
    """Return the audit trail's event with this reason."""

    async def there() -> Any:
        found = await api.ask("GET", "projector/queries/audit?type=operation.requested&limit=20")
        for entry in found["items"]:
            event = await api.ask("GET", f"projector/queries/events/{entry['event_id']}")
            if event["data"]["reason"] == reason:
                return entry | event["data"]
        return None

    return dict(await until(there, seconds=60))


async def test_a_saga_is_suspended_resumed_restarted_and_cancelled(visit: Visit, api: Api) -> None:
    task, saga = f"steered-{uuid.uuid4().hex[:8]}", f"s-{uuid.uuid4().hex[:8]}"
    await api.task(task)
    body = {"task_id": task, "assignee": "ben", "deadline": "PT1H"}
    await api.ask("POST", f"saga-orchestrator/sagas/task-handover?id={saga}", body)
    await reaches(api, saga, "running", waits=True)
    page = await visit(f"/sagas/{saga}")
    await live(page)

    await page.get_by_role("button", name="Suspend").click()
    await because(page, "Suspend", f"look first {saga}")
    await expect(page.locator(".saga-head")).to_contain_text("suspended")
    await page.get_by_role("button", name="Resume").click()
    await because(page, "Resume", "looked")
    await expect(page.locator(".saga-head")).not_to_contain_text("suspended")
    await page.get_by_role("button", name="Restart").click()
    await because(page, "Restart", "it stood still")
    await page.get_by_role("button", name="Cancel").click()
    await because(page, "Cancel", "not needed any more")
    await expect(page.locator(".saga-head")).to_contain_text("compensated")

    entry = await recorded(api, f"look first {saga}")
    assert (entry["user"], entry["action"], entry["target"]) == ("ada", "suspend", saga)
    assert entry["client"] == "127.0.0.1"
    assert entry["session"]
    cancelled = await api.ask(
        "GET", f"projector/queries/events?stream=saga-{saga}&type=saga.cancel_requested"
    )
    assert cancelled["items"][0]["data"]["reason"] == "not needed any more"
    assert cancelled["items"][0]["user_id"] == "ada"
    restarted = await api.ask("GET", f"projector/queries/events?stream=saga-{saga}&type=saga.restarted")
    assert [event["data"]["reason"] for event in restarted["items"]] == ["it stood still"]


async def test_a_read_model_is_rebuilt_compared_switched_to_and_back(visit: Visit, api: Api) -> None:
    seen = await visit("/health/projections", user="olga", role="operator", tenant="acme")
    await expect(seen.get_by_role("region", name="members")).to_contain_text("answers queries")
    await expect(seen.get_by_text("only the role suite-operator can operate them")).to_be_visible()
    await expect(seen.get_by_role("button", name="Rebuild")).to_have_count(0)

    page = await visit("/health/projections", role="suite-operator")
    members = page.get_by_role("region", name="members")
    await members.get_by_role("button", name="Rebuild").click()
    await because(page, "Rebuild", "to see how")

    row = members.locator("tbody tr", has_text="to see how")
    await row.get_by_role("button", name="Compare").click()
    await expect(page.get_by_role("dialog")).to_contain_text("no row differs")
    await page.get_by_role("button", name="Close").click()
    await row.get_by_role("button", name="Switch").click()
    await because(page, "Switch", "it is the same")
    await expect(row).to_contain_text("answers queries")
    first = members.locator("tbody tr", has_text="the first")
    await first.get_by_role("button", name="Switch").click()
    await because(page, "Switch", "back again")
    await expect(first).to_contain_text("answers queries")
    await row.get_by_role("button", name="Drop").click()
    await because(page, "Drop", "it was a rehearsal")
    await expect(row.get_by_role("button", name="Drop")).to_have_count(0)

    for reason, action in (
        ("to see how", "rebuild"),
        ("back again", "switch"),
        ("it was a rehearsal", "drop"),
    ):
        entry = await recorded(api, reason)
        assert (entry["service"], entry["action"], entry["user"]) == ("projector", action, "ada")


async def poisoned(suite: Suite) -> str:
    """Write a task past the command service whose event no read model can take."""
    task = f"poisoned-{uuid.uuid4().hex[:8]}"
    sidecar = DaprSidecar(next(app.ports.grpc for app in suite.apps if app.app_id == "command"), timeout=60)
    store = DaprEventStore(sidecar, owner="importer", lanes=range(40, 48))
    event = DomainEvent(
        event_type="task.created",
        source="importer",
        aggregate_type="task",
        aggregate_id=task,
        data={"title": task, "due": "no time at all"},
    )
    async with background(store.run(), "importer") as running:

        async def leased() -> bool:
            return store.lane is not None

        await until(leased, seconds=60)
        await store.append(Append(StreamId.of("default", "task", task), (event,), 0))
        await store.drain()
        await running
    await sidecar.close()
    return task


async def test_a_dead_letter_is_looked_at_tried_out_corrected_and_replayed(
    visit: Visit, api: Api, suite: Suite
) -> None:
    task = await poisoned(suite)
    page = await visit("/health/dead-letters")
    await page.get_by_role("button", name=f"task-{task}").click()
    letter = page.get_by_role("dialog")
    await expect(letter).to_contain_text("no time at all")
    await letter.get_by_role("button", name="Try out").click()
    await expect(letter.get_by_role("region", name="Dry run")).to_contain_text("fail")

    await letter.get_by_role("button", name="Edit").click()
    await page.get_by_role("textbox", name="Data").fill(
        f'{{"title": "{task}", "due": null, "priority": "low"}}'
    )
    await because(page, "Save", f"a date that is none {task}")
    await letter.get_by_role("button", name="Try out").click()
    await expect(letter.get_by_role("region", name="Dry run")).to_contain_text("apply")
    await letter.get_by_role("button", name="Replay").click()
    await because(page, "Replay", f"mended {task}")

    await expect(page.get_by_role("button", name=f"task-{task}")).to_have_count(0)
    seen = await visit(f"/tasks?task={task}")
    await expect(seen.get_by_role("dialog")).to_contain_text("low")
    assert (await recorded(api, f"mended {task}"))["action"] == "replay"
    assert (await recorded(api, f"a date that is none {task}"))["action"] == "edit"


async def test_health_is_shown_live(visit: Visit, api: Api, suite: Suite) -> None:
    page = await visit("/health")
    await expect(page.locator(".services li[data-up=true]")).to_have_count(4)
    await api.task(f"counted-{uuid.uuid4().hex[:8]}")
    commits = page.locator(".chart-card", has_text="Commits").first
    await expect(commits).not_to_contain_text("peak 0.0/s")
    await expect(page.get_by_role("row", name="vm").or_(page.locator("tbody tr")).first).to_be_visible()


async def test_a_viewer_is_shown_nothing_that_they_may_not(visit: Visit, api: Api) -> None:
    task = f"viewed-{uuid.uuid4().hex[:8]}"
    await api.task(task)
    page = await visit(f"/tasks?task={task}", user="vera", role="viewer")
    await expect(page.get_by_role("dialog")).to_contain_text(task)
    await expect(page.get_by_role("dialog").get_by_role("button", name="Complete")).to_have_count(0)
    await expect(page.get_by_role("button", name="New task")).to_have_count(0)
    await page.goto("http://127.0.0.1:8080/health")
    await expect(page.get_by_role("link", name="Deliveries")).to_be_visible()
    await expect(page.get_by_role("link", name="Dead letters")).to_have_count(0)
    await page.goto("http://127.0.0.1:8080/health/audit")
    await expect(page.locator(".problem")).to_contain_text("You do not have access to this")


async def test_preferences_are_kept(visit: Visit, api: Api) -> None:
    page = await visit("/inbox/preferences", user="ben")
    await page.get_by_label("E-mail", exact=True).fill("ben@example.com")
    await page.get_by_label("Time zone").fill("Nowhere/Land")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".field-error")).to_contain_text("Europe/Berlin")
    await page.get_by_label("Time zone").fill("Europe/Berlin")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".toast", has_text="Preferences saved")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("E-mail", exact=True)).to_have_value("ben@example.com")
