"""Where a proxy leads to the network, servers on this machine are still reached directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import demo.__main__ as demo
from annals.dapr import DaprSidecar
from annals.free_ports import free_port
from annals.sagas import AwaitEvent, Saga, SagaCatalog, SagaInput, Step
from annals.sagas.asker import Asker
from annals.sagas.history import SagaKey
from annals_cli.sidecar import Sidecar
from conftest import running
from fixed_answer import answering
from saga_machine import saga_machine
from suite.process import Spec

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Nothing(SagaInput):
    pass


WAITING = Saga("waiting", Nothing, (Step("w", AwaitEvent(("yes",), deadline=lambda _: timedelta(days=1))),))


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    address = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, address)
        monkeypatch.setenv(name.upper(), address)
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return address


async def test_a_service_reaches_its_sidecar(fake_sidecar: Callable[..., Any]) -> None:
    sidecar = await fake_sidecar()
    client = DaprSidecar(sidecar.grpc_port)
    assert await client.healthy()
    await client.close()


@pytest.mark.timeout(60)
async def test_a_saga_gets_its_workflows() -> None:
    async with saga_machine(SagaCatalog(WAITING)) as machine:
        key = SagaKey("one", "default", "ada")
        await machine.orchestrator.start(key, "waiting", {}, Asker())
        await machine.clock.settle()
        assert (await machine.orchestrator.load(key)).waits_for


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_command_line_reaches_a_sidecar_of_this_machine(host: str) -> None:
    async with answering(ANSWER) as port:
        sidecar = Sidecar(f"http://{host}:{port}", {})
        assert await asyncio.to_thread(sidecar.get, "command", "healthz") == {}
        sidecar.http.close()


async def test_the_demo_reaches_the_suite() -> None:
    async with answering(ANSWER) as port:
        suite = demo.Suite()
        assert (await asyncio.to_thread(suite.http.get, f"http://127.0.0.1:{port}")).json() == {}
        suite.http.close()


async def test_what_the_suite_starts_sends_nothing_for_this_machine_to_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("no_proxy", "intranet")
    told = tmp_path / "told"

    async def ready() -> bool:
        return told.exists() and told.read_text().endswith("\n")

    async with running(Spec("one", ["sh", "-c", f"echo $no_proxy > {told}; exec sleep 60"], ready), tmp_path):
        assert told.read_text() == "intranet,127.0.0.1,localhost\n"
