"""Claims on business keys, which let only one saga of a type run for a business key at a time.

A claim is a key of the state store. It names the saga, and holds everything that the saga is started with.
The saga may have no stream yet, because its starter stopped half-way or is about to go on. Whoever finds such
a claim starts that saga first, so no claim is ever taken from a saga that may still begin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import NAMESPACE_URL, uuid5

import orjson
import structlog

from annals.dapr import DaprSidecar, StateConflict, Write
from annals.sagas.asker import NOBODY, Asker
from annals.sagas.events import SagaStarted
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.state import SagaState, SagaStatus
from annals.store import StreamUnreadable, Undecodable, records

_log = structlog.get_logger(__name__)

_ATTEMPTS = 20

Begin = Callable[[SagaKey, SagaStarted, Asker], Awaitable[SagaState]]


class ClaimContended(Exception):
    """Other starts changed the claim at every attempt to take it."""


class SagaRuns(Exception):
    """Another saga of the same type runs for the business key."""

    def __init__(self, key: SagaKey, state: SagaState) -> None:
        super().__init__(f"saga {key.id} runs for {state.business_key}")
        self.key = key
        self.state = state


@dataclass(frozen=True, slots=True)
class _Claim:
    key: SagaKey
    started: SagaStarted
    asker: Asker = NOBODY

    def to_json(self) -> bytes:
        started = self.started.model_dump(mode="json")
        return orjson.dumps({"id": self.key.id, "started": started, "asker": self.asker.to_json()})

    @classmethod
    def from_json(cls, tenant: str, data: bytes) -> _Claim:
        value = orjson.loads(data)
        started = SagaStarted.model_validate(value["started"])
        key = SagaKey(value["id"], tenant, started.user, started.correlation_id)
        return cls(key, started, Asker.from_json(value.get("asker", {})))


class Claims:
    """The claims in one state store."""

    def __init__(self, sidecar: DaprSidecar, store: str, history: SagaHistory) -> None:
        self._sidecar = sidecar
        self._store = store
        self._history = history

    async def holder(
        self, tenant: str, saga_type: str, business_key: str, begin: Begin
    ) -> tuple[str, SagaState] | None:
        """Return the saga that last claimed a business key, or None.

        `begin` starts that saga if it has not begun. Raises Undecodable, DaprError, the errors of the store
        and what `begin` raises.
        """
        place = _key(tenant, saga_type, business_key)
        value = await self._sidecar.get(self._store, place)
        if value is None:
            return None
        claim = records.decoded(place, value.data, partial(_Claim.from_json, tenant))
        return claim.key.id, await self._begun(claim, begin)

    async def take(self, key: SagaKey, started: SagaStarted, asker: Asker, begin: Begin) -> None:
        """Claim the business key of a saga that is about to start for `asker`.

        If another saga has the claim and has not begun, `begin` starts that saga first. Raises SagaRuns,
        ClaimContended, Undecodable, DaprError, the errors of the store and what `begin` raises. After a
        DaprError the claim may have been made; a repeat finds out.
        """
        if started.business_key is None:
            return
        place = _key(key.tenant, started.saga_type, started.business_key)
        mine = _Claim(key, started, asker).to_json()
        for _ in range(_ATTEMPTS):
            value = await self._sidecar.get(self._store, place)
            if value is not None:
                theirs = records.decoded(place, value.data, partial(_Claim.from_json, key.tenant))
                if theirs.key.id == key.id:
                    return
                state = await self._begun(theirs, begin)
                if state.runs_for(started.saga_type, started.business_key):
                    raise SagaRuns(theirs.key, state)
            try:
                await self._sidecar.save(self._store, Write.replacing(place, mine, value))
            except StateConflict:
                continue
            return
        raise ClaimContended(f"{started.business_key} is being claimed by many at once")

    async def _begun(self, claim: _Claim, begin: Begin) -> SagaState:
        _, state = await self._history.load(claim.key)
        if state.status is not SagaStatus.NONE:
            return state
        return await begin(claim.key, claim.started, claim.asker)

    async def keep(self, key: SagaKey, started: SagaStarted) -> None:
        """Claim the business key of a saga that goes on, unless another runs for it or may still begin.

        The claim may be missing after a restore, because a backup has the saga without it. Or another saga
        took it while this one had no claim, or had ended. Raises DaprError and the errors of the store.
        """
        try:
            await self.take(key, started, NOBODY, _leave_to_begin)
        except (SagaRuns, ClaimContended, StreamUnreadable, Undecodable) as error:
            # Not raised: the saga would stand still.
            _log.warning(
                "a saga goes on without its claim", saga=key.id, tenant=key.tenant, reason=str(error)
            )


async def _leave_to_begin(key: SagaKey, started: SagaStarted, _asker: Asker) -> SagaState:
    """Count a saga that may still begin as one that runs."""
    raise SagaRuns(key, SagaState().apply(started))


def _key(tenant: str, saga_type: str, business_key: str) -> str:
    return f"saga-claim/{tenant}/{saga_type}/{uuid5(NAMESPACE_URL, business_key)}"
