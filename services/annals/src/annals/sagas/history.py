"""A saga's stream in the event store: loaded, decided on, appended to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from annals.aggregates.keyed_locks import KeyedLocks
from annals.aggregates.stored_state import stored_state
from annals.events import DomainEvent, EventData, StreamId
from annals.sagas.events import REGISTRY, EventRaised, SagaResumed, StepCompleted
from annals.sagas.state import SagaState, SagaStatus
from annals.store import Append, AppendTooLarge, ConflictError, EventStore, StoreError
from annals.telemetry import metrics

_log = structlog.get_logger(__name__)

_CACHED = 5_000
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_SOURCE = "saga-orchestrator"
# What a saga may have once more on its way back: why, and what becomes of each of its steps.
_WAY_BACK_BYTES = 100_000
# What makes it as large as its steps and people like.
_LARGE = (EventRaised, SagaResumed, StepCompleted)


@dataclass(frozen=True, slots=True)
class Transition:
    """What happened to a saga, and when if that is not now."""

    event: EventData
    at: datetime | None = None


Decided = Sequence[EventData] | Sequence[Transition]
Decide = Callable[[SagaState], Decided]


@dataclass(frozen=True, slots=True)
class SagaKey:
    """Which saga, on whose behalf; what its events carry."""

    id: str
    tenant: str
    user: str | None = None
    correlation_id: str | None = None

    @property
    def stream(self) -> StreamId:
        """The saga's stream."""
        return StreamId.of(self.tenant, SagaState.aggregate_type, self.id)

    @classmethod
    def of(cls, call: Mapping[str, Any]) -> SagaKey:
        """The key that the engine gives to each activity."""
        return cls(call["id"], call["tenant"], call.get("user"), call.get("correlation_id"))


class SagaHistory:
    """Appends to the streams of sagas, each transition once however often it is told."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._locks: KeyedLocks[StreamId] = KeyedLocks()
        self._known: dict[StreamId, tuple[int, SagaState]] = {}

    async def load(self, key: SagaKey, *, certain: bool = True) -> tuple[int, SagaState]:
        """The saga as it is now, with its stream's version; version 0 when there is none.

        A missing stream is confirmed by a second read unless `certain` is False. Raises StreamUnreadable for
        one that only a newer release can read, and the errors of the store.
        """
        head, _ = await self._store.load(key.stream, certain=certain)
        if head is None:
            return 0, SagaState()
        return head.version, await stored_state(self._store, REGISTRY, SagaState, key.stream, head)

    async def decide(
        self, key: SagaKey, decide: Decide, *, traceparent: str | None = None, user: str | None = None
    ) -> SagaState:
        """Append what `decide` says of the saga as it is now; gives the saga after that.

        `decide` may be called several times. Raises what it raises, and the errors of the store.
        """
        async with self._locks.hold(key.stream):
            # Forgotten until it is known what came of this.
            known = self._known.pop(key.stream, None)
            while True:
                version, state = known or await self.load(key)
                try:
                    said = [one if isinstance(one, Transition) else Transition(one) for one in decide(state)]
                except Exception:
                    if known is None:
                        raise
                    said = []
                if not said:
                    if known is None:
                        self._remember(key.stream, version, state)
                        return state
                    # An append would find out what another replica appended since. Without one, only what
                    # is certainly so is refused, or left as it is.
                    known = None
                    continue
                after = state
                for one in said:
                    after = after.apply(one.event)
                try:
                    await self._store.append(
                        Append(
                            key.stream,
                            tuple(_envelope(key, one, traceparent, user) for one in said),
                            version,
                            after.model_dump(mode="json"),
                            SagaState.state_schema,
                            reserve=_reserve(said, after),
                        )
                    )
                except ConflictError:
                    # Somebody else wrote, or a reply to our own write was lost: `decide` will tell.
                    known = None
                    continue
                for one in said:
                    metrics.SAGA_TRANSITIONS.labels(after.saga_type, one.event.event_type).inc()
                self._remember(key.stream, version + len(said), after)
                return after

    async def record(
        self, key: SagaKey, entries: Sequence[Mapping[str, Any]], traceparent: str | None, run: int = 0
    ) -> SagaState:
        """Append those of the engine's entries that are news, however long the store is away.

        What the workflow of another `run` than the saga's tells is none: another goes on in its place. Raises
        AppendTooLarge: of what the store will never take the workflow is to know.
        """
        told = [_decode(entry) for entry in entries]

        def news(state: SagaState) -> list[Transition]:
            said: list[Transition] = []
            if state.run != run:
                return said
            for one in told:
                for event in state.record(one.event):
                    said.append(Transition(event, one.at))
                    state = state.apply(event)
            return said

        attempt = 0
        while True:
            try:
                return await self.decide(key, news, traceparent=traceparent)
            except AppendTooLarge:
                raise
            except StoreError as error:
                # To give up here would leave the saga's history with a hole.
                _log.warning("a transition cannot be recorded yet", saga=key.id, error=str(error))
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1

    def _remember(self, stream: StreamId, version: int, state: SagaState) -> None:
        self._known.pop(stream, None)
        if not state.status.ended:
            self._known[stream] = (version, state)
            if len(self._known) > _CACHED:
                del self._known[next(iter(self._known))]


def _reserve(said: Sequence[Transition], after: SagaState) -> int:
    """How much is to be left for taking the saga back; a cancel or an end may have that too."""
    grows = after.status is SagaStatus.RUNNING and any(isinstance(one.event, _LARGE) for one in said)
    return _WAY_BACK_BYTES if grows else 0


def _decode(entry: Mapping[str, Any]) -> Transition:
    event = REGISTRY.classes[entry["type"]].model_validate(entry["data"])
    return Transition(event, datetime.fromisoformat(entry["at"]) if entry["at"] else None)


def _envelope(key: SagaKey, said: Transition, traceparent: str | None, user: str | None) -> DomainEvent:
    return DomainEvent(
        event_type=said.event.event_type,
        event_version=said.event.event_version,
        timestamp=said.at or datetime.now(UTC),
        source=_SOURCE,
        tenant_id=key.tenant,
        user_id=user or key.user,
        correlation_id=key.correlation_id or key.id,
        causation_id=key.id,
        traceparent=traceparent,
        aggregate_type=SagaState.aggregate_type,
        aggregate_id=key.id,
        data=said.event.model_dump(mode="json"),
    )
