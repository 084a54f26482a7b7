"""Which instance writes a lane: a lease, taken and renewed by compare-and-set.

A lease only keeps writers from getting in each other's way. What makes a late owner harmless is
that the keys of the log can only be inserted, so clocks that differ cost time, a lease's length at the
most, and never an event.
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

_log = structlog.get_logger(__name__)

T = TypeVar("T")

LANES = 64
# A lane is published to one topic, whoever publishes it: each writing service has lanes of its own.
DOMAIN_LANES = range(48)
SAGA_LANES = range(48, LANES)
ALL_LANES = range(LANES)
LEASE_SECONDS = 10.0
_PAGE = 256


@dataclass(frozen=True, slots=True)
class Lease:
    """What a lane's lease key says. `tail` is a sequence that the lane had reached then."""

    owner: str
    expires: float
    tail: int

    def free(self, now: float) -> bool:
        """Whether another may take the lane."""
        return self.expires <= now


class Sightings:
    """How long leases of others are believed: from when this process saw each as it is, by its own clock.

    The clock of whoever wrote one may be ahead of all others, and whoever it was may be gone: nobody waits
    for longer than a lease's length. Who is alive renews theirs before, whatever its clock says.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}

    def ends(self, key: str, etag: str, expires: float, seconds: float) -> float:
        """When a lease of so many seconds ends, by the clock on the wall: at `expires` at the latest."""
        now = time.monotonic()
        seen, since = self._seen.get(key, ("", now))
        if seen != etag:
            since = now
            self._seen[key] = etag, now
        return min(expires, time.time() + since + seconds - now)


_NOBODYS = Lease("", 0.0, 0)
# Nobody takes it: how far the lane had come is not known, and a hole would be taken for its end.
_DAMAGED = Lease("", inf, 0)


def _decode(data: bytes) -> Lease:
    fields = orjson.loads(data)
    return Lease(str(fields["owner"]), float(fields["expires"]), index(fields["tail"]))


def _lease(lane: int, value: StateValue | None) -> Lease:
    """What a lane's lease key says; one that was damaged never ends."""
    if value is None:
        return _NOBODYS
    said = "nobody takes a lane whose lease was damaged, until it is mended"
    return _told(keys.lease(lane), value, _decode, _DAMAGED, said)


def watermark(lane: int, value: StateValue | None) -> int:
    """How far a lane is published, as its key says; where that was damaged all of it is published again."""
    if value is None:
        return 0
    return _told(keys.published(lane), value, int, 0, "a lane is looked at without its watermark")


def _told(key: str, value: StateValue, decode: Callable[[bytes], T], otherwise: T, said: str) -> T:
    try:
        return records.decoded(key, value.data, decode)
    except Undecodable as error:
        # Who only reads does without it, and who holds the lane makes it whole.
        _log.warning(said, error=str(error))
        return otherwise


def _hint(lane: int, lease: StateValue | None, published: StateValue | None) -> int:
    return max(_lease(lane, lease).tail, watermark(lane, published))


class StoreEmptied(Exception):
    """What this instance wrote is not in the store any more; nor may be what else it remembers of it."""


class Leases:
    """The leases of one store, as one owner sees them.

    `owner` names the instance and outlives its process (a pod's name): an instance that restarts
    takes its own lane again at once. `lanes` are those that its service may write.
    """

    def __init__(self, sidecar: DaprSidecar, store: str, owner: str, lanes: range = DOMAIN_LANES) -> None:
        self._sidecar = sidecar
        self._store = store
        self._owner = owner
        self._lanes = lanes
        self._sightings = Sightings()

    async def read(self) -> dict[int, tuple[Lease, str]]:
        """Every lane of the service that was ever leased, with its lease as it is believed, and its etag.

        One whose lease was damaged is free for nobody until who holds the lane makes it whole.
        """
        by_key = {keys.lease(lane): lane for lane in self._lanes}
        values = await self._sidecar.get_bulk(self._store, list(by_key))
        leases = {}
        for key, value in values.items():
            lease = _lease(by_key[key], value)
            if lease is not _DAMAGED:
                ends = self._sightings.ends(key, value.etag, lease.expires, LEASE_SECONDS)
                lease = replace(lease, expires=ends)
            leases[by_key[key]] = (lease, value.etag)
        return dict(sorted(leases.items()))

    async def acquire(self) -> int:
        """Take a lane: one's own, else the first that is free. Raises StoreUnavailable."""
        for _ in self._lanes:
            now, leases = time.time(), await self.read()
            own = [lane for lane, (lease, _) in leases.items() if lease.owner == self._owner]
            free = [lane for lane in self._lanes if lane not in leases or leases[lane][0].free(now)]
            for lane in (own + free)[:1]:
                lease, etag = leases.get(lane, (None, None))
                if await self.take(lane, lease.tail if lease else 0, etag):
                    return lane
            if not own and not free:
                raise StoreUnavailable(f"all {len(self._lanes)} lanes are leased, or their leases damaged")
        raise StoreUnavailable("no lane could be leased: other instances were faster each time")

    async def take(self, lane: int, tail: int, etag: str | None) -> bool:
        """Take one lane, unless another was faster."""
        taken = await self._write(lane, etag, LEASE_SECONDS, tail)
        if taken:
            _log.info("lane leased", lane=lane, owner=self._owner)
        return taken

    async def renew(self, lane: int, tail: int) -> bool:
        """Keep the lane for another while; False when it went to another owner. Raises StoreEmptied."""
        value = await self._sidecar.get(self._store, keys.lease(lane))
        if value is None:
            raise StoreEmptied(f"the lease of lane {lane} is gone, which nobody removes")
        return await self._write_own(lane, value, LEASE_SECONDS, tail)

    async def release(self, lane: int, tail: int) -> None:
        """Leave the lane to whoever comes next."""
        value = await self._sidecar.get(self._store, keys.lease(lane))
        if value is not None:
            await self._write_own(lane, value, 0.0, tail)

    async def tail(self, lane: int) -> int:
        """Return the lane's last sequence; 0 if the lane is empty."""
        lease = await self._sidecar.get(self._store, keys.lease(lane))
        published = await self._sidecar.get(self._store, keys.published(lane))
        return await self.end(lane, _hint(lane, lease, published))

    async def end(self, lane: int, seq: int) -> int:
        """Return the last sequence of a lane that has reached `seq`."""
        while True:
            page = [keys.log(lane, seq + step) for step in range(1, _PAGE + 1)]
            found = await self._sidecar.get_bulk(self._store, page)
            for key in page:
                # Where the log ends one read by itself says so: see DaprSidecar.get_bulk.
                if key not in found and await self._sidecar.get(self._store, key) is None:
                    return seq
                seq += 1

    async def reaches(self, lane: int, seq: int) -> bool:
        """Whether the lane has a commit at this sequence."""
        return await self._sidecar.get(self._store, keys.log(lane, seq)) is not None

    async def tails(self, *, certain: bool) -> dict[int, int]:
        """Return the lanes that were ever written: see `EventReader.tails`.

        A lane that lost its first commit is known by its lease or watermark, one that was imported by
        its first commit alone.
        """
        wanted = {lane: (keys.log(lane, 1), keys.lease(lane), keys.published(lane)) for lane in self._lanes}
        read = self._sidecar.get_certain if certain else self._sidecar.get_bulk
        values = await read(self._store, [key for its_keys in wanted.values() for key in its_keys])
        tails = {
            lane: max(int(first in values), _hint(lane, values.get(lease), values.get(published)))
            for lane, (first, lease, published) in wanted.items()
        }
        return {lane: tail for lane, tail in tails.items() if tail}

    async def published(self, lane: int) -> int:
        """The lane's saved watermark."""
        return watermark(lane, await self._sidecar.get(self._store, keys.published(lane)))

    async def _write_own(self, lane: int, value: StateValue, seconds: float, tail: int) -> bool:
        lease = _lease(lane, value)
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
