"""Group commit: the appends that wait for a lane go into one transaction together.

The safety of the store depends on three rules:

* log keys, event keys and command keys can only be inserted, so of two transactions that want the
  same key at most one is ever applied;
* a transaction whose reply was lost is sent again *unchanged* until the store gives a definite answer.
  Whichever of the attempts is applied, the others are refused, and all hold the same commits;
* after a refusal the guarding keys are read back, and they show which appends caused it.
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

# Codes which say that nothing was tried, because the request itself is wrong for this store.
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
    """The store refuses one append of several without saying which: nothing of the batch was appended."""


class LaneTaken(Exception):
    """Another instance wrote this lane's next sequence: nothing of the batch was appended."""


@dataclass(slots=True, eq=False)
class Waiting:
    """An append that waits for its outcome, with the future that gives the caller the outcome."""

    append: Append
    previous: str
    """Hash of the stream's last event before the append."""
    size: int
    """Approximate bytes in a transaction."""
    done: asyncio.Future[Appended] = field(repr=False)
    begun: bool = False
    """Whether it is in a batch, so that its outcome is unknown until the store answers."""

    def resolve(self, appended: Appended) -> None:
        """Give the caller the result, if it still waits."""
        if not self.done.done():
            self.done.set_result(appended)

    def reject(self, error: StoreError) -> None:
        """Give the caller the error, if it still waits."""
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
        """Append a batch behind the lane's tail, and reject the appends that are refused.

        Returns the commits in the lane's order. Raises LaneTaken or OneUnfit if nothing of the batch was
        appended or ever will be. No two appends of a batch may share a stream or a command id.
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
                    # No guard explains the refusal, as when an outcome's TTL ran out before the read-back.
                    blameless = True
                    await asyncio.sleep(_RETRY_SECONDS[0])
                    continue
                # MySQL reads an outcome whose TTL ran out as absent, but refuses an insert in its place
                # until the row was cleaned up (components-contrib, state/mysql/mysql.go, setValue).
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
        # The same order in every transaction: two that lock shared keys in different orders could deadlock.
        writes.sort(key=lambda write: write.key)
        return committed, writes

    async def _transact(self, writes: Sequence[Write]) -> None:
        """Send one transaction, again if necessary, until the store gives a definite answer."""
        attempt = 0
        while True:
            try:
                return await self._sidecar.transact(self._store, writes)
            except (StateConflict, StateTooLong):
                raise
            except DaprError as error:
                # After a lost reply, a refusal of this attempt says nothing about the one before.
                if attempt == 0 and error.code in _REFUSED:
                    raise
                _log.warning("append not answered, sending it again", error=str(error), attempt=attempt)
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1

    async def _is_ours(self, lane: int, tail: int, batch: Sequence[Waiting]) -> bool:
        """Return whether a transaction was refused because it had already been applied. Raises LaneTaken."""
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
        """Reject the appends whose version or command id is taken; return the others, to be tried again."""
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
                # A commit that came between the reads of its head and its event is seen only by half, and
                # ends up here too: the next round finds both.
                remaining.append(waiting)
        return remaining

    async def _read(self, wanted: list[str]) -> dict[str, bytes]:
        """Read keys for certain, again and again until the store answers: outcomes depend on them."""
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
    """Return the reason for which the guarding keys refused an append; None if they do not explain it."""
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
    streams = [str(waiting.append.stream) for waiting in batch]
    _log.error("the state store refused an append", streams=streams, error=str(error))
    for waiting in batch:
        waiting.reject(StoreUnavailable(f"the state store refused the append: {error}"))


def _require_alone(batch: Sequence[Waiting], error: DaprError) -> None:
    if len(batch) > 1:
        raise OneUnfit(str(error)) from error
