"""Components for clouds that are not available here: a sidecar loads their files and tries to connect.

Nothing listens at the addresses in the secrets, so the sidecar must report that it could not connect. The
last test shows that it reports something else for a wrong file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annals.dapr import DaprError, DaprSidecar, Message, publish_metadata
from conftest import copy_components, until, write_secrets
from suite.process import Process
from suite.sidecar import SidecarPorts, sidecar

NOBODY = "127.0.0.1:1"
SERVICE_BUS = {"servicebus": f"Endpoint=sb://{NOBODY}/;SharedAccessKeyName=annals;SharedAccessKey=YW5uYWxz"}
COSMOS_DB = {"cosmosdb-url": f"https://{NOBODY}/", "cosmosdb-key": "YW5uYWxz"}
REFUSED = "connection refused"

Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> Any:
    """Return a function that starts a sidecar on a component file and does not wait until it is ready."""
    processes = []

    async def start(
        app_id: str, file: str, secrets: dict[str, str], *, without: str = ""
    ) -> tuple[Process, SidecarPorts]:
        folder = copy_components(tmp_path / "components", "shared/secretstore.yaml", file)
        component = folder / Path(file).name
        if without:
            component.write_text(component.read_text().replace(f"name: {without}", "name: forgotten"))
        write_secrets(tmp_path, **secrets)
        at = SidecarPorts.free()
        process = Process(
            sidecar(app_id, at, resources=[folder], config=None, home=tmp_path), tmp_path, restart=False
        )
        processes.append(process)
        await process.start()
        return process, at

    yield start
    for process in processes:
        await process.stop()


async def _ended(process: Process) -> str:
    """Wait until a sidecar that could not load a component ends, and return what it logged about that."""

    async def gone() -> bool:
        return process.pid is None

    await until(gone, 90)
    return next(line for line in process.log.read_text().splitlines() if '"level":"fatal"' in line)


async def test_service_bus_gets_as_far_as_its_namespace(start: Start) -> None:
    process, at = await start("command", "brokers/servicebus/pubsub.yaml", SERVICE_BUS)
    await process.wait_ready()
    client = DaprSidecar(at.grpc, timeout=120)
    message = Message("1", b"{}", "application/json", publish_metadata("default", "task-1", "e-1"))
    try:
        with pytest.raises(DaprError, match=REFUSED):
            await client.publish("domain-events", [message])
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("app_id", "file"),
    [
        ("command", "stores/cosmosdb/eventstore.yaml"),
        ("saga-orchestrator", "stores/cosmosdb/workflowstore.yaml"),
    ],
)
async def test_cosmos_db_gets_as_far_as_its_account(start: Start, app_id: str, file: str) -> None:
    process, _ = await start(app_id, file, COSMOS_DB)
    assert REFUSED in await _ended(process)


@pytest.mark.parametrize(
    ("file", "secrets", "without", "says"),
    [
        (
            "brokers/servicebus/pubsub.yaml",
            SERVICE_BUS,
            "connectionString",
            "connection string or namespace",
        ),
        ("stores/cosmosdb/eventstore.yaml", COSMOS_DB, "url", "url is required"),
    ],
)
async def test_a_file_that_lacks_something_is_told_apart(
    start: Start, file: str, secrets: dict[str, str], without: str, says: str
) -> None:
    process, _ = await start("command", file, secrets, without=without)
    said = await _ended(process)
    assert says in said
    assert REFUSED not in said
