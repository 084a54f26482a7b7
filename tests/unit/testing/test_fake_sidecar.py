"""What the fake has beyond the real one: a clock, faults on order, apps in process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import grpc
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from annals.dapr import (
    DaprError,
    DaprSidecar,
    Jobs,
    NotAnswered,
    ServiceInvocation,
    SidecarUnavailable,
    Write,
)
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock
from recording_app import recording_app


async def test_a_value_ends_when_the_clock_comes_to_it() -> None:
    clock = VirtualClock()
    async with FakeSidecar(dapr=FakeDapr(clock=clock)) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        await client.save("eventstore", Write("key", b"1", ttl_seconds=60))
        await clock.advance(timedelta(seconds=60))
        assert await client.get("eventstore", "key")
        await clock.advance(timedelta(seconds=1))
        assert await client.get("eventstore", "key") is None
        await client.close()


async def test_jobs_are_called_by_the_clock_and_again_until_they_succeed() -> None:
    clock = VirtualClock()
    dapr = FakeDapr(clock=clock)
    async with FakeSidecar("app", dapr=dapr) as away:  # no app yet: the job waits for one
        client = DaprSidecar(away.grpc_port)
        await Jobs(client).schedule("remind", clock.now() + timedelta(hours=1), {"n": 1})
        await clock.advance(timedelta(hours=2))
        assert dapr.scheduler.get("app", "remind") is not None
        async with recording_app() as app, FakeSidecar("app", app.port, dapr=dapr):
            app.answer("/job/remind", (500, ""), (500, ""))
            await clock.advance()
            assert [call.json for call in app.to("/job/remind")] == [{"n": 1}]
            await clock.advance(timedelta(seconds=20))
            assert len(app.to("/job/remind")) == 3
            assert dapr.scheduler.get("app", "remind") is None
        await client.close()


async def test_calls_fail_and_replies_are_lost_on_order() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        sidecar.faults.fail("ExecuteStateTransaction", grpc.StatusCode.RESOURCE_EXHAUSTED, "full", times=2)
        for _ in range(2):
            with pytest.raises(DaprError, match="full"):
                await client.transact("eventstore", [Write("key", b"1")])
        assert await client.get("eventstore", "key") is None
        sidecar.faults.lose_reply("ExecuteStateTransaction")
        with pytest.raises(SidecarUnavailable):
            await client.transact("eventstore", [Write("key", b"1")])
        assert await client.get("eventstore", "key")
        await client.transact("eventstore", [Write("key", b"2")])
        await client.close()


async def test_what_the_fake_has_not_it_says() -> None:
    async with FakeSidecar() as sidecar, grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as to:
        from dapr.proto import api_service_v1, api_v1

        with pytest.raises(grpc.aio.AioRpcError, match="the fake sidecar has no QueryStateAlpha1"):
            await api_service_v1.DaprStub(to).QueryStateAlpha1(api_v1.QueryStateRequest())


def echo() -> Starlette:
    async def answer(request: Request) -> Response:
        said = {
            "method": request.method,
            "query": dict(request.query_params),
            "caller": request.headers["dapr-caller-app-id"],
            "body": json.loads(await request.body() or b"null"),
        }
        return JSONResponse(said, status_code=201)

    return Starlette(routes=[Route("/things/{name}", answer, methods=["GET", "POST"])])


async def test_apps_invoke_each_other() -> None:
    dapr = FakeDapr()
    async with FakeSidecar("caller", dapr=dapr) as sidecar, FakeSidecar("callee", echo(), dapr=dapr):
        apps = ServiceInvocation(sidecar.http_port)
        answer = await apps.invoke("callee", "POST", "things/a?x=1", json=[1])
        assert answer.status == 201
        assert answer.body == {"method": "POST", "query": {"x": "1"}, "caller": "caller", "body": [1]}
        missing = await apps.invoke("nobody", "GET", "things/a")
        assert (missing.status, missing.body["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        sidecar.faults.lose_reply("invoke")
        with pytest.raises(NotAnswered):
            await apps.invoke("callee", "GET", "things/a")
        await apps.close()
        async with httpx.AsyncClient() as http:
            well = await http.get(f"http://127.0.0.1:{sidecar.http_port}/v1.0/healthz/outbound")
        assert well.status_code == 204


async def test_bindings_are_functions() -> None:
    def send(operation: str, data: bytes, metadata: Mapping[str, str]) -> bytes:
        if metadata.get("to") == "nobody":
            raise ValueError("nobody is there")
        return b"%s: %s" % (operation.encode(), data)

    async with FakeSidecar(dapr=FakeDapr(bindings={"email": send})) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        assert await client.invoke_binding("email", "create", {}, b"hello") == b"create: hello"
        with pytest.raises(DaprError, match="error invoking output binding email: nobody is there"):
            await client.invoke_binding("email", "create", {"to": "nobody"})
        await client.close()
