"""An operator's request that cannot be recorded is not done, and the answer says why."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from fastapi import Request

from annals.web import Problem, operations
from annals.web.operations import Operations


class Silent:
    """A command service that never answers."""

    async def invoke(self, *_: object, **__: object) -> Any:
        await asyncio.Event().wait()


async def test_without_an_answer_it_is_said_how_long_it_was_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "_ANSWER_SECONDS", 0.01)
    request = Request({"type": "http", "headers": [], "client": None})
    with pytest.raises(Problem) as refused:
        await Operations(cast("Any", Silent()), "projector").requested(request, "retire", "tasks", None)
    assert refused.value.status == 503
    assert refused.value.detail.endswith("the command service did not answer within 0 s")
