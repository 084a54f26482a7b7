"""The conformance suite of sidecars on a real daprd, whose behaviour is the standard for the fake."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from annals.free_ports import free_port
from annals.testing.daprd import RealSidecar
from conftest import running
from recording_app import recording_app
from sidecar_conformance import (
    RETRIES,
    JobsConformance,
    OthersConformance,
    PubSubConformance,
    Sidecar,
    StateConformance,
    connected,
)
from suite import infra, ports, runtime
from suite.process import Spec

COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: {name}
spec:
  type: {type}
  version: {version}
  metadata: {metadata}
---
"""

SUBSCRIPTION = """\
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata:
  name: {topic}
spec:
  pubsubname: messages
  topic: {topic}
  routes:
    default: /{topic}
{more}
---
"""

DEAD_LETTERS = "  deadLetterTopic: dead"
RAW = '  metadata:\n    rawPayload: "true"'
BULK = "  bulkSubscribe:\n    enabled: true\n    maxMessagesCount: 100\n    maxAwaitDurationMs: 50\n"

RESILIENCY = """\
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata:
  name: test
spec:
  policies:
    retries:
      delivery:
        policy: constant
        duration: 20ms
        maxRetries: {retries}
  targets:
    components:
      messages:
        inbound:
          retry: delivery
"""


def component(name: str, kind: str, version: str = "v1", **metadata: str) -> str:
    values = [{"name": key, "value": value} for key, value in metadata.items()]
    return COMPONENT.format(name=name, type=kind, version=version, metadata=json.dumps(values))


def components(directory: Path, postgres: str, redis: int) -> str:
    host = f"127.0.0.1:{redis}"
    return (
        component("sqlite", "state.sqlite", connectionString=str(directory / "state.db"), keyPrefix="none")
        + component(
            *("postgresql", "state.postgresql", "v2"),
            connectionString=postgres,
            tablePrefix="conformance_",
            keyPrefix="none",
        )
        + component("redis", "state.redis", redisHost=host, keyPrefix="none")
        + component("configuration", "configuration.redis", redisHost=host)
        + component("locks", "lock.redis", redisHost=host)
        + component("messages", "pubsub.in-memory")
        + component("secrets", "secretstores.local.file", secretsFile=str(directory / "secrets.json"))
        + SUBSCRIPTION.format(topic="single", more=DEAD_LETTERS)
        + SUBSCRIPTION.format(topic="bulk", more=BULK + DEAD_LETTERS)
        + SUBSCRIPTION.format(topic="raw", more=RAW)
        + SUBSCRIPTION.format(topic="dead", more=RAW)
    )


@pytest.fixture(scope="module")
async def sidecar(
    postgres: infra.Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Sidecar]:
    directory = tmp_path_factory.mktemp("conformance")
    async with AsyncExitStack() as stack:
        redis = free_port()
        server = shutil.which("redis-server")
        assert server, "redis-server is needed: `make test` installs it"
        argv = [server, "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        # configuration.redis learns of changed keys from these notifications.
        argv += ["--notify-keyspace-events", "KEA"]
        await stack.enter_async_context(
            running(Spec("redis", argv, lambda: ports.open_port(redis)), directory)
        )
        control_plane = infra.ControlPlane(directory, 19000)
        for spec in control_plane.specs():
            await stack.enter_async_context(running(spec, directory))

        async def configure(key: str, value: str) -> None:
            await command(redis, "SET", key, f"{value}||1")

        (directory / "secrets.json").write_text(json.dumps({"password": "open sesame"}))
        (directory / "components").mkdir()
        (directory / "components" / "all.yaml").write_text(components(directory, postgres.dsn, redis))
        # In a file of its own: daprd ignores a Resiliency in a file that begins with another kind.
        (directory / "components" / "resiliency.yaml").write_text(RESILIENCY.format(retries=RETRIES))
        app = await stack.enter_async_context(recording_app())
        daprd = RealSidecar(
            "app",
            runtime.dapr("daprd"),
            directory,
            [directory / "components"],
            app.port,
            control_plane.placement,
            control_plane.scheduler,
        )
        await daprd.start()
        stack.push_async_callback(daprd.stop)
        yield await stack.enter_async_context(connected(daprd.grpc_port, app, configure))


async def command(port: int, *words: str) -> None:
    """Send a command to Redis, which must answer OK."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    writer.write(f"*{len(words)}\r\n{text}".encode())
    assert await reader.readline() == b"+OK\r\n"
    writer.close()


class TestState(StateConformance):
    pass


class TestPubSub(PubSubConformance):
    pass


class TestJobs(JobsConformance):
    pass


class TestOthers(OthersConformance):
    pass
