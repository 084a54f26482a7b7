"""A broker in memory: topics, consumer groups, and disorder that a test chooses.

It is a thing of its own: sidecars come and go, it stays; and it may be away while they are there.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from annals.testing.fake.clock import Clock, SystemClock
from annals.testing.fake.tasks import Signal

_KEYS = ("partitionKey", "__key")


class BrokerDown(Exception):
    """The broker is away."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message as the broker keeps it."""

    body: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """Records of one key are given out in their order, one at a time; those of none in parallel."""
        return next((self.metadata[name] for name in _KEYS if name in self.metadata), None)


@dataclass(frozen=True, slots=True)
class Disorder:
    """What a broker does to deliveries. The same seed does the same to the same messages.

    Each is a probability: to lose a message, to give it out twice, to hold it back for `delay`, to let up to
    `window` later ones pass (or `delay`, when no later ones come).
    """

    seed: int
    duplicate: float = 0.0
    reorder: float = 0.0
    lose: float = 0.0
    late: float = 0.0
    window: int = 8
    delay: timedelta = timedelta(milliseconds=200)

    def fates(self, group: str, offset: int, now: datetime) -> list[Fate]:
        """When a group is given a message: never, once, twice."""
        chance = random.Random(f"{self.seed}/{group}/{offset}")  # noqa: S311  # a test chooses it
        if chance.random() < self.lose:
            return []
        copies = 2 if chance.random() < self.duplicate else 1
        fates = []
        for _ in range(copies):
            behind = chance.randint(1, self.window) if chance.random() < self.reorder else 0
            held = chance.random() < self.late
            fates.append(Fate(offset + behind, now + self.delay if behind or held else now, held))
        return fates


@dataclass(frozen=True, slots=True)
class Fate:
    """To be given out after the message of an offset was published, or after a time; `held`: only that."""

    after: int
    until: datetime
    held: bool = False


@dataclass(eq=False, slots=True)
class Lease:
    """A record that somebody works on. Void once the broker was away: then it is given out again."""

    record: Record
    offset: int
    attempt: int
    fate: Fate
    parked: bool = False


class Group:
    """What one consumer group has still to be given of one topic; its members share the work."""

    def __init__(self, broker: FakeBroker, topic: str, name: str, start: int) -> None:
        self._broker = broker
        self._topic = topic
        self._name = name
        self._read = start
        self._waiting: list[Lease] = []
        self._leased: list[Lease] = []
        self.members = 0

    async def take(self, most: int) -> list[Lease]:
        """Wait for records, and take up to so many. They are given back when they are not `done`."""
        return await self._broker.signal.until(lambda: self._ready(most))

    def done(self, lease: Lease) -> None:
        """It was worked off. Of a void lease nothing is known: it is given out again."""
        if lease in self._leased:
            self._leased.remove(lease)
            self._broker.signal.notify()

    def give_back(self, lease: Lease, after: timedelta = timedelta(0)) -> None:
        """It is given out again, to whoever asks first."""
        if lease not in self._leased:
            return
        self._leased.remove(lease)
        if self._broker.max_deliver is None or lease.attempt < self._broker.max_deliver:
            until = self._broker.clock.now() + after
            self._wait(Lease(lease.record, lease.offset, lease.attempt + 1, Fate(0, until, held=True)))
        self._broker.signal.notify()

    def void(self) -> None:
        """Nothing that is under way counts any more."""
        for lease in tuple(self._leased):
            self.give_back(lease)

    @property
    def quiet(self) -> bool:
        """Whether nothing happens here unless the clock moves, or somebody comes."""
        working = any(not lease.parked for lease in self._leased)
        return not working and (not self.members or not self._due())

    @property
    def backlog(self) -> int:
        """How many messages are not worked off yet."""
        self._fetch()
        return len(self._waiting) + len(self._leased)

    def _fetch(self) -> None:
        log = self._broker.log(self._topic)
        disorder, now = self._broker.disorder, self._broker.clock.now()
        for offset in range(self._read, len(log)):
            fates = [Fate(offset, now)] if disorder is None else disorder.fates(self._name, offset, now)
            for fate in fates:
                self._wait(Lease(log[offset], offset, 1, fate))
        self._read = len(log)

    def _wait(self, lease: Lease) -> None:
        bisect.insort(
            self._waiting, lease, key=lambda other: (max(other.fate.after, other.offset), other.offset)
        )
        if lease.fate.until > self._broker.clock.now():
            self._broker.look_again(lease.fate.until)

    def _due(self, most: int = 1) -> list[Lease]:
        if self._broker.is_down:
            return []
        self._fetch()
        now, published = self._broker.clock.now(), self._read - 1
        busy = {lease.record.key for lease in self._leased} - {None}
        due = []
        for lease in self._waiting:
            fate = lease.fate
            if fate.until > now and (fate.held or published < fate.after):
                # Only disorder lets a record pass another of its key.
                if self._broker.disorder is None and lease.record.key is not None:
                    busy.add(lease.record.key)
                continue
            if lease.record.key not in busy:
                due.append(lease)
                if len(due) == most:
                    break
        return due

    def _ready(self, most: int) -> list[Lease]:
        taken = self._due(most)
        for lease in taken:
            self._waiting.remove(lease)
            self._leased.append(lease)
        return taken


class FakeBroker:
    """Topics and consumer groups. Sidecars that are given the same one share it.

    It is one broker: whichever pub/sub component names a topic, it is the same topic. `pubsubs` names the
    components that there are; by default any name is one. A message that a consumer fails at, and for which
    there are no retries and no dead letters, is given out again after `redelivery`, up to `max_deliver` times
    in all. A new group gets what there was before it, unless `history` is false.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        disorder: Disorder | None = None,
        pubsubs: frozenset[str] | None = None,
        redelivery: timedelta = timedelta(milliseconds=100),
        max_deliver: int | None = None,
        history: bool = True,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.disorder = disorder
        self.pubsubs = pubsubs
        self.redelivery = redelivery
        self.max_deliver = max_deliver
        self.signal = Signal()
        self.is_down = False
        self._history = history
        self._logs: dict[str, list[Record]] = {}
        self._groups: dict[tuple[str, str, str], Group] = {}
        self.clock.before_moving("the broker", self.idle)

    def log(self, topic: str) -> list[Record]:
        """All that was ever published to a topic."""
        return self._logs.setdefault(topic, [])

    def publish(self, topic: str, record: Record) -> None:
        """Take a message. Raises BrokerDown."""
        if self.is_down:
            raise BrokerDown("the broker is down")
        self.log(topic).append(record)
        self.signal.notify()

    def group(self, pubsub: str, topic: str, name: str) -> Group:
        """A consumer group of a topic; it is made when it is asked for first."""
        key = (pubsub, topic, name)
        if key not in self._groups:
            start = 0 if self._history else len(self.log(topic))
            self._groups[key] = Group(self, topic, "/".join(key), start)
        return self._groups[key]

    def down(self) -> None:
        """It is away: nothing can be published, and of what is under way it never hears the end."""
        self.is_down = True
        for group in self._groups.values():
            group.void()

    def up(self) -> None:
        """It is back, with all that it was given."""
        self.is_down = False
        self.signal.notify()

    def look_again(self, at: datetime) -> None:
        """Something may be given out at a moment."""

        async def look() -> None:
            self.signal.notify()

        self.clock.call_at(at, look)

    async def idle(self) -> None:
        """Wait until all that can be given out, and worked off, has been."""

        def quiet() -> bool:
            return all(group.quiet for group in self._groups.values())

        await self.signal.until(quiet)
