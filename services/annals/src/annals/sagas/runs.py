"""The workflows of sagas: each run of a saga, the first or one after a restart, has a workflow of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from annals.dapr import Workflows
from annals.sagas.asker import NOBODY, Asker
from annals.sagas.history import SagaKey
from annals.sagas.start import start_of
from annals.sagas.state import SagaState

# Before each look for what a workflow that is about to begin will do.
PAUSES_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# In characters. With the hyphen, they stay within the 64 that Dapr's workflow API takes.
_ID_SHOWN, _DIGEST = 30, 32


def instance_id(key: SagaKey, run: int = 0) -> str:
    """Return the id of the workflow of a saga's run. No saga of another tenant has it, whatever its own id.

    It begins with the saga's id, for people to read; the digest makes it unique.
    """
    digest = hashlib.sha256(f"{key.tenant}/{key.id}/{run}".encode()).hexdigest()
    return f"{key.id[:_ID_SHOWN]}-{digest[:_DIGEST]}"


def workflow_input(key: SagaKey, state: SagaState, asker: Asker = NOBODY) -> dict[str, Any]:
    """Return the input of the workflow of a saga's current run, which `asker` asks for."""
    return start_of(key.id, key.tenant, state, asker) | {"instance": instance_id(key, state.run)}


class SagaWorkflows:
    """Starts and ends the workflows of sagas, and tells them what is wanted. All methods raise DaprError."""

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows

    async def start(self, key: SagaKey, state: SagaState, asker: Asker) -> bool:
        """Start the workflow of a saga's current run; return False if it is running."""
        given = workflow_input(key, state, asker)
        return await self._workflows.start(
            state.saga_type, instance_id(key, state.run), given, asker.traceparent
        )

    async def raise_event(self, key: SagaKey, state: SagaState, event: str, payload: dict[str, Any]) -> bool:
        """Raise an event to the workflow of a saga's current run; return False if there is none.

        Raises WorkflowStalled besides other DaprErrors.
        """
        return await self._tell(
            key, state, lambda instance: self._workflows.raise_event(instance, event, payload)
        )

    async def pause(self, key: SagaKey, state: SagaState) -> bool:
        """Pause the workflow of a saga's current run; return False if there is none."""
        return await self._tell(key, state, self._workflows.pause)

    async def resume(self, key: SagaKey, state: SagaState) -> None:
        """Resume the workflow of a saga's current run."""
        await self._workflows.resume(instance_id(key, state.run))

    async def end(self, key: SagaKey, runs: int) -> None:
        """End the workflows of the first `runs` runs: an earlier restart may have failed before it did so."""
        for run in range(runs):
            await self._workflows.terminate(instance_id(key, run))

    async def purge(self, key: SagaKey, state: SagaState) -> None:
        """Delete the workflows of all runs of an ended saga."""
        for run in range(state.run + 1):
            await self._workflows.purge(instance_id(key, run))

    async def _tell(self, key: SagaKey, state: SagaState, tell: Callable[[str], Awaitable[bool]]) -> bool:
        for seconds in PAUSES_SECONDS:
            # A child saga, or one that is restarted, is in its stream before it has a workflow.
            await asyncio.sleep(seconds)
            if await tell(instance_id(key, state.run)):
                return True
        return False
