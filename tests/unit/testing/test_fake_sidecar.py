"""What the fake has beyond the real sidecar: a clock, faults on demand, apps in the same process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
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
    Message,
    NotAnswered,
    ServiceInvocation,
    SidecarUnavailable,
    Write,
)
from annals.free_ports import free_port
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock
from conftest import until
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
    async with FakeSidecar("app", dapr=dapr) as away:  # no app yet, so the job waits for one
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
            await apps.invoke("callee", "POST", "things/a")
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


CONSUMER = """
import os, sys
import uvicorn
from dapr.aio.clients import DaprClient
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

async def subscribe(request):
    return JSONResponse([{"pubsubname": "letters", "topic": "letters", "route": "/letters"}])

async def letters(request):
    event = await request.json()
    async with DaprClient() as dapr:
        await dapr.save_state("eventstore", "seen", event["data"])
        await dapr.publish_event("answers", "answers", event["data"] + "!", data_content_type="text/plain")
    return Response()

routes = [Route("/dapr/subscribe", subscribe), Route("/letters", letters, methods=["POST"])]
uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), log_level="warning")
"""


async def test_an_app_in_a_process_of_its_own_with_the_sdk() -> None:
    port, dapr = free_port(), FakeDapr()
    async with FakeSidecar("consumer", port, dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        environment = os.environ | sidecar.environment
        argv = [sys.executable, "-c", CONSUMER, str(port)]
        process = await asyncio.create_subprocess_exec(*argv, env=environment)
        try:
            await client.publish("letters", [Message("1", b"hello", "text/plain")])
            await until(lambda: asyncio.sleep(0, dapr.broker.log("answers")), seconds=90)
            await dapr.broker.idle()
            value = await client.get("eventstore", "seen")
            assert value is not None
            assert value.data == b"hello"
            assert json.loads(dapr.broker.log("answers")[0].body)["data"] == "hello!"
        finally:
            process.kill()
            await process.wait()
            await client.close()
