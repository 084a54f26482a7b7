"""Sagas beside a bare Dapr workflow with as many activities, in one run."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from dapr.ext.workflow.aio import DaprWorkflowClient

from annals.events import new_id
from annals.sagas.history import SagaKey
from annals.sagas.orchestrator import instance_id
from conftest import COMPONENTS, running
from suite.manifest import App
from suite.paths import ROOT
from suite.process import Spec
from suite.sidecar import SidecarPorts, sidecar
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("BENCH_SECONDS", "8"))
CONCURRENT = 16
ROUNDS = 3
COMMAND = "http://127.0.0.1:3501/v1.0/invoke/command/method/commands"
SAGAS = "http://127.0.0.1:3503/v1.0/invoke/saga-orchestrator/method/sagas"

Once = Callable[[], Awaitable[None]]


class BenchSuite(Suite):
    """The embedded suite with the orchestrator of saga_app.py."""

    def _service(self, app: App) -> Spec:
        spec = super()._service(app)
        if app.app_id == "saga-orchestrator":
            return replace(spec, argv=[spec.argv[0], str(HERE / "saga_app.py")])
        return spec


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BenchSuite]:
    home = tmp_path_factory.mktemp("bench")
    config = yaml.safe_load((COMPONENTS / "config.yaml").read_text())
    config["spec"]["tracing"]["samplingRate"] = "0"
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    async with BenchSuite("embedded", home=home, config=home / "config.yaml") as suite:
        yield suite


@pytest.fixture(scope="module")
async def bare(suite: BenchSuite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """A sidecar of its own with the same stores; its gRPC port."""
    at, resources = SidecarPorts.free(), tmp_path_factory.mktemp("resources")
    for name in ("workflowstore", "secretstore"):
        component = yaml.safe_load((COMPONENTS / "shared" / f"{name}.yaml").read_text())
        component.pop("scopes", None)
        (resources / f"{name}.yaml").write_text(yaml.safe_dump(component))
    beside = sidecar(
        "bare",
        at,
        resources=[resources],
        config=suite.home / "config.yaml",
        home=suite.home,
        placement=suite.control_plane.placement,
        scheduler=suite.control_plane.scheduler,
    )
    env = {"DAPR_GRPC_PORT": str(at.grpc), "DAPR_HTTP_PORT": str(at.http)}

    async def connected() -> bool:
        return True  # the first workflow waits for its worker

    app = Spec("bare", [sys.executable, str(HERE / "bare_workflow_app.py")], connected, env=env)
    async with running(beside, suite.logs), running(app, suite.logs):
        yield at.grpc


async def measure(once: Once) -> tuple[float, float, float]:
    """How many a second, and the median and 99th percentile of each in milliseconds."""
    took: list[float] = []
    end = time.perf_counter() + SECONDS

    async def again() -> None:
        while (started := time.perf_counter()) < end:
            await once()
            took.append((time.perf_counter() - started) * 1000)

    begun = time.perf_counter()
    await asyncio.gather(*(again() for _ in range(CONCURRENT)))
    took.sort()
    return len(took) / (time.perf_counter() - begun), took[len(took) // 2], took[len(took) * 99 // 100]


async def test_sagas_against_a_bare_workflow(suite: BenchSuite, bare: int) -> None:
    orchestrator = DaprWorkflowClient(host="127.0.0.1", port="13503")
    plain = DaprWorkflowClient(host="127.0.0.1", port=str(bare))
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=64)) as http:

        async def member() -> str:
            name = f"m-{new_id()}"
            given = {"id": name, "name": name}
            (await http.post(f"{COMMAND}/member.register", json=given)).raise_for_status()
            return name

        names = [await member() for _ in range(CONCURRENT)]

        async def saga() -> None:
            name = names.pop()
            answer = await http.post(f"{SAGAS}/bench", json={"member": name})
            ended = await orchestrator.wait_for_workflow_completion(
                instance_id(SagaKey(answer.json()["id"], "default"))
            )
            assert ended is not None
            assert '"completed"' in (ended.serialized_output or "")
            names.append(name)

        async def workflow(kind: str) -> None:
            name = names.pop()
            instance = await plain.schedule_new_workflow(kind, input=name)
            ended = await plain.wait_for_workflow_completion(instance)
            assert ended is not None
            assert ended.runtime_status.name == "COMPLETED", ended
            names.append(name)

        subjects: dict[str, Once] = {
            "bare workflow, 3 empty activities": lambda: workflow("empty"),
            "bare workflow, 3 invocations": lambda: workflow("invoking"),
            "saga, 3 commands, with history": saga,
        }
        for once in subjects.values():
            await once()
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        lines = [f"sagas, {CONCURRENT} at a time, {ROUNDS} rounds in turn"]
        for _ in range(ROUNDS):
            for name, once in subjects.items():
                rate, p50, p99 = await measure(once)
                rates[name].append(rate)
                lines.append(f"{name:36} {rate:6.1f}/s   p50 {p50:6.0f} ms   p99 {p99:6.0f} ms")
        best = {name: sorted(found)[ROUNDS // 2] for name, found in rates.items()}
        _, same, sagas = best.values()
        lines.append(f"  saga to the workflow that does the same: {sagas / same:.2f}")
    sys.stdout.write("\n".join(lines) + "\n")
    path = ROOT / ".annals" / "bench-sagas.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
