"""Each profile as its users run it: another broker or store through component files alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import until
from suite import profiles
from suite.suite import Suite
from system.conftest import open_to_the_network

pytestmark = [pytest.mark.brokers, pytest.mark.timeout(600)]

CHOICES = [
    *((profile, profiles.DEFAULT_STORE) for profile in profiles.PROFILES),
    *((profiles.DEFAULT_PROFILE, store) for store in profiles.STORES if store != profiles.DEFAULT_STORE),
]


@pytest.fixture(scope="module", params=CHOICES, ids="-".join)
async def suite(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    profile, store = request.param
    before = _children()
    async with Suite(profile, store=store, home=tmp_path_factory.mktemp(profile)) as suite:
        yield suite
    assert _children() == before, "the suite left processes behind"


def _children() -> set[int]:
    """Return this process's own children. Their children come and go, as those of a database do."""
    return {child.pid for child in psutil.Process(os.getpid()).children()}


async def test_a_command_becomes_an_event_and_is_answered_by_a_query(suite: Suite, client: Any) -> None:
    task = await client.created()
    row = await client.shown(f"tasks/{task['id']}", task["position"])
    assert row["status"] == "todo"


async def test_events_are_brought_by_messages(suite: Suite, client: Any) -> None:
    """A late message is no fault, because the store is read instead; but at least one must be in time."""

    async def brought() -> bool:
        healed = await _metric(client, "annals_projection_healed_events_total")
        task = await client.created()
        row = await client.shown(f"tasks/{task['id']}", task["position"])
        assert row["status"] == "todo"
        return await _metric(client, "annals_projection_healed_events_total") == healed

    await until(brought, 60)


async def test_a_handover_and_its_notice_travel(suite: Suite, sagas: Any) -> None:
    await sagas.handed_over_with_notice()


async def test_the_passwords_of_the_servers_are_their_owners_alone(suite: Suite) -> None:
    state: Path = suite.home / ".annals"
    private = [state / "secrets.json", *(state / suite.choice.state).glob("*.password")]
    assert private
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


async def test_nothing_listens_beyond_this_machine(suite: Suite) -> None:
    assert open_to_the_network(suite) == set()


async def _metric(client: Any, name: str) -> float:
    lines = (await client.http.get("http://127.0.0.1:8002/metrics")).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.split()[0] == name))
