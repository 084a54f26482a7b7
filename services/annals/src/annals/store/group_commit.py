"""Group commit: the appends that wait for a lane go into one transaction together.

The whole safety of the store hangs on three rules here:

* a log key, an event key and a command key can only be inserted, so of two transactions that
  want the same one at most one is ever applied;
* a transaction whose reply was lost is sent again *unchanged* until the store answers for good.
  Whichever of the two is applied, the other is refused, and both hold the same commits;
* after a refusal the guarding keys are read back, and they say who is to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import grpc
import structlog

from annals.dapr import DaprError, DaprSidecar, StateConflict, StateTooLong, Write
from annals.events import Position, RecordedEvent
from annals.store import keys, records
from annals.store.protocol import (
    Append,
    Appended,
    ConflictError,
    DuplicateCommand,
    StoreError,
    StoreUnavailable,
    Undecodable,
)

_log = structlog.get_logger(__name__)

# Errors that say that nothing was tried: the request itself is wrong for this store.
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class OneUnfit(Exception):
    """The store does not take one of several, and does not say which: nothing of the batch was appended."""


class LaneTaken(Exception):
    """Another instance wrote this lane's next sequence: nothing of the batch was appended."""


@dataclass(slots=True, eq=False)
class Waiting:
    """An append and whoever waits for it."""

    append: Append
    previous: str
    """The hash of the event that the append goes behind."""
    size: int
    done: asyncio.Future[Appended] = field(repr=False)
    begun: bool = False

    def resolve(self, appended: Appended) -> None:
        """Tell the caller, if it still waits."""
        if not self.done.done():
            self.done.set_result(appended)

    def reject(self, error: StoreError) -> None:
        """Tell the caller, if it still waits."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Committed:
    """An append that is in the store, with its events as recorded."""

    waiting: Waiting
    appended: Appended
    events: list[RecordedEvent]


class GroupCommit:
    """Writes batches of appends to one lane, one transaction at a time."""

    def __init__(self, sidecar: DaprSidecar, store: str, command_ttl_seconds: int) -> None:
        self._sidecar = sidecar
        self._store = store
        self._command_ttl_seconds = command_ttl_seconds

    async def commit(self, lane: int, tail: int, batch: Sequence[Waiting]) -> list[Committed]:
        """Append a batch behind the lane's tail and settle those that are refused.

        Returns what was committed, in the lane's order. Raises LaneTaken and OneUnfit when none of it was,
        and none of it will be. No two appends of a batch may share a stream or a command id.
        """
        remaining = list(batch)
        blameless = False
        while remaining:
            committed, writes = self._prepare(lane, tail, remaining)
            try:
                await self._transact(writes)
            except StateConflict as error:
                if await self._is_ours(lane, tail, remaining):
                    return committed
                refused, remaining = remaining, await self._settle_refused(remaining)
                if len(refused) > len(remaining):
                    continue
                if not blameless:
                    # Nobody is to blame any more: an outcome's TTL ran out between the two looks.
                    blameless = True
                    await asyncio.sleep(_RETRY_SECONDS[0])
                    continue
                # MySQL reads an outcome whose TTL ran out as absent, but lets none be inserted in its place
                # before it was cleaned up (components-contrib, state/mysql/mysql.go, setValue).
                _require_alone(remaining, error)
                _reject_unfit(remaining, error)
                return []
            except DaprError as error:
                if isinstance(error, StateTooLong):
                    _require_alone(remaining, error)
                _reject_unfit(remaining, error)
                return []
            else:
                return committed
        return []

    def _prepare(self, lane: int, tail: int, batch: Sequence[Waiting]) -> tuple[list[Committed], list[Write]]:
        now = datetime.now(UTC)
        committed, writes = [], []
        for seq, waiting in enumerate(batch, start=tail + 1):
            append, position = waiting.append, Position(lane, seq)
            events = records.record(append, position, waiting.previous)
            hash_ = events[-1].hash
            committed.append(
                Committed(waiting, Appended(append.stream, append.last, position, hash_), events)
            )
            writes.append(
                Write(keys.log(lane, seq), records.encode_commit(append, now, hash_), insert_only=True)
            )
            head = records.encode_head(records.head_after(append, hash_))
            writes.append(Write(keys.head(append.stream), head))
            writes.extend(
                Write(keys.event(append.stream, event.version), event.to_json(), insert_only=True)
                for event in events
            )
            if append.command_id is not None:
                writes.append(
                    Write(
                        keys.command(append.stream.tenant, append.command_id),
                        records.encode_outcome(append, position),
                        insert_only=True,
                        ttl_seconds=self._command_ttl_seconds,
                    )
                )
        # One order for everybody: two transactions that share keys must not lock them crosswise.
        writes.sort(key=lambda write: write.key)
        return committed, writes

    async def _transact(self, writes: Sequence[Write]) -> None:
        """Send one transaction until the store has answered it for good."""
        attempt = 0
        while True:
            try:
                return await self._sidecar.transact(self._store, writes)
            except (StateConflict, StateTooLong):
                raise
            except DaprError as error:
                # After a lost reply even a refusal says nothing of the attempt before it.
                if attempt == 0 and error.code in _REFUSED:
                    raise
                _log.warning("append not answered, sending it again", error=str(error), attempt=attempt)
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1

    async def _is_ours(self, lane: int, tail: int, batch: Sequence[Waiting]) -> bool:
        """Whether a refused transaction was refused because it had been applied already."""
        key = keys.log(lane, tail + 1)
        found = (await self._read([key])).get(key)
        if found is None:
            return False
        try:
            commit = records.decoded(
                key, found, partial(records.decode_commit, position=Position(lane, tail + 1))
            )
        except Undecodable as error:
            raise LaneTaken(str(error)) from error
        if commit.commit_id != batch[0].append.events[0].event_id:
            raise LaneTaken(f"lane {lane} was written by another instance at {tail + 1}")
        return True

    async def _settle_refused(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """Answer the appends whose stream or command id was taken; the others may try again."""
        guards = []
        for waiting in batch:
            append = waiting.append
            guards += [keys.event(append.stream, append.first), keys.head(append.stream)]
            if append.command_id is not None:
                guards.append(keys.command(append.stream.tenant, append.command_id))
        values = await self._read(guards)
        remaining = []
        for waiting in batch:
            if (why := _blame(waiting.append, values)) is not None:
                waiting.reject(why)
            else:
                # Also what came between the reads of its head and of its event: next time both are there.
                remaining.append(waiting)
        return remaining

    async def _read(self, wanted: list[str]) -> dict[str, bytes]:
        """Read back what decides an outcome: until it answers, nothing can be said."""
        attempt = 0
        while True:
            try:
                values = await self._sidecar.get_certain(self._store, wanted)
            except DaprError as error:
                _log.warning("read back failed, asking again", error=str(error))
            else:
                return {key: value.data for key, value in values.items()}
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1


def _blame(append: Append, values: Mapping[str, bytes]) -> StoreError | None:
    """Why an append was refused, by its guards; None where it was not for them."""
    head = keys.head(append.stream)
    try:
        if append.command_id is not None:
            command = keys.command(append.stream.tenant, append.command_id)
            if command in values:
                return DuplicateCommand(records.decoded(command, values[command], records.decode_outcome))
        if keys.event(append.stream, append.first) in values and head in values:
            actual = records.decoded(head, values[head], records.decode_head).version
            return ConflictError(append.stream, append.expected_version, actual)
    except Undecodable as error:
        return error
    return None


def _reject_unfit(batch: Sequence[Waiting], error: DaprError) -> None:
    _log.error("the state store refused an append", error=str(error), commits=len(batch))
    for waiting in batch:
        waiting.reject(StoreUnavailable(f"the state store refused the append: {error}"))


def _require_alone(batch: Sequence[Waiting], error: DaprError) -> None:
    if len(batch) > 1:
        raise OneUnfit(str(error)) from error
