"""Signs the log at intervals: writes a checkpoint of every lane that has new commits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from annals.audit.checkpoint import Checkpoint, SigningKey, rolled
from annals.dapr import DaprError, DaprSidecar, StateConflict, Write
from annals.store import DaprEventReader, StoreError, Undecodable, keys, records

_log = structlog.get_logger(__name__)

_PAGE = 1_000  # commits in one read
_COMMITS_A_CHECKPOINT = 10_000  # more commits make another checkpoint


class Checkpointer:
    """Writes a checkpoint of every lane that has new commits. Any number of replicas may run one.

    A checkpoint follows from the log and the checkpoint before it: if two replicas write the same one, the
    second is refused, and nothing is lost.
    """

    def __init__(
        self,
        sidecar: DaprSidecar,
        store_name: str,
        signing_key: Callable[[], Awaitable[SigningKey]],
        every_seconds: float,
    ) -> None:
        self._sidecar = sidecar
        self._store_name = store_name
        self._store = DaprEventReader(sidecar, store_name)
        self._signing_key = signing_key
        self._every_seconds = every_seconds

    async def run(self) -> None:
        """Sign the lanes at intervals until cancelled; what cannot be signed now is signed the next time."""
        while True:
            try:
                await self.sign()
            except (DaprError, StoreError, ValueError) as error:
                _log.warning("the log cannot be signed now", error=str(error))
            await asyncio.sleep(self._every_seconds)

    async def sign(self) -> None:
        """Sign every lane up to its end."""
        key = await self._signing_key()
        for lane, tail in (await self._store.tails()).items():
            try:
                while await self._sign_lane(lane, key, tail):
                    pass
            except Undecodable as error:
                _log.error("a lane cannot be signed", lane=lane, error=str(error))

    async def _sign_lane(self, lane: int, key: SigningKey, tail: int) -> bool:
        """Write one checkpoint of a lane; return whether there may be more to sign.

        The lane is known to have reached `tail`, so a log that ends before it has lost a commit.
        """
        if await self._store.being_imported([lane]):
            return False  # the backup brings its own checkpoints
        last_key = keys.checkpoint(lane)
        value = await self._sidecar.get(self._store_name, last_key)
        last = records.decoded(last_key, value.data, Checkpoint.from_json) if value else None
        seq, digest = (last.seq, last.digest) if last else (0, "")
        first = seq
        while seq - first < _COMMITS_A_CHECKPOINT:
            commits = await self._store.read_log(lane, seq + 1, seq + _PAGE)
            for commit in commits:
                digest = rolled(digest, commit)
            seq += len(commits)
            if len(commits) < _PAGE:
                if seq < tail:
                    what = {"lane": lane, "missing": seq + 1, "tail": tail}
                    _log.error("a commit is missing, and nothing behind it can be signed", **what)
                break
        if seq == first:
            return False
        checkpoint = key.sign(
            Checkpoint(
                lane,
                last.number + 1 if last else 1,
                seq,
                digest,
                datetime.now(UTC).isoformat(),
                last.signature if last else "",
            )
        )
        data = checkpoint.to_json()
        try:
            await self._sidecar.transact(
                self._store_name,
                [
                    Write.replacing(last_key, data, value),
                    Write(keys.checkpoint(lane, checkpoint.number), data, insert_only=True),
                ],
            )
        except StateConflict:
            return False
        # This log line is a witness outside the store: it exposes a checkpoint replaced by an older one.
        _log.info("checkpoint", lane=lane, number=checkpoint.number, seq=seq, digest=digest, key=key.key_id)
        return seq - first >= _COMMITS_A_CHECKPOINT
