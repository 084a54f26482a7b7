"""The event store on the fake sidecar, with dying writers and lost replies, checked against a dict."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from annals.dapr import DaprSidecar
from annals.events import StreamId
from annals.store import Appended, ConflictError, DaprEventStore, DuplicateCommand
from annals.testing.fake import FakeDapr, FakeSidecar
from conftest import until
from event_store_conformance import to_append
from event_stores import lane_held
from feed import read_feed
from fuzz.depth import DEPTH

STREAMS = st.sampled_from(
    [StreamId("acme", "thing-a"), StreamId("acme", "thing-b"), StreamId("zeta", "thing-a")]
)
KEYS = st.none() | st.sampled_from(("k1", "k2"))
WRITES = "ExecuteStateTransaction"


@asynccontextmanager
async def writing(port: int, owner: str) -> AsyncIterator[DaprEventStore]:
    """Run a store and yield it once it holds a lane; on exit it ends as a killed process does."""
    client = DaprSidecar(port)
    store = DaprEventStore(client, owner=owner)
    running = asyncio.create_task(store.run())
    try:
        await lane_held(store)
        yield store
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.close()


class Store(RuleBasedStateMachine):
    """`model` counts the events of each stream; `keyed` holds the outcome of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model: Counter[StreamId] = Counter()
        self.keyed: dict[tuple[str, str], Appended] = {}
        self.commits = 0
        self.names = itertools.count()
        self.dapr = FakeDapr()
        self.everything = AsyncExitStack()
        self.writers: list[tuple[AsyncExitStack, DaprEventStore]] = []
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.sidecar = await self.everything.enter_async_context(FakeSidecar("command", dapr=self.dapr))
        for _ in range(2):
            await self._new_writer()

    async def _new_writer(self) -> None:
        stack = AsyncExitStack()
        store = await stack.enter_async_context(writing(self.sidecar.grpc_port, f"w{next(self.names)}"))
        self.writers.append((stack, store))

    @rule(
        stream=STREAMS,
        count=st.integers(1, 3),
        key=KEYS,
        off=st.sampled_from((0, 0, 0, 1, -1)),
        who=st.booleans(),
    )
    def append(self, stream: StreamId, count: int, key: str | None, off: int, who: bool) -> None:
        """Append at the expected version or beside it, without a key or with one that may be used already."""
        self.runner.run(self._append(stream, max(0, self.model[stream] + off), count, key, int(who)))

    async def _append(self, stream: StreamId, expected: int, count: int, key: str | None, who: int) -> None:
        store = self.writers[who][1]
        known = self.keyed.get((stream.tenant, key or ""))
        append = to_append(stream, expected, count, command_id=key, fingerprint="f")
        if known is not None:
            with pytest.raises((DuplicateCommand, ConflictError)) as refused:
                await store.append(append)
            if isinstance(refused.value, DuplicateCommand):
                assert refused.value.outcome.appended == known
        elif expected != self.model[stream]:
            with pytest.raises(ConflictError) as conflict:
                await store.append(append)
            assert conflict.value.actual == self.model[stream]
        else:
            self._took(await store.append(append), count, key)

    def _took(self, appended: Appended, count: int, key: str | None) -> None:
        self.model[appended.stream] += count
        self.commits += 1
        assert appended.version == self.model[appended.stream]
        if key is not None:
            self.keyed[appended.stream.tenant, key] = appended

    @rule(
        lost=st.booleans(),
        times=st.integers(1, 2),
        code=st.sampled_from((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)),
        method=st.sampled_from((WRITES, WRITES, "BulkPublishEvent")),
    )
    def trouble(self, lost: bool, times: int, code: grpc.StatusCode, method: str) -> None:
        """Make the next writes or publishes fail, or succeed while their replies are lost."""
        if lost:
            self.sidecar.faults.lose_reply(method, code, times=times)
        else:
            self.sidecar.faults.fail(method, code, times=times)

    @rule(stream=STREAMS, key=KEYS)
    def race(self, stream: StreamId, key: str | None) -> None:
        """Have both writers append the same next version at the same time; exactly one succeeds."""
        self.runner.run(self._race(stream, key))

    async def _race(self, stream: StreamId, key: str | None) -> None:
        known = self.keyed.get((stream.tenant, key or ""))
        appends = [to_append(stream, self.model[stream], command_id=key, fingerprint="f") for _ in range(2)]
        outcomes = await asyncio.gather(
            *(store.append(one) for (_, store), one in zip(self.writers, appends, strict=True)),
            return_exceptions=True,
        )
        won = [one for one in outcomes if isinstance(one, Appended)]
        lost = [one for one in outcomes if isinstance(one, ConflictError | DuplicateCommand)]
        assert len(won) + len(lost) == len(outcomes), outcomes
        assert len(won) == (0 if known else 1)
        for appended in won:
            self._took(appended, 1, key)

    @rule(who=st.booleans(), stream=STREAMS)
    def die_while_writing(self, who: bool, stream: StreamId) -> None:
        """End a writer in the middle of an append; the append takes effect as a whole or not at all."""
        self.runner.run(self._die(int(who), stream))

    async def _die(self, who: int, stream: StreamId) -> None:
        stack, store = self.writers.pop(who)
        under_way = asyncio.create_task(store.append(to_append(stream, self.model[stream], 3)))
        for _ in range(3):
            await asyncio.sleep(0)
        await stack.aclose()
        under_way.cancel()
        await asyncio.wait([under_way])
        await self._new_writer()
        head, _ = await self.writers[-1][1].load(stream, certain=True)
        there = head.version if head else 0
        assert there in (self.model[stream], self.model[stream] + 3), "half of an append"
        self.commits += there != self.model[stream]
        self.model[stream] = there

    @invariant()
    def the_streams_are_as_noted(self) -> None:
        self.runner.run(self._look())

    async def _look(self) -> None:
        for _, store in self.writers:
            for stream, count in self.model.items():
                numbers = [event.data["number"] async for event in store.read_stream(stream)]
                assert numbers == list(range(1, count + 1))

    @rule()
    def read_everything(self) -> None:
        """Check that the feed has each commit once and that no lane has a hole."""
        self.runner.run(self._read_everything())

    async def _read_everything(self) -> None:
        seen: Counter[StreamId] = Counter()
        commits = 0
        lanes: dict[int, int] = {}
        async for commit, events in read_feed(self.writers[0][1]):
            lane, seq = commit.position.lane, commit.position.seq
            assert seq == lanes.get(lane, 0) + 1
            lanes[lane] = seq
            seen[commit.stream] += len(events)
            commits += 1
        assert commits == self.commits
        assert +seen == +self.model

    def teardown(self) -> None:
        """Check that in the end everything the surviving writers wrote is published."""
        try:
            self.runner.run(self._end())
        finally:
            self.runner.close()

    async def _end(self) -> None:
        try:
            await self._read_everything()
            store = self.writers[0][1]
            alive = {one.lane for _, one in self.writers}  # a dead one's is adopted seconds later
            own: set[str] = set()
            async for commit, events in read_feed(store):
                if commit.position.lane in alive:
                    own |= {event.event_id for event in events}

            async def published() -> bool:
                log = self.dapr.broker.log("domain-events")
                return own <= {orjson.loads(record.body)["id"] for record in log}

            await until(published, 20)
        finally:
            for stack, _ in self.writers:
                await stack.aclose()
            await self.everything.aclose()


TestStore = Store.TestCase
TestStore.settings = DEPTH
