"""Activities come at least once: one that comes again after it is known what came of it does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from annals.dapr import DaprSidecar, ServiceInvocation
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
