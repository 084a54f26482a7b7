"""An operator's request that cannot be recorded is not done, and the answer says why."""

from __future__ import annotations

import pytest
from fastapi import Request

from annals.web import Problem, operations
from annals.web.operations import Operations
from fixed_answer import sidecar


async def test_without_an_answer_it_is_said_how_long_it_was_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "_ANSWER_SECONDS", 0.01)
    request = Request({"type": "http", "headers": [], "client": None})
    async with sidecar(None) as silent:
        with pytest.raises(Problem) as refused:
            await Operations(silent, "projector").requested(request, "retire", "tasks", None)
    assert refused.value.status == 503
    assert refused.value.detail.endswith("command did not answer within 0.01 s")
