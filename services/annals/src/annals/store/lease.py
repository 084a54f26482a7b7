"""Leases: which instance writes a lane. A lease is taken and renewed by compare-and-set.

A lease only keeps writers out of each other's way. A late owner is harmless because the keys of the log can
only be inserted. So clocks that differ cost time, at most the length of a lease, and never an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from operator import index
from typing import TypeVar

import orjson
import structlog

from annals.dapr import DaprSidecar, StateConflict, StateValue, Write
from annals.store import keys, records
from annals.store.protocol import StoreUnavailable, Undecodable
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

T = TypeVar("T")

LANES = 64
# Each writing service has its own lanes, because a lane is published to one topic, whoever publishes it.
DOMAIN_LANES = range(48)
SAGA_LANES = range(48, LANES)
ALL_LANES = range(LANES)
LEASE_SECONDS = 10.0
_PAGE = 256  # commits read at a time when the end of a lane is searched for


@dataclass(frozen=True, slots=True)
class Lease:
    """The value of a lane's lease key. `tail` is a sequence that the lane had reached at the last write."""

    owner: str
    expires: float
    tail: int

    def free(self, now: float) -> bool:
        """Return whether another instance may take the lane."""
        return self.expires <= now


class Sightings:
    """Limits how long other instances' leases are believed: a lease's length, by this process's own clock.

    The time runs from when this process first saw the lease in its present version. The clock of the
    instance that wrote it may be far ahead, and the instance may be gone: nobody waits longer than a lease's
    length for it. A living instance renews its lease within that time, whatever its clock says.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}

    def ends(self, key: str, etag: str, expires: float, seconds: float) -> float:
        """Return the wall-clock time at which a lease of `seconds` ends: at `expires` or earlier."""
        now = time.monotonic()
        seen, since = self._seen.get(key, ("", now))
        if seen != etag:
            since = now
            self._seen[key] = etag, now
        return min(expires, time.time() + since + seconds - now)


_NOBODYS = Lease("", 0.0, 0)
# Nobody takes the lane: its tail is no longer known, and a search for it could take a hole for the end.
_DAMAGED = Lease("", inf, 0)


def _decode(data: bytes) -> Lease:
    fields = orjson.loads(data)
    return Lease(str(fields["owner"]), float(fields["expires"]), index(fields["tail"]))


def _lease(lane: int, value: StateValue | None, said: Said) -> Lease:
    """Return the lease in a lane's key; a damaged one never ends."""
    if value is None:
        return _NOBODYS
    text = "a lane cannot be taken until its damaged lease is repaired"
    return _decoded_or_default(keys.lease(lane), value, _decode, _DAMAGED, text, said)


def watermark(lane: int, value: StateValue | None, said: Said) -> int:
    """Return how far a lane is published; 0 if the value is damaged, to publish the whole lane again."""
    if value is None:
        return 0
    text = "the watermark of a lane is damaged, and is taken to be 0"
    return _decoded_or_default(keys.published(lane), value, int, 0, text, said)


def _decoded_or_default(
    key: str, value: StateValue, decode: Callable[[bytes], T], otherwise: T, text: str, said: Said
) -> T:
    try:
        decoded = records.decoded(key, value.data, decode)
    except Undecodable as error:
        # A reader can do without the value, and the instance that holds the lane writes it anew.
        if said.is_news(error, key):
            _log.warning(text, error=str(error))
        return otherwise
    said.is_over(key)
    return decoded


class StoreEmptied(Exception):
    """The store has lost what this instance wrote, so what the instance remembers of it cannot be trusted."""


class Leases:
    """The leases of one store, as one owner sees them.

    `owner` is a name of the instance that outlives its process, such as a pod's name: after a restart, the
    instance takes its own lane again at once. `lanes` are the lanes that its service may write.
    """

    def __init__(self, sidecar: DaprSidecar, store: str, owner: str, lanes: range = DOMAIN_LANES) -> None:
        self._sidecar = sidecar
        self._store = store
        self._owner = owner
        self._lanes = lanes
        self._sightings = Sightings()
        self._said = Said()

    async def read(self) -> dict[int, tuple[Lease, str]]:
        """Return the lease and its etag for each of the service's lanes that was ever leased.

        A lease ends as `Sightings` says. A damaged one is free for nobody until the instance that holds the
        lane writes it anew.
        """
        by_key = {keys.lease(lane): lane for lane in self._lanes}
        values = await self._sidecar.get_bulk(self._store, list(by_key))
        leases = {}
        for key, value in values.items():
            lease = _lease(by_key[key], value, self._said)
            if lease is not _DAMAGED:
                ends = self._sightings.ends(key, value.etag, lease.expires, LEASE_SECONDS)
                lease = replace(lease, expires=ends)
            leases[by_key[key]] = (lease, value.etag)
        return dict(sorted(leases.items()))

    async def acquire(self) -> int:
        """Take a lane: the one this owner had before, else the first free one. Raises StoreUnavailable."""
        for _ in self._lanes:
            now, leases = time.time(), await self.read()
            own = [lane for lane, (lease, _) in leases.items() if lease.owner == self._owner]
            free = [lane for lane in self._lanes if lane not in leases or leases[lane][0].free(now)]
            for lane in (own + free)[:1]:
                lease, etag = leases.get(lane, (None, None))
                if await self.take(lane, lease.tail if lease else 0, etag):
                    return lane
            if not own and not free:
                raise StoreUnavailable(f"all {len(self._lanes)} lanes are leased, or have damaged leases")
        raise StoreUnavailable("no lane could be leased: other instances were faster each time")

    async def take(self, lane: int, tail: int, etag: str | None) -> bool:
        """Take one lane; returns False if another instance was faster."""
        taken = await self._write(lane, etag, LEASE_SECONDS, tail)
        if taken:
            _log.info("lane leased", lane=lane, owner=self._owner)
        return taken

    async def renew(self, lane: int, tail: int) -> bool:
        """Renew a lane's lease; returns False if it has another owner. Raises StoreEmptied if it is gone."""
        value = await self._sidecar.get(self._store, keys.lease(lane))
        if value is None:
            raise StoreEmptied(f"the lease of lane {lane} is gone, although nothing ever removes one")
        return await self._write_own(lane, value, LEASE_SECONDS, tail)

    async def release(self, lane: int, tail: int) -> None:
        """End the lease of a lane now, so that another instance can take it."""
        value = await self._sidecar.get(self._store, keys.lease(lane))
        if value is not None:
            await self._write_own(lane, value, 0.0, tail)

    async def tail(self, lane: int) -> int:
        """Return the lane's last sequence for certain; 0 if the lane is empty."""
        lease = await self._sidecar.get(self._store, keys.lease(lane))
        published = await self._sidecar.get(self._store, keys.published(lane))
        return await self.end(lane, self._hint(lane, lease, published))

    async def end(self, lane: int, seq: int) -> int:
        """Return the last sequence of a lane that has reached `seq`."""
        while True:
            page = [keys.log(lane, seq + step) for step in range(1, _PAGE + 1)]
            found = await self._sidecar.get_bulk(self._store, page)
            for key in page:
                # Only a single get proves that a commit does not exist: see DaprSidecar.get_bulk.
                if key not in found and await self._sidecar.get(self._store, key) is None:
                    return seq
                seq += 1

    async def reaches(self, lane: int, seq: int) -> bool:
        """Return whether the lane has a commit at this sequence."""
        return await self._sidecar.get(self._store, keys.log(lane, seq)) is not None

    async def tails(self, *, certain: bool) -> dict[int, int]:
        """Return the lanes that were ever written, with their tails; see `EventReader.tails`.

        A lane that lost its first commit is known by its lease or watermark, a lane that has only just
        begun by its first commit.
        """
        wanted = {lane: (keys.log(lane, 1), keys.lease(lane), keys.published(lane)) for lane in self._lanes}
        read = self._sidecar.get_certain if certain else self._sidecar.get_bulk
        values = await read(self._store, [key for its_keys in wanted.values() for key in its_keys])
        tails = {
            lane: max(int(first in values), self._hint(lane, values.get(lease), values.get(published)))
            for lane, (first, lease, published) in wanted.items()
        }
        return {lane: tail for lane, tail in tails.items() if tail}

    async def published(self, lane: int) -> int:
        """Return the lane's saved watermark."""
        value = await self._sidecar.get(self._store, keys.published(lane))
        return watermark(lane, value, self._said)

    def _hint(self, lane: int, lease: StateValue | None, published: StateValue | None) -> int:
        return max(_lease(lane, lease, self._said).tail, watermark(lane, published, self._said))

    async def _write_own(self, lane: int, value: StateValue, seconds: float, tail: int) -> bool:
        lease = _lease(lane, value, self._said)
        if lease is not _DAMAGED and lease.owner != self._owner:
            return False
        return await self._write(lane, value.etag, seconds, max(tail, lease.tail))

    async def _write(self, lane: int, etag: str | None, seconds: float, tail: int) -> bool:
        value = orjson.dumps({"owner": self._owner, "expires": time.time() + seconds, "tail": tail})
        write = Write(keys.lease(lane), value, insert_only=etag is None, etag=etag)
        try:
            await self._sidecar.save(self._store, write)
        except StateConflict:
            return False
        return True
