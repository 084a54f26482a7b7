"""What operators are told about the store's lanes."""

from __future__ import annotations

import httpx
from fastapi import FastAPI

from annals.aggregates import folding
from annals.dapr import DaprSidecar
from annals.events import EventRegistry
from annals.store import Export, Restore
from annals.testing.fake import FakeSidecar
from annals_command import store_api
from event_store_conformance import new_stream, to_append
from event_stores import opened

NOTHING = folding(EventRegistry([]), [])


async def test_lanes_that_an_import_brought_and_nobody_writes_are_listed() -> None:
    async with FakeSidecar() as sidecar:
        source = DaprSidecar(sidecar.grpc_port)
        async with opened(sidecar.grpc_port, "one") as one, opened(sidecar.grpc_port, "two") as two:
            for store, commits in ((one, 2), (two, 3)):
                for _ in range(commits):
                    await store.append(to_append(new_stream(), 0))
        pages = Export(source, "eventstore", with_keys=False).pages()
        backup = b"".join([page async for page in pages])
        await source.close()
    async with FakeSidecar() as sidecar:
        target = DaprSidecar(sidecar.grpc_port)
        await Restore(target, "eventstore", NOTHING).apply(b"".join(backup.splitlines(keepends=True)[:-1]))
        async with opened(sidecar.grpc_port, "one"):
            app = FastAPI()
            app.include_router(store_api.routes(target, "eventstore", NOTHING))
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://command") as client:
                listed = (await client.get("/store/lanes")).json()["items"]
        await target.close()
    assert [(one["lane"], one["tail"], one["backlog"]) for one in listed] == [(0, 2, 0), (1, 3, 0)]
    assert listed[1]["owner"] is None
