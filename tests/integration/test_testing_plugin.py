"""The fixture `real_sidecar`, and the example of docs/test-your-own.md that uses it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from annals.dapr import DaprSidecar
from annals.testing.daprd import NoDaprd, NotReady, find_daprd
from conftest import beyond_loopback, until
from suite import runtime
from suite.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "test-your-own.md").read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def daprd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNALS_DAPRD", str(runtime.dapr("daprd")))


async def test_the_printed_example(real_sidecar: Callable[..., Any]) -> None:
    namespace: dict[str, Any] = {}
    exec(BLOCKS[2], namespace)
    await namespace["test_state_survives_the_call"](real_sidecar)


async def test_a_sidecar_is_killed_and_comes_back_at_its_ports(real_sidecar: Callable[..., Any]) -> None:
    sidecar = await real_sidecar()
    client = DaprSidecar(sidecar.grpc_port)
    assert await client.healthy()
    await sidecar.kill()
    assert not await client.healthy()
    await sidecar.start()
    await until(client.healthy)
    assert await client.components() == {}
    await client.close()


async def test_a_sidecar_listens_to_nobody_beyond_this_machine(real_sidecar: Callable[..., Any]) -> None:
    await real_sidecar()
    daprds = {one.name(): one.pid for one in psutil.Process().children() if one.name() == "daprd"}
    assert daprds
    assert beyond_loopback(daprds) == set()


async def test_one_that_does_not_start_says_why(real_sidecar: Callable[..., Any]) -> None:
    broken = "kind: Component\napiVersion: dapr.io/v1alpha1\nmetadata: {name: x}\nspec: {type: state.none}\n"
    with pytest.raises(NotReady, match=r"exited with 1(.|\n)*state\.none"):
        await real_sidecar(components=[broken])


def test_where_daprd_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "daprd"
    with pytest.raises(NoDaprd, match="there is no"):
        find_daprd(str(program))
    program.touch(mode=0o755)
    assert find_daprd(str(program)) == program
    monkeypatch.delenv("ANNALS_DAPRD")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_daprd(None) == program
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoDaprd, match="dapr init"):
        find_daprd(None)
