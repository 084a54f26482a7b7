"""Who is signed in: in this window, in another tab, and after the session is over."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from browser.page_alone import (
    Answer,
    Services,
    Show,
    asked_for,
    row,
)
from conftest import until

AT_ONCE = 20_000
"""Milliseconds: before the page wonders why its stream says nothing."""


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
    await this.get_by_role("button", name="Switch").click()
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
    await until(lambda: asked_for(services, "/auth/session", 2))
    services.session = (503, {"detail": "the issuer is away"})
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: asked_for(services, "/auth/session", 3))
    await page.clock.fast_forward(2_000)
    assert await page.evaluate("same && opened.length") == 1
    assert not await page.evaluate("opened[0].closed")


async def test_who_could_not_be_signed_out_is_told(show: Show, services: Services) -> None:
    services.own["/auth/logout"] = lambda *_: (503, {"detail": "the issuer is away"})
    page = await show("/tasks")
    await page.get_by_role("button", name="Sign out").first.click()
    await expect(page.locator(".toast[data-tone=bad]")).to_contain_text("the issuer is away")
