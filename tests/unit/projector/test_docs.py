"""The read model of docs/write-your-own-projection.md, as printed there."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from annals.deadletters import DeadLetters
from annals.events import DomainEvent, StreamId
from annals.store import Append, MemoryEventStore
from annals_projector import read_models
from annals_projector.queries import streams
from suite.paths import ROOT

DECLARED, NAMED, TESTED = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "write-your-own-projection.md").read_text(), re.DOTALL
)
# Without the page's own, for those who have followed the page.
BEFORE = tuple(one for one in read_models.PROJECTIONS if one.table.name != "workloads")


@pytest.fixture(autouse=True)
def pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the page's file as the module that the page names."""
    module = ModuleType("annals_projector.read_models.workloads")
    exec(DECLARED, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", TESTED))
def test_what_is_printed_tests_it(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(TESTED, namespace)
    namespace[name]()


async def test_a_member_s_state_stays_what_it_was() -> None:
    namespace: dict[str, Any] = dict(vars(read_models))
    exec(NAMED, namespace)
    assert len(namespace["PROJECTIONS"]) == len(BEFORE) + 1
    before = await _state_of_zoe(BEFORE)
    assert before["name"] == "Zoe"
    assert await _state_of_zoe(namespace["PROJECTIONS"]) == before


async def _state_of_zoe(projections: Any) -> Any:
    store = MemoryEventStore()
    registered = DomainEvent(
        event_type="member.registered",
        source="test",
        aggregate_type="member",
        aggregate_id="zoe",
        data={"name": "Zoe", "capacity": 3},
    )
    await store.append(Append(StreamId.of("default", "member", "zoe"), (registered,), 0))

    async def disclose(_tenant: str, value: Any) -> Any:
        return value

    async def up_to_date() -> None:
        pass

    waits: Any = up_to_date
    nothing: Any = None
    app = FastAPI()
    app.include_router(
        streams.routes(store, projections, DeadLetters(nothing, "", "projector"), disclose, waits)
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://projector") as client:
        answer = await client.get("/queries/streams/member-zoe/state")
    return {name: value for name, value in answer.json().items() if not name.endswith("_at")}
