"""Locks on a real sidecar and a real Redis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dapr.proto import api_v1
from structlog.testing import capture_logs

from annals.dapr import DaprError, DaprSidecar, LockLost, Locks, LockTaken
from annals.free_ports import free_port
from conftest import copy_components, running, until, write_secrets
from suite import infra
from suite.paths import ROOT

PAGE = (ROOT / "docs" / "building-blocks.md").read_text()


@pytest.fixture
async def sidecar(tmp_path: Path, bare_sidecar: Any) -> AsyncIterator[DaprSidecar]:
    """Run a sidecar with the component as the documentation prints it."""
    server = infra.Redis(tmp_path / "redis", free_port())
    server.initialise()
    (component,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    folder = copy_components(tmp_path / "components", "shared/secretstore.yaml")
    (folder / "locks.yaml").write_text(component)
    write_secrets(tmp_path, **server.secrets)
    async with running(server.spec(), tmp_path):
        _, at = await bare_sidecar(folder)
        sidecar = DaprSidecar(at.grpc)
        yield sidecar
        await sidecar.close()


@pytest.fixture
def locks(sidecar: DaprSidecar) -> Locks:
    return Locks(sidecar, "locks")


async def test_one_holds_it_and_the_next_may_after(locks: Locks) -> None:
    async with locks.hold("report", seconds=60):
        with pytest.raises(LockTaken, match="report"):
            async with locks.hold("report", seconds=60):
                pytest.fail("two held it")
        async with locks.hold("another", seconds=60):
            pass
    async with locks.hold("report", seconds=60):
        pass


async def test_work_that_outlives_its_lock_is_cancelled_and_takes_nobody_elses(
    locks: Locks, sidecar: DaprSidecar
) -> None:
    request = api_v1.TryLockRequest(
        store_name="locks", resource_id="report", lock_owner="another", expiry_in_seconds=60
    )

    async def taken_by_another() -> bool:
        return bool((await sidecar.call("TryLockAlpha1", request)).success)

    async def overrun() -> None:
        async with locks.hold("report", seconds=3):
            assert not await taken_by_another()
            try:
                await asyncio.Event().wait()
            finally:
                await until(taken_by_another)

    with capture_logs() as logs, pytest.raises(LockLost, match="report"):
        await overrun()
    assert [one["status"] for one in logs] == ["LOCK_BELONGS_TO_OTHERS"]
    with pytest.raises(LockTaken):
        async with locks.hold("report", seconds=60):
            pytest.fail("the late one released the other's lock")


async def test_the_works_own_failures_pass_and_release_it(locks: Locks) -> None:
    for error in (ValueError, TimeoutError):
        with pytest.raises(error):
            async with locks.hold("report", seconds=60):
                raise error
    async with locks.hold("report", seconds=60):
        pass


async def test_a_component_that_is_not_there_is_an_error(sidecar: DaprSidecar) -> None:
    with pytest.raises(DaprError, match="elsewhere"):
        async with Locks(sidecar, "elsewhere").hold("report", seconds=60):
            pytest.fail("nobody gave it")


async def test_the_printed_sample(locks: Locks) -> None:
    (sample,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(sample, namespace)
    made: list[str] = []

    async def make() -> None:
        made.append("report")

    await namespace["nightly"](locks, make)
    async with locks.hold("nightly-report", seconds=60):
        await namespace["nightly"](locks, make)
    assert made == ["report"]
