"""Activities come at least once: one that comes again after it is known what came of it does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import pytest

from annals.dapr import Answer, DaprSidecar, NotAnswered, ServiceInvocation
from annals.sagas.activities import ActivityCall, Rejected, SagaActivities
from annals.sagas.engine import entry
from annals.sagas.events import SagaStarted
from annals.sagas.history import SagaHistory
from annals.store import MemoryEventStore

AT = datetime(2030, 1, 1, tzinfo=UTC)
STARTED = entry(SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("a",)))


class Tried:
    """A function that refuses or fails, and counts how often it was asked."""

    def __init__(self, error: Exception) -> None:
        self.times = 0
        self._error = error
        # Only the function is reached for: neither services nor a broker.
        unused = cast("ServiceInvocation", None), cast("DaprSidecar", None)
        self.activities = SagaActivities(SagaHistory(MemoryEventStore()), *unused, {"try": self._try})

    async def _try(self, _: ActivityCall) -> Any:
        self.times += 1
        raise self._error

    async def perform(self, attempt: int, *, final: bool, undo: bool = False) -> Mapping[str, Any]:
        """What the engine asks for."""
        call = {"id": "s", "tenant": "default", "before": [STARTED], "step": "a", "attempt": attempt}
        call |= {"run": 0, "undo": undo, "final": final, "timeout": 5, "then": []}
        return await self.activities.perform(
            call | {"call": {"kind": "activity", "name": "try", "input": {}}}, None
        )


@pytest.mark.parametrize(
    ("error", "outcome"), [(Rejected("no room"), "rejected"), (ValueError("broken"), "failed")]
)
async def test_a_try_that_failed_is_not_made_again_when_its_call_comes_twice(
    error: Exception, outcome: str
) -> None:
    tried = Tried(error)
    first = await tried.perform(1, final=True)
    again = await tried.perform(1, final=True)
    assert first["outcome"] == again["outcome"] == outcome
    assert again["message"] == first["message"]
    assert again["uncertain"] == first["uncertain"]
    assert tried.times == 1


async def test_an_earlier_try_that_comes_late_is_not_made_and_a_later_one_is() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=False)
    await tried.perform(2, final=False)
    assert tried.times == 2
    assert (await tried.perform(1, final=False))["outcome"] == "failed"
    assert tried.times == 2


async def test_a_compensation_that_failed_is_not_tried_again_by_the_same_call() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=True)
    await tried.perform(1, final=False, undo=True)
    await tried.perform(1, final=False, undo=True)
    assert tried.times == 2


@pytest.mark.parametrize(("answer", "by_rule"), [({"rule": "full"}, True), ({}, False)])
async def test_what_a_rule_refused_after_a_lost_reply_was_never_done(
    answer: dict[str, str], by_rule: bool
) -> None:
    class Invocation:
        answers: ClassVar = [NotAnswered("no reply"), Answer(422, answer | {"detail": "no"})]

        async def invoke(self, *_: Any, **__: Any) -> Answer:
            found = self.answers.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    history = SagaHistory(MemoryEventStore())
    invocation, unused = cast("ServiceInvocation", Invocation()), cast("DaprSidecar", None)
    activities = SagaActivities(history, invocation, unused, {})
    call: dict[str, Any] = {"id": "s", "tenant": "default", "before": [STARTED], "step": "a", "run": 0}
    call |= {"undo": False, "final": False, "timeout": 5, "then": []}
    call |= {"call": {"kind": "command", "app": "command", "type": "x.y", "data": {}}}
    lost = await activities.perform(call | {"attempt": 1}, None)
    assert (lost["outcome"], lost["uncertain"], lost["by_rule"]) == ("failed", True, False)
    refused = await activities.perform(call | {"attempt": 2}, None)
    assert (refused["outcome"], refused["uncertain"], refused["by_rule"]) == ("rejected", False, by_rule)
    again = await activities.perform(call | {"attempt": 2}, None)
    assert again["by_rule"] == by_rule
    assert again["uncertain"] != by_rule, "what no rule refused may have been done by the first"
