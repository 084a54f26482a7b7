"""Runs the console's page in Chromium, against the whole suite or alone with fake services."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from browser.page_alone import ADDRESS, STREAM, Services, Show
from suite import page as sources
from suite.suite import Suite

CONSOLE = "http://127.0.0.1:8080"
SECONDS = 60
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What a browser reports about a server that a test has killed, and about refusals that a test provokes.
_EXPECTED = ("net::ERR_", "Failed to load resource", "the server responded with a status of")

expect.set_options(timeout=SECONDS * 1000)

Visit = Callable[..., Awaitable[Page]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/browser/" in item.nodeid:
            item.add_marker(pytest.mark.browser)


class Api:
    """Calls the suite's APIs through the console, to set up and check what a page shows."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.http.request(method, f"{CONSOLE}/api/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def command(self, kind: str, **data: object) -> dict[str, Any]:
        return dict(await self.ask("POST", f"command/commands/{kind}", data))

    async def task(self, task: str, **data: object) -> None:
        """Create a task and wait until queries show it."""
        written = await self.command("task.create", id=task, **({"title": task} | data))
        await self.ask("GET", f"projector/queries/tasks/{task}?position={written['position']}")

    async def answer(self, saga: str, user: str, event: str) -> None:
        """Answer a hand-over as the member who is asked to take the task on."""
        async with httpx.AsyncClient(timeout=SECONDS) as http:
            become = await http.post(f"{CONSOLE}/auth/development", json={"user": user, "role": "member"})
            become.raise_for_status()
            await Api(http).ask("POST", f"saga-orchestrator/sagas/{saga}/events/{event}")

    async def member(self, member: str, capacity: int = 50) -> None:
        written = await self.command("member.register", id=member, name=member.title(), capacity=capacity)
        await self.ask("GET", f"projector/queries/members/{member}?position={written['position']}")


@pytest.fixture(scope="session")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite("embedded", home=tmp_path_factory.mktemp("suite")) as suite:
        yield suite


@pytest.fixture(scope="session")
async def api(suite: Suite) -> AsyncIterator[Api]:
    async with httpx.AsyncClient(timeout=SECONDS) as http:
        api = Api(http)
        for member in ("ada", "ben"):
            await api.member(member)
        yield api


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = next(path for name in _NAMES if (path := shutil.which(name)))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def visit(browser: Browser, api: Api) -> AsyncIterator[Visit]:
    """Return a function that opens the page as a user, in a new browser context.

    At the end, no page may have reported an unexpected error.
    """
    wrong: list[str] = []
    contexts = []

    async def open_page(
        path: str, user: str = "ada", role: str = "operator", tenant: str = "default", **options: Any
    ) -> Page:
        context = await browser.new_context(**({"viewport": {"width": 1360, "height": 900}} | options))
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        become = {"user": user, "role": role, "tenant": tenant}
        answer = await context.request.post(f"{CONSOLE}/auth/development", data=become)
        assert answer.ok, await answer.text()
        page = await context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        await page.goto(CONSOLE + path)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert [one for one in wrong if not any(known in one for known in _EXPECTED)] == []


@pytest.fixture
def services() -> Services:
    sources.build()
    return Services()


@pytest.fixture
async def show(browser: Browser, services: Services) -> AsyncIterator[Show]:
    """Return a function that opens the page, without the suite, with a clock that tests can move."""
    context = await browser.new_context()

    async def open_page(path: str) -> Page:
        page = await context.new_page()
        await page.clock.install()
        await page.add_init_script(STREAM)
        await page.route("**/*", services.answer)
        await page.goto(ADDRESS + path)
        await page.wait_for_function("window.opened.length > 0")
        return page

    yield open_page
    await context.close()


async def live(page: Page) -> None:
    """Wait until the page shows that it is live."""
    await expect(page.locator(".bar .status")).to_have_text("Live")
