"""Loads sagas from their streams in the event store, and appends what is decided on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog

from annals.aggregates.keyed_locks import KeyedLocks
from annals.aggregates.stored_state import stored_state
from annals.events import DomainEvent, EventData, StreamId
from annals.sagas.asker import NOBODY, Asker
from annals.sagas.events import REGISTRY, EventRaised, SagaFailed, SagaResumed, StepCompleted
from annals.sagas.state import SagaState, SagaStatus
from annals.store import Append, AppendTooLarge, ConflictError, EventStore, StoreError
from annals.telemetry import metrics
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_CACHED = 5_000  # sagas whose state is kept in memory
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
_SOURCE = "saga-orchestrator"
# Bytes of a transaction kept free for the compensation: its reason, and the outcome of each step.
_WAY_BACK_BYTES = 100_000
# The events with data of any size, from a step's result or from a user.
_LARGE = (EventRaised, SagaResumed, StepCompleted)


@dataclass(frozen=True, slots=True)
class Transition:
    """An event of a saga, who asked for it, and when it happened if that is not now."""

    event: EventData
    asker: Asker = NOBODY
    at: datetime | None = None


Decided = Sequence[EventData] | Sequence[Transition]
Decide = Callable[[SagaState], Decided]


@dataclass(frozen=True, slots=True)
class SagaKey:
    """The id and tenant of a saga, and the user and correlation id that its events carry."""

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
        """Return the key of the saga that an activity is called for."""
        return cls(call["id"], call["tenant"], call.get("user"), call.get("correlation_id"))


class Recorded(NamedTuple):
    """A saga's state after transitions were recorded, and the events that were new to the saga."""

    state: SagaState
    news: tuple[EventData, ...]


class SagaHistory:
    """Loads sagas, and appends to their streams. A transition that is reported twice is appended once."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._locks: KeyedLocks[StreamId] = KeyedLocks()
        self._known: dict[StreamId, tuple[int, SagaState]] = {}

    async def load(self, key: SagaKey, *, certain: bool = True) -> tuple[int, SagaState]:
        """Return the version of a saga's stream and the saga's state; version 0 if there is no stream.

        A missing stream is confirmed by a second read unless `certain` is False. Raises StreamUnreadable for
        a stream that only a newer release can read, and the errors of the store.
        """
        head, _ = await self._store.load(key.stream, certain=certain)
        if head is None:
            return 0, SagaState()
        return head.version, await stored_state(self._store, REGISTRY, SagaState, key.stream, head)

    async def decide(self, key: SagaKey, decide: Decide, asker: Asker = NOBODY) -> SagaState:
        """Append the events that `decide` returns for the saga's current state; return the state after them.

        `decide` may be called several times. Raises what `decide` raises, and the errors of the store.
        """
        async with self._locks.hold(key.stream):
            # The cached state is dropped until the outcome of this append is known.
            known = self._known.pop(key.stream, None)
            while True:
                version, state = known or await self.load(key)
                try:
                    said = [
                        one if isinstance(one, Transition) else Transition(one, asker)
                        for one in decide(state)
                    ]
                except Exception:
                    if known is None:
                        raise
                    said = []
                if not said:
                    if known is None:
                        self._remember(key.stream, version, state)
                        return state
                    # The cached state may miss what another replica appended. An append would find that out.
                    # Without one, the decision is made again on the stored state.
                    known = None
                    continue
                after = state
                for one in said:
                    after = after.apply(one.event)
                try:
                    await self._store.append(
                        Append(
                            key.stream,
                            tuple(_envelope(key, one) for one in said),
                            version,
                            after.model_dump(mode="json"),
                            SagaState.state_schema,
                            reserve=_reserve(said, after),
                        )
                    )
                except ConflictError:
                    # Another replica wrote, or the reply to our own write was lost: `decide` finds out which.
                    known = None
                    continue
                for one in said:
                    metrics.SAGA_TRANSITIONS.labels(after.saga_type, one.event.event_type).inc()
                    if isinstance(one.event, SagaFailed):
                        # The metric, on which the alert is, has neither the saga's id nor its tenant.
                        _log.error(
                            "a saga failed: some steps are not compensated",
                            saga=key.id,
                            saga_type=after.saga_type,
                            tenant=key.tenant,
                            left=list(one.event.left),
                        )
                self._remember(key.stream, version + len(said), after)
                return after

    async def record(
        self, key: SagaKey, entries: Sequence[Mapping[str, Any]], traceparent: str | None, run: int = 0
    ) -> SagaState:
        """Append the engine's entries that the saga does not know yet, however long the store is away.

        Entries from another `run` than the saga's current one are dropped: another workflow runs the saga.
        Raises AppendTooLarge, so that the workflow learns that the store will never take them.
        """
        return (await self.record_news(key, entries, traceparent, run)).state

    async def record_news(
        self, key: SagaKey, entries: Sequence[Mapping[str, Any]], traceparent: str | None, run: int = 0
    ) -> Recorded:
        """Do what `record` does, and also return which events the saga did not know yet.

        If the store does not say whether it took them, they are tried again. Those that the saga has by then
        do not count as news: another call may have recorded them.
        """
        told = [_decode(entry, traceparent) for entry in entries]
        said: list[Transition] = []

        def news(state: SagaState) -> list[Transition]:
            said.clear()
            if state.run != run:
                return said
            for one in told:
                for event in state.record(one.event):
                    said.append(Transition(event, one.asker, one.at))
                    state = state.apply(event)
            return said

        attempt, told_of = 0, Said()
        while True:
            try:
                return Recorded(await self.decide(key, news), tuple(one.event for one in said))
            except AppendTooLarge:
                raise
            except StoreError as error:
                # Giving up here would leave a hole in the saga's history.
                if told_of.is_news(error):
                    _log.warning(
                        "a transition cannot be recorded yet",
                        saga=key.id,
                        tenant=key.tenant,
                        error=str(error),
                    )
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1

    def _remember(self, stream: StreamId, version: int, state: SagaState) -> None:
        self._known.pop(stream, None)
        if not state.status.ended:
            self._known[stream] = (version, state)
            if len(self._known) > _CACHED:
                del self._known[next(iter(self._known))]


def _reserve(said: Sequence[Transition], after: SagaState) -> int:
    """Return how many bytes of a transaction to keep free for the compensation.

    Only the large events of a running saga must leave that room. Others, such as a cancel, may use it.
    """
    grows = after.status is SagaStatus.RUNNING and any(isinstance(one.event, _LARGE) for one in said)
    return _WAY_BACK_BYTES if grows else 0


def _decode(entry: Mapping[str, Any], traceparent: str | None) -> Transition:
    event = REGISTRY.classes[entry["type"]].model_validate(entry["data"])
    asker = Asker.from_json({"traceparent": traceparent} | entry.get("asker", {}))
    return Transition(event, asker, datetime.fromisoformat(entry["at"]) if entry["at"] else None)


def _envelope(key: SagaKey, said: Transition) -> DomainEvent:
    return DomainEvent(
        event_type=said.event.event_type,
        event_version=said.event.event_version,
        timestamp=said.at or datetime.now(UTC),
        source=_SOURCE,
        tenant_id=key.tenant,
        user_id=said.asker.user or key.user,
        session_id=said.asker.session,
        client=said.asker.client,
        correlation_id=key.correlation_id or key.id,
        causation_id=key.id,
        traceparent=said.asker.traceparent,
        aggregate_type=SagaState.aggregate_type,
        aggregate_id=key.id,
        data=said.event.model_dump(mode="json"),
    )
