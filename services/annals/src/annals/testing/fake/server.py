"""A sidecar in the test's own process: Dapr's gRPC API on one port, its HTTP API on another."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import grpc
import httpx
from dapr.ext.workflow._durabletask.internal import orchestrator_service_pb2_grpc as task_hub
from dapr.proto import api_service_v1

from annals.testing.fake.apps import App, AppChannel
from annals.testing.fake.dapr import FakeDapr
from annals.testing.fake.delivery import Consumer
from annals.testing.fake.errors import Context, Refused
from annals.testing.fake.extras import BindingsApi, ConfigurationApi, MetadataApi, SecretsApi
from annals.testing.fake.faults import Faults
from annals.testing.fake.http import HttpSide
from annals.testing.fake.jobs import JobsApi
from annals.testing.fake.publishing import PublishApi
from annals.testing.fake.state_api import StateApi
from annals.testing.fake.subscriptions import Subscription, declared
from annals.testing.fake.tasks import Tasks
from annals.testing.fake.workflow_api import TaskHub, WorkflowApi

_NOT_FOUND = 404


class FakeSidecar:
    """The sidecar of an app, or of a test: `async with FakeSidecar("command") as sidecar:`.

    `app` is the port of an app on this machine, or an ASGI app. Sidecars that are given the same `dapr` share
    its broker, stores and clock; those with the same app id are replicas. `kill` stops a sidecar as a crash
    would: what it was delivering is delivered again by a replica, or by itself after another `start`, on the
    same ports.
    """

    def __init__(
        self,
        app_id: str = "app",
        app: App | None = None,
        *,
        dapr: FakeDapr | None = None,
        grpc_port: int = 0,
        http_port: int = 0,
    ) -> None:
        self.app_id = app_id
        self.dapr = dapr or FakeDapr()
        self.faults = Faults()
        self.grpc_port = grpc_port
        self.http_port = http_port
        self.app: AppChannel | None = None
        self._app = app
        self._server: grpc.aio.Server | None = None
        self._http = HttpSide(self.dapr, app_id, self.faults)
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that tell an app the ports of its sidecar."""
        return {"DAPR_GRPC_PORT": str(self.grpc_port), "DAPR_HTTP_PORT": str(self.http_port)}

    async def start(self) -> None:
        """Serve, and deliver to the app once it listens."""
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        self._register(server)
        self.grpc_port = server.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        await server.start()
        self._server = server
        self.http_port = await self._http.start(self.http_port)
        self.dapr.sidecars.append(self)
        if self._app is not None:
            self.app = AppChannel(self._app)
            self.dapr.scheduler.connect(self.app_id, self._call_job)
            self._tasks.start(self._deliver(self.app), f"{self.app_id}: deliveries")

    async def stop(self, *, grace: float | None = 1.0) -> None:
        """Stop the sidecar. Raises what went wrong in its deliveries."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self.dapr.sidecars.remove(self)
        if self.app is not None:
            self.dapr.scheduler.disconnect(self.app_id, self._call_job)
        try:
            await self._tasks.stop()
        finally:
            await server.stop(grace)
            await self._http.stop()
            if self.app is not None:
                await self.app.close()
                self.app = None

    async def kill(self) -> None:
        """Stop the sidecar as a crash would: calls and deliveries under way are cut off."""
        await self.stop(grace=None)

    def _register(self, server: grpc.aio.Server) -> None:
        dapr = self.dapr
        apis = (
            StateApi(self.app_id, dapr.stores, dapr.clock),
            PublishApi(self.app_id, dapr.broker, dapr.random),
            BindingsApi(dapr.bindings),
            SecretsApi(dapr.secrets),
            ConfigurationApi(dapr.configuration),
            dapr.locks,
            JobsApi(self.app_id, dapr.scheduler),
            WorkflowApi(self.app_id, dapr.workflows),
            MetadataApi(self.app_id, dapr.components),
        )
        servicer = self._servicer(api_service_v1.DaprServicer, apis)
        api_service_v1.add_DaprServicer_to_server(servicer, server)
        hub = self._servicer(task_hub.TaskHubSidecarServiceServicer, (TaskHub(self.app_id, dapr.workflows),))
        task_hub.add_TaskHubSidecarServiceServicer_to_server(hub, server)

    def _servicer(self, kind: type[Any], apis: tuple[object, ...]) -> Any:
        servicer = kind()
        for name in (name for name in vars(kind) if not name.startswith("_")):
            method = next((getattr(api, name) for api in apis if hasattr(api, name)), None)
            setattr(servicer, name, self._guarded(name, method))
        return servicer

    def _guarded(self, name: str, method: Callable[..., Any] | None) -> Callable[..., Any]:
        if method is None:

            async def unknown(_request: object, context: Context) -> None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the fake sidecar has no {name}")

            return unknown
        arguments = len(inspect.signature(method).parameters)
        if inspect.isasyncgenfunction(method):

            async def stream(request: object, context: Context) -> AsyncIterator[object]:
                async with self._refusals(context), contextlib.aclosing(method(request)) as answers:
                    self.faults.before(name)
                    async for answer in answers:
                        yield answer

            return stream

        async def call(request: object, context: Context) -> object:
            async with self._refusals(context):
                self.faults.before(name)
                answer = await method(*(request, context)[:arguments])
                self.faults.after(name)
                return answer

        return call

    @contextlib.asynccontextmanager
    async def _refusals(self, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except Refused as error:
            await context.abort(error.code, error.details, error.trailing())

    async def _deliver(self, app: AppChannel) -> None:
        await app.listening()
        subscriptions = [one for one in self.dapr.subscriptions if one.concerns(self.app_id)]
        for subscription in [*subscriptions, *await _programmatic(app)]:
            broker = self.dapr.broker
            consumer = Consumer(
                broker,
                broker.group(subscription.pubsub, subscription.topic, self.app_id),
                subscription,
                app,
                self.dapr.retries.get(subscription.pubsub),
                self.dapr.random,
            )
            self._tasks.start(consumer.run(), f"{self.app_id}: {subscription.topic}")

    async def _call_job(self, name: str, data: bytes) -> bool:
        if self.app is None:
            return False
        try:
            answer = await self.app.call(
                "POST", f"job/{name}", content=data, headers={"content-type": "application/json"}
            )
        except httpx.HTTPError:
            return False
        return answer.is_success or answer.status_code == _NOT_FOUND


async def _programmatic(app: AppChannel) -> list[Subscription]:
    answer = await app.call("GET", "dapr/subscribe")
    if answer.status_code == _NOT_FOUND:
        return []
    answer.raise_for_status()
    return [declared(_spelled(spec)) for spec in answer.json() or ()]


def _spelled(spec: dict[str, Any]) -> dict[str, Any]:
    """Rename the `pubsubName` of some SDKs in an answer to GET /dapr/subscribe to YAML's `pubsubname`."""
    return {"pubsubname": spec.get("pubsubname") or spec.get("pubsubName"), **spec}
