"""How far each lane is signed, and whether signing is late."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from annals.audit import Checkpointer, SigningKey, last_checkpoint, read_checkpoints
from annals.dapr import DaprSidecar, Write
from annals.events import StreamId
from annals.store import DaprEventReader, keys
from annals.testing.fake import FakeDapr, FakeSidecar
from annals.testing.fake.state import Operation
from annals.web.problems import Problem, on_problem
from annals_projector import audit_api
from event_store_conformance import to_append
from event_stores import opened

THING = StreamId("default", "thing-a")


class Suite:
    """A lane of three signed commits and three that are not signed yet."""

    def __init__(self, dapr: FakeDapr, client: DaprSidecar) -> None:
        self.dapr = dapr
        self.client = client

    async def fill(self, port: int) -> None:
        async with opened(port) as store:
            for version in range(3):
                await store.append(to_append(THING, version))
            await self.sign()
            for version in range(3, 6):
                await store.append(to_append(THING, version))

    async def sign(self) -> None:
        async def key() -> SigningKey:
            return SigningKey(base64.b64encode(bytes(32)).decode())

        await Checkpointer(self.client, "eventstore", key, 60).sign()

    async def delete(self, key: str) -> None:
        self.dapr.stores["eventstore"].write(Operation(key), datetime.now(UTC))

    async def lanes(self) -> list[tuple[int, int, int, bool]]:
        items = (await self.get("/audit/checkpoints")).json()["items"]
        return [(one["lane"], one["tail"], one["signed"], one["late"]) for one in items]

    async def get(self, path: str) -> httpx.Response:
        async def public_keys() -> str:
            public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
            return base64.b64encode(public).decode()

        app = FastAPI()
        app.add_exception_handler(Problem, on_problem)
        reading = partial(read_checkpoints, self.client, "eventstore")
        last = partial(last_checkpoint, self.client, "eventstore")
        app.include_router(audit_api.routes(DaprEventReader(self.client), reading, last, public_keys))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://projector") as http:
            return await http.get(path)


@pytest.fixture
async def suite() -> AsyncIterator[Suite]:
    dapr = FakeDapr()
    async with FakeSidecar(dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        suite = Suite(dapr, client)
        await suite.fill(sidecar.grpc_port)
        yield suite
        await client.close()


async def test_what_was_committed_just_now_is_not_late(suite: Suite) -> None:
    assert await suite.lanes() == [(0, 6, 3, False)]


async def test_what_can_never_be_signed_is_late(suite: Suite) -> None:
    await suite.delete(keys.log(0, 4))
    assert await suite.lanes() == [(0, 6, 3, True)]


async def test_a_lane_that_lost_its_beginning_is_listed(suite: Suite) -> None:
    await suite.delete(keys.log(0, 1))
    await suite.delete(keys.checkpoint(0))
    assert await suite.lanes() == [(0, 6, 0, True)]


async def test_what_an_import_has_not_brought_yet_is_not_late(suite: Suite) -> None:
    await suite.delete(keys.log(0, 4))
    await suite.delete(keys.log(0, 6))
    await suite.client.save("eventstore", Write(keys.imported(0), b"6"))
    assert await suite.lanes() == [(0, 6, 3, False)]


async def test_what_an_import_has_not_brought_yet_is_not_taken_for_altered(suite: Suite) -> None:
    verified = await suite.get("/audit/verification")
    assert b'"ok":true' in verified.content
    await suite.delete(keys.log(0, 6))
    await suite.client.save("eventstore", Write(keys.imported(0), b"6"))
    refused = await suite.get("/audit/verification")
    assert refused.status_code == 503
    assert "being imported, or its import was broken off: lane 0 up to 6" in refused.json()["detail"]


async def test_what_was_lost_is_found_in_a_lane_that_was_once_imported(suite: Suite) -> None:
    await suite.client.save("eventstore", Write(keys.imported(0), b"5"))
    await suite.sign()
    await suite.delete(keys.log(0, 5))
    verified = await suite.get("/audit/verification")
    assert verified.status_code == 200
    assert b"the log ends at 4, but was signed beyond that" in verified.content


async def test_what_cannot_be_signed_any_more_of_a_lane_that_was_once_imported_is_late(suite: Suite) -> None:
    await suite.client.save("eventstore", Write(keys.imported(0), b"2"))
    await suite.delete(keys.log(0, 2))
    await suite.delete(keys.log(0, 4))
    assert await suite.lanes() == [(0, 6, 3, True)]
