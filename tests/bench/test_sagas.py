"""Sagas beside a bare Dapr workflow and a Temporal workflow with as many activities, in one run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
import results
import yaml
from dapr.ext.workflow.aio import DaprWorkflowClient
from http_load import Measured, median
from subjects.environment import HERE as SUBJECTS
from subjects.environment import PYTHON, TEMPORAL

import untraced
from annals.events import new_id
from annals.free_ports import free_port
from annals.sagas.history import SagaKey
from annals.sagas.runs import instance_id
from conftest import COMPONENTS, running
from suite.manifest import App
from suite.process import Spec
from suite.sidecar import SidecarPorts, sidecar
from suite.suite import Suite

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("BENCH_SECONDS", "6"))
CONCURRENT = 16
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
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
    async with BenchSuite("embedded", home=home, config=untraced.config(home)) as suite:
        yield suite


@pytest.fixture(scope="module")
async def bare(suite: BenchSuite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """Run a bare workflow app and a sidecar of its own on the same stores; yield the sidecar's gRPC port."""
    at, resources = SidecarPorts.free(), tmp_path_factory.mktemp("resources")
    for name in ("stores/postgresql/workflowstore", "shared/secretstore"):
        component = yaml.safe_load((COMPONENTS / f"{name}.yaml").read_text())
        component.pop("scopes", None)
        (resources / f"{Path(name).name}.yaml").write_text(yaml.safe_dump(component))
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


@pytest.fixture(scope="module")
async def temporal(suite: BenchSuite) -> AsyncIterator[str]:
    """Run Temporal's development server, with its history in a file, and a worker; yield its address."""
    port, http = free_port(), free_port()
    argv = [str(TEMPORAL), "server", "start-dev", "--headless", "--log-level", "error"]
    argv += ["--port", str(port), "--http-port", str(http), "--db-filename", str(suite.home / "temporal.db")]
    server = Spec("temporal", argv, lambda: serving(f"127.0.0.1:{port}"))
    env = {"TEMPORAL": f"127.0.0.1:{port}", "DAPR_HTTP_PORT": "3501"}

    async def started() -> bool:
        return True  # the first workflow waits for its worker

    worker = Spec("temporal-worker", [str(PYTHON), "temporal_app.py"], started, env=env, cwd=SUBJECTS)
    async with running(server, suite.logs), running(worker, suite.logs):
        yield env["TEMPORAL"]


async def serving(address: str) -> bool:
    """Return whether the server reports that it is healthy."""
    asked = await asyncio.create_subprocess_exec(
        *(str(TEMPORAL), "operator", "cluster", "health", "--address", address),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asked.wait() == 0


async def measure(once: Once) -> Measured:
    """Measure how many run in SECONDS, with CONCURRENT of them at a time."""
    took: list[float] = []
    begun = time.perf_counter()

    async def again() -> None:
        while (started := time.perf_counter()) < begun + SECONDS:
            await once()
            took.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(again() for _ in range(CONCURRENT)))
    return Measured.of(took, time.perf_counter() - begun, 0)


async def measure_temporal(address: str, kind: str, seconds: float, members: list[str]) -> Measured:
    """Measure the same with a Temporal client in its own environment."""
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), "temporal_app.py", kind, str(seconds), *members),
        stdout=asyncio.subprocess.PIPE,
        cwd=SUBJECTS,
        env=os.environ | {"TEMPORAL": address},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    answer = json.loads(out)
    return Measured.of(answer["latencies"], answer["seconds"], 0)


async def test_sagas(suite: BenchSuite, bare: int, temporal: str) -> None:
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

        subjects: dict[str, Callable[[], Awaitable[Measured]]] = {
            "Dapr workflow, 3 empty activities": lambda: measure(lambda: workflow("empty")),
            "Temporal workflow, 3 empty activities": lambda: measure_temporal(
                temporal, "nothing", SECONDS, names
            ),
            "Dapr workflow, 3 commands": lambda: measure(lambda: workflow("invoking")),
            "Temporal workflow, 3 commands": lambda: measure_temporal(temporal, "invoke", SECONDS, names),
            "Annals saga, 3 commands, with history": lambda: measure(saga),
        }
        await asyncio.gather(saga(), workflow("empty"), workflow("invoking"))
        await measure_temporal(temporal, "invoke", 1, names[:1])
        runs: dict[str, list[Measured]] = {name: [] for name in subjects}
        for _ in range(ROUNDS):
            for name, run in subjects.items():
                runs[name].append(await run())
    found = {name: median(each) for name, each in runs.items()}
    for name, measured in found.items():
        sys.stdout.write(f"{name:40} {measured}\n")
    results.write(
        "sagas",
        {
            "concurrent": CONCURRENT,
            "seconds": SECONDS,
            "rounds": ROUNDS,
            "runs": {name: asdict(each) for name, each in found.items()},
        },
    )
