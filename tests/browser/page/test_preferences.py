"""Notification preferences: what is not changed is sent as it is."""

from __future__ import annotations

from playwright.async_api import expect

from browser.page_alone import (
    Services,
    Show,
    has_sent,
)
from conftest import until


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
    await until(lambda: has_sent(services, 1))
    assert services.sent[-1][1] == {
        name: value for name, value in (prefs | {"timezone": "Europe/Berlin"}).items() if name != "webhook"
    }

    await page.get_by_label("Quiet hours until").fill("06:30")
    await page.get_by_role("row", name="Requests and messages to me").get_by_label("email").uncheck()
    await page.get_by_role("row", name="All changes to my tasks").get_by_label("webhook").check()
    await page.get_by_role("button", name="Save").click()
    await until(lambda: has_sent(services, 2))
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
    await page.get_by_label("Quiet hours from").fill("22:00")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".field", has_text="Quiet hours until").locator(".field-error")).to_have_text(
        "Field required"
    )
    assert services.sent[-1][1]["quiet_hours"] == {"start": "22:00"}
    await page.get_by_label("Quiet hours from").fill("")
    await page.get_by_role("button", name="Save").click()
    await until(lambda: has_sent(services, 2))
    assert services.sent[-1][1]["quiet_hours"] is None
