"""A broker in memory: topics, consumer groups, and disorder that a test chooses.

The broker is independent of the sidecars: it outlives them, and it may be down while they run.
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
    """The broker is down."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message as the broker keeps it."""

    body: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str | None:
        """The partition key.

        Records with the same key are delivered in order, one at a time; records without a key, in parallel.
        """
        return next((self.metadata[name] for name in _KEYS if name in self.metadata), None)


@dataclass(frozen=True, slots=True)
class Disorder:
    """Disorder in a broker's deliveries. The same seed treats the same messages in the same way.

    `lose`, `duplicate`, `late` and `reorder` are probabilities. A late message is held back for `delay`. A
    reordered message lets up to `window` later messages pass, but waits no longer than `delay`.
    """

    seed: int
    duplicate: float = 0.0
    reorder: float = 0.0
    lose: float = 0.0
    late: float = 0.0
    window: int = 8
    delay: timedelta = timedelta(milliseconds=200)

    def fates(self, group: str, offset: int, now: datetime) -> list[Fate]:
        """Return the deliveries to `group` of the message at `offset`: none, one or two."""
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
    """When a delivery is due: at `until`, or earlier if a message is published at the offset `after`.

    With `held`, the delivery is due at `until` only.
    """

    after: int
    until: datetime
    held: bool = False


@dataclass(eq=False, slots=True)
class Lease:
    """A delivery of a record. It is void once the broker goes down: the record is then delivered again."""

    record: Record
    offset: int
    attempt: int
    fate: Fate
    parked: bool = False


class Group:
    """A consumer group of one topic, with the deliveries it still has to make. Its members share them."""

    def __init__(self, broker: FakeBroker, topic: str, name: str, start: int) -> None:
        self._broker = broker
        self._topic = topic
        self._name = name
        self._read = start
        self._waiting: list[Lease] = []
        self._leased: list[Lease] = []
        self.members = 0

    async def take(self, most: int) -> list[Lease]:
        """Wait for records that are due, and take up to `most` of them.

        The caller passes each to `done` or `give_back`.
        """
        return await self._broker.signal.until(lambda: self._ready(most))

    def done(self, lease: Lease) -> None:
        """Mark a delivery as done. A void lease has no effect: its record is delivered again."""
        if lease in self._leased:
            self._leased.remove(lease)
            self._broker.signal.notify()

    def give_back(self, lease: Lease, after: timedelta = timedelta(0)) -> None:
        """Deliver the record again, to any member, unless `max_deliver` is reached.

        A lease that is done or void has no effect.
        """
        if lease not in self._leased:
            return
        self._leased.remove(lease)
        if self._broker.max_deliver is None or lease.attempt < self._broker.max_deliver:
            until = self._broker.clock.now() + after
            self._wait(Lease(lease.record, lease.offset, lease.attempt + 1, Fate(0, until, held=True)))
        self._broker.signal.notify()

    def void(self) -> None:
        """Void all leases, so that their records are delivered again."""
        for lease in tuple(self._leased):
            self.give_back(lease)

    @property
    def quiet(self) -> bool:
        """Whether nothing happens in this group unless the clock moves or a member joins."""
        working = any(not lease.parked for lease in self._leased)
        return not working and (not self.members or not self._due())

    @property
    def backlog(self) -> int:
        """The number of deliveries that are not done yet."""
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
                # Without disorder, a record that is not due holds back later ones with its key.
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
    """Topics and consumer groups. Sidecars that are given the same broker share them.

    A topic is the same topic whichever pub/sub component names it. `pubsubs` are the names of the existing
    components; by default any name exists. If a delivery fails for good and there is no dead-letter topic,
    the message is delivered again after `redelivery`, up to `max_deliver` times in all. A new group starts at
    the topic's first message, or, if `history` is false, at the next one.
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
        """Return all messages that were ever published to a topic."""
        return self._logs.setdefault(topic, [])

    def publish(self, topic: str, record: Record) -> None:
        """Publish a message to a topic. Raises BrokerDown."""
        if self.is_down:
            raise BrokerDown("the broker is down")
        self.log(topic).append(record)
        self.signal.notify()

    def group(self, pubsub: str, topic: str, name: str) -> Group:
        """Return a consumer group of a topic; the first call creates it."""
        key = (pubsub, topic, name)
        if key not in self._groups:
            start = 0 if self._history else len(self.log(topic))
            self._groups[key] = Group(self, topic, "/".join(key), start)
        return self._groups[key]

    def down(self) -> None:
        """Take the broker down: nothing can be published, and the outcome of deliveries under way is lost."""
        self.is_down = True
        for group in self._groups.values():
            group.void()

    def up(self) -> None:
        """Bring the broker back, with all messages that it was given."""
        self.is_down = False
        self.signal.notify()

    def look_again(self, at: datetime) -> None:
        """Make the consumers look again at `at`, when a record may be due."""

        async def look() -> None:
            self.signal.notify()

        self.clock.call_at(at, look)

    async def idle(self) -> None:
        """Wait until everything that can be delivered now has been delivered and processed."""

        def quiet() -> bool:
            return all(group.quiet for group in self._groups.values())

        await self.signal.until(quiet)
