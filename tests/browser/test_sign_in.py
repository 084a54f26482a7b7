"""A console with sign-in, in front of the real services."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Browser, expect

from annals.free_ports import free_port
from browser.conftest import SECONDS, Api, live
from conftest import Launch
from oidc_issuer import CLIENT, Issuer, issuing
from suite import ports
from suite.paths import ROOT
from suite.process import Spec
from suite.suite import Suite


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def console(suite: Suite, launch: Launch, issuer: Issuer) -> str:
    """Start a second console on the first one's sidecar."""
    port = free_port()
    at = next(app.ports for app in suite.apps if app.app_id == "console")
    settings = {
        "APP_PORT": str(port),
        "DAPR_HTTP_PORT": str(at.http),
        "DAPR_GRPC_PORT": str(at.grpc),
        "ANNALS_AUTH": "oidc",
        "ANNALS_OIDC_ISSUER": issuer.url,
        "ANNALS_OIDC_CLIENT_ID": CLIENT,
        "ANNALS_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "ANNALS_SESSION_KEY": uuid.uuid4().hex,
    }
    spec = Spec(
        "console-oidc",
        [sys.executable, "-m", "annals_console"],
        lambda: ports.http_ok(port, "/readyz"),
        env=dict(os.environ) | settings,
        cwd=ROOT,
    )
    await launch(spec)
    return f"http://127.0.0.1:{port}"


async def test_somebody_signs_in_works_and_signs_out(browser: Browser, console: str, issuer: Issuer) -> None:
    issuer.person = {"sub": "grace", "name": "Grace", "tenant": "acme", "roles": ["member"]}
    context = await browser.new_context()
    context.set_default_timeout(SECONDS * 1000)
    page = await context.new_page()
    await page.goto(f"{console}/tasks")
    await page.get_by_role("link", name="Sign in").click()
    await live(page)
    await expect(page.locator(".side-foot")).to_contain_text("Grace")
    await expect(page.locator(".side-foot")).to_contain_text("member of acme")

    await page.get_by_role("button", name="New task").click()
    await page.get_by_role("textbox", name="Title").fill("Signed in")
    await page.get_by_role("button", name="Create").click()
    await expect(page.get_by_text("Signed in").first).to_be_visible()
    cookies = await context.cookies()
    assert [(one["httpOnly"], one["sameSite"]) for one in cookies] == [(True, "Lax")]

    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    await context.close()


async def test_a_tenant_sees_nothing_of_another(console: str, issuer: Issuer, api: Api) -> None:
    task = f"of-default-{uuid.uuid4().hex[:8]}"
    await api.task(task)
    path = f"{console}/api/projector/queries/tasks/{task}"
    async with httpx.AsyncClient(timeout=SECONDS) as http:

        async def as_of(tenant: str, **headers: str) -> int:
            token = issuer.token(tenant=tenant)
            answer = await http.get(path, headers={"authorization": f"Bearer {token}"} | headers)
            return answer.status_code

        assert await as_of("default") == 200
        assert await as_of("acme") == 404
        assert await as_of("acme", **{"x-tenant-id": "default"}) == 403
