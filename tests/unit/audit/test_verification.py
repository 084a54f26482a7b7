"""What a verification finds in a store that somebody edited by hand."""

from __future__ import annotations

import asyncio
import base64
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from annals.audit import (
    Checkpoint,
    Checkpointer,
    Finding,
    SigningKey,
    VerificationKeys,
    last_checkpoint,
    read_checkpoints,
    verify,
)
from annals.dapr import DaprSidecar, Write
from annals.events import StreamId, chained
from annals.store import Commit, DaprEventReader, DaprEventStore, keys
from annals.testing.fake import FakeDapr, FakeSidecar, FakeState
from annals.testing.fake.state import Operation
from event_store_conformance import to_append
from event_stores import lane_held

SEED = bytes(range(32))
A, B = StreamId("default", "thing-a"), StreamId("default", "thing-b")


Sign = Callable[[], Awaitable[None]]


async def _not() -> None:
    pass


class Ledger:
    """A store of two lanes, each with a stream of five events, signed after each event."""

    def __init__(self, client: DaprSidecar, state: FakeState) -> None:
        self.client = client
        self.state = state
        self.before_last: Sign = _not
        self.seed = SEED
        self.checkpointer = Checkpointer(client, "eventstore", self._key, 60)

    async def _key(self) -> SigningKey:
        return SigningKey(base64.b64encode(self.seed).decode())

    async def fill(self) -> None:
        for stream in (A, B):
            await self.append(stream, *range(5), sign=self.checkpointer.sign)

    async def append(
        self, stream: StreamId, *versions: int, through: str | None = None, sign: Sign = _not
    ) -> None:
        """Append through the stream's own lane, or through the lane of the stream named `through`."""
        store = DaprEventStore(self.client, owner=through or stream.name)
        running = asyncio.create_task(store.run())
        await lane_held(store)
        for version in versions:
            await store.append(to_append(stream, version))
            await sign()
        running.cancel()

    async def findings(self, *seeds: bytes) -> list[Finding]:
        """Verify with the public keys of `seeds`, or of the first signing key, and return the findings."""
        private = map(Ed25519PrivateKey.from_private_bytes, seeds or [SEED])
        public = [base64.b64encode(one.public_key().public_bytes_raw()).decode() for one in private]
        trusted = VerificationKeys(",".join(public))
        reading = partial(read_checkpoints, self.client, "eventstore")
        said = verify(DaprEventReader(self.client), reading, self._last, trusted)
        return [one async for one in said if isinstance(one, Finding)]

    async def _last(self, lane: int) -> Checkpoint | None:
        await self.before_last()
        return await last_checkpoint(self.client, "eventstore", lane)

    async def edit(self, key: str, /, **changes: Any) -> None:
        value = await self.client.get("eventstore", key)
        assert value is not None
        await self.put(key, orjson.dumps(orjson.loads(value.data) | changes))

    async def put(self, key: str, data: bytes) -> None:
        await self.client.save("eventstore", Write(key, data))

    async def delete(self, *deleted: str) -> None:
        for key in deleted:
            self.state.write(Operation(key), datetime.now(UTC))


@pytest.fixture(scope="module")
def filled() -> FakeState:
    """The state that every test starts with."""

    async def fill() -> FakeState:
        async with opened(FakeState()) as ledger:
            await ledger.fill()
            return ledger.state

    return asyncio.run(fill())


@asynccontextmanager
async def opened(state: FakeState) -> AsyncIterator[Ledger]:
    async with FakeSidecar(dapr=FakeDapr(stores={"eventstore": state})) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        yield Ledger(client, state)
        await client.close()


@pytest.fixture
async def ledger(filled: FakeState) -> AsyncIterator[Ledger]:
    async with opened(copy.deepcopy(filled)) as ledger:
        for lane in (0, 1):  # not to be taken over by another append
            await ledger.edit(keys.lease(lane), expires=time.time() + 10)
        yield ledger


async def test_what_nobody_altered_verifies(ledger: Ledger) -> None:
    assert await ledger.findings() == []


@pytest.mark.parametrize(
    "also", [(), (keys.lease(0), keys.published(0))], ids=["alone", "with all that names the lane"]
)
async def test_a_lane_without_its_first_commit_is_not_passed_over(
    ledger: Ledger, also: tuple[str, ...]
) -> None:
    await ledger.delete(keys.log(0, 1), *also)
    assert await ledger.findings() == [Finding("the log ends at 0, but was signed beyond that", 0, 0)]


async def test_a_hole_in_what_is_not_signed_yet_is_found(ledger: Ledger) -> None:
    await ledger.append(A, 5, 6, 7)
    await ledger.edit(keys.lease(0), tail=8)  # which its writer saves every few seconds
    await ledger.delete(keys.log(0, 7))
    with capture_logs() as logs:
        await ledger.checkpointer.sign()
    assert await ledger.findings() == [Finding("the log ends at 6, but was written up to 8", 0, 6)]
    (error,) = (log for log in logs if log["log_level"] == "error")
    assert (error["lane"], error["missing"], error["tail"]) == (0, 7, 8)


@pytest.mark.parametrize("encoded", ["AAA", "AAAA", "not base64", base64.b64encode(bytes(31)).decode()])
async def test_a_signing_key_that_is_none_is_named_in_the_log(encoded: str) -> None:
    async def key() -> SigningKey:
        return SigningKey(encoded)

    unused: Any = None
    with capture_logs() as logs:
        running = asyncio.create_task(Checkpointer(unused, "eventstore", key, 60).run())
        while not logs:
            await asyncio.sleep(0)
        running.cancel()
    [said] = logs
    assert said["error"].startswith("the signing key is not 32 bytes in base64: ")


async def test_a_lane_whose_first_commit_is_missing_before_it_was_signed_is_found(ledger: Ledger) -> None:
    await ledger.append(StreamId("default", "thing-c"), 0, 1)
    await ledger.edit(keys.lease(2), tail=2)
    await ledger.delete(keys.log(2, 1))
    with capture_logs() as logs:
        await ledger.checkpointer.sign()
    assert await ledger.findings() == [Finding("the log ends at 0, but was written up to 2", 2, 0)]
    assert [(log["lane"], log["missing"]) for log in logs if log["log_level"] == "error"] == [(2, 1)]


async def test_what_is_committed_meanwhile_is_no_hole(ledger: Ledger) -> None:
    async def grow() -> None:
        ledger.before_last = _not
        await ledger.append(A, 5)
        await ledger.edit(keys.lease(0), tail=6)

    ledger.before_last = grow
    assert await ledger.findings() == []


async def test_a_checkpoint_that_is_missing_is_found_where_later_ones_are_there(ledger: Ledger) -> None:
    await ledger.delete(keys.checkpoint(0, 3))
    await forge(ledger, A, 5)
    assert await ledger.findings() == [
        Finding("checkpoint 3 is missing, but checkpoint 5 exists", 0, 2),
    ]


async def test_a_checkpoint_that_stands_in_for_another_is_found(ledger: Ledger) -> None:
    """It is signed, but its follower would then cover nothing."""
    first = await ledger.client.get("eventstore", keys.checkpoint(0, 1))
    assert first is not None
    await ledger.put(keys.checkpoint(0, 2), first.data)
    assert await ledger.findings() == [Finding("checkpoint 1 is not signed by a trusted key", 0, 0)]


async def test_a_last_checkpoint_of_another_key_is_not_trusted(ledger: Ledger) -> None:
    await ledger.edit(keys.checkpoint(0), number=9)
    assert await ledger.findings() == [Finding("its last checkpoint is not signed by a trusted key", 0, 5)]


async def test_a_signing_key_is_replaced_and_the_old_one_stays_trusted_for_what_it_signed(
    ledger: Ledger,
) -> None:
    ledger.seed = bytes(32)
    await ledger.append(A, 5, sign=ledger.checkpointer.sign)
    assert await ledger.findings(SEED, ledger.seed) == []
    alone = await ledger.findings(ledger.seed)
    assert alone == [Finding("checkpoint 1 is not signed by a trusted key", lane, 0) for lane in (0, 1)]


async def test_what_is_signed_meanwhile_is_no_finding(ledger: Ledger) -> None:
    await ledger.append(A, 5)

    async def sign_once() -> None:
        ledger.before_last = _not
        await ledger.checkpointer.sign()

    ledger.before_last = sign_once
    assert await ledger.findings() == []


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (keys.log(0, 3), b"{"),
        (keys.log(0, 3), b"{}"),
        (keys.log(0, 3), b"[]"),
        (keys.head(A), b"{}"),
        (keys.checkpoint(0, 3), b"{}"),
        (keys.checkpoint(0, 3), b"3"),
        (keys.checkpoint(0), b"{}"),
    ],
)
async def test_what_cannot_be_decoded_is_named_and_the_other_lanes_are_verified(
    ledger: Ledger, key: str, data: bytes
) -> None:
    await ledger.put(key, data)
    await forge(ledger, B, 5)
    found, forged = await ledger.findings()
    assert (found.lane, forged.lane) == (0, 1)
    assert found.reason.startswith(f"{key} cannot be decoded")


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (keys.log(0, 3), {"last": "3"}),
        (keys.log(0, 3), {"first": 5}),
        (keys.log(0, 3), {"hash": ["a"]}),
        (keys.head(A), {"version": "5"}),
        (keys.event(A, 3), {"version": "3"}),
        (keys.checkpoint(0, 3), {"signature": 3}),
        (keys.checkpoint(0, 3), {"key": ["a"]}),
        (keys.checkpoint(0, 3), {"seq": "3"}),
    ],
)
async def test_whatever_a_value_was_made_to_be_is_one_finding(
    ledger: Ledger, key: str, changes: dict[str, Any]
) -> None:
    await ledger.edit(key, **changes)
    assert [one.lane for one in await ledger.findings()] == [0]


@pytest.mark.parametrize("last", [b"{}", b"{", b"[]"])
async def test_a_lane_whose_last_checkpoint_is_damaged_keeps_no_other_from_being_signed(
    ledger: Ledger, last: bytes
) -> None:
    await ledger.put(keys.checkpoint(0), last)
    await ledger.append(B, 5)
    with capture_logs() as logs:
        await ledger.checkpointer.sign()
    signed = await last_checkpoint(ledger.client, "eventstore", 1)
    assert signed is not None
    assert signed.seq == 6
    (error,) = (log["error"] for log in logs if log["log_level"] == "error")
    assert error.startswith("checkpoint/0 cannot be decoded")


async def insert(ledger: Ledger, stream: StreamId, version: int, **said: Any) -> None:
    """Put an event after the last of a stream and into no log, with everything else made to fit."""
    last = await insert_alone(ledger, stream, version, **said)
    await ledger.edit(keys.head(stream), version=version, hash=last)


async def insert_alone(ledger: Ledger, stream: StreamId, version: int, **said: Any) -> str:
    """Put an event where a stream's next one goes; return its hash, which no head has."""
    (last,) = await DaprEventReader(ledger.client).read_events([(stream, version - 1)])
    content = orjson.loads(last.to_json()) | {"version": version, "event_id": "inserted"} | said
    content["hash"] = chained(content, last.hash)
    await ledger.put(keys.event(stream, version), orjson.dumps(content))
    return str(content["hash"])


IN_NO_LOG = Finding("it is in no log", 0, 5, "default", "thing-a", 6, "inserted")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"seq": 6},
        {"seq": 0},
        {"seq": "5"},
        {"lane": 1},
        {"lane": 7, "seq": 1},
        {"lane": 64, "seq": 1},
        {"lane": None},
    ],
    ids=str,
)
async def test_an_event_that_is_in_no_log_is_found(ledger: Ledger, said: dict[str, Any]) -> None:
    await insert(ledger, A, 6, **said)
    assert await ledger.findings() == [IN_NO_LOG]


@pytest.mark.parametrize("place", [{}, {"lane": 7, "seq": 9}, {"seq": 90}, {"lane": 64, "seq": 1}], ids=str)
async def test_a_log_entry_that_no_lane_comes_to_is_in_no_log(ledger: Ledger, place: dict[str, int]) -> None:
    lane, seq = place.get("lane", 0), place.get("seq", 7)
    await insert(ledger, A, 6, lane=lane, seq=seq)
    entry = await ledger.client.get("eventstore", keys.log(0, 5))
    assert entry is not None
    await ledger.put(keys.log(lane, seq), orjson.dumps(orjson.loads(entry.data) | {"first": 6, "last": 6}))
    assert await ledger.findings() == [IN_NO_LOG]


async def test_an_event_that_is_in_no_log_is_found_though_signed_ones_stand_behind_it(ledger: Ledger) -> None:
    await insert(ledger, A, 6)
    await ledger.append(A, 6, sign=ledger.checkpointer.sign)
    assert await ledger.findings() == [replace(IN_NO_LOG, seq=6)]


@pytest.mark.parametrize("said", [{}, {"seq": 6}, {"lane": 1}, {"lane": None}], ids=str)
async def test_an_event_that_the_head_of_its_stream_does_not_reach_is_found(
    ledger: Ledger, said: dict[str, Any]
) -> None:
    await insert_alone(ledger, A, 6, **said)
    assert await ledger.findings() == [IN_NO_LOG]


async def test_a_head_whose_event_is_missing_is_found(ledger: Ledger) -> None:
    await ledger.edit(keys.head(A), version=6)
    assert await ledger.findings() == [Finding("it is missing", 0, 5, "default", "thing-a", 6)]


async def test_a_stream_that_was_written_through_two_lanes_verifies(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It verifies even if more streams go on in other lanes, or further on in one, than are remembered."""
    monkeypatch.setattr("annals.audit.verification._REMEMBERED", 1)
    monkeypatch.setattr("annals.audit.verification._PAGE", 2)
    through = [(A, 5, "thing-b"), (B, 5, "thing-a"), (A, 6, "thing-a"), (B, 6, "thing-c")]
    for stream, version, lane in through:
        await ledger.append(stream, version, through=lane, sign=ledger.checkpointer.sign)
    assert await ledger.findings() == []


async def test_streams_of_one_lane_cost_no_read_of_their_own(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.audit.verification._PAGE", 2)
    single: list[int] = []
    read = DaprEventReader.read_log

    async def counted(self: DaprEventReader, lane: int, first: int, last: int) -> list[Commit]:
        single.extend([lane] if first == last else [])
        return await read(self, lane, first, last)

    monkeypatch.setattr(DaprEventReader, "read_log", counted)
    assert await ledger.findings() == []
    assert single == []


async def test_a_stream_that_goes_on_meanwhile_is_in_a_log(ledger: Ledger) -> None:
    """The stream goes on in a lane that was already verified to its end."""

    async def grow() -> None:
        ledger.before_last = _not
        await ledger.append(B, 5, through="thing-a")

    ledger.before_last = grow
    assert await ledger.findings() == []


async def test_a_stream_that_goes_on_while_it_is_compared_with_its_head_is_in_a_log(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = DaprEventReader.load

    async def then_grow(self: DaprEventReader, stream: StreamId, *args: Any, **kwargs: Any) -> Any:
        found = await load(self, stream, *args, **kwargs)
        if stream == A:
            monkeypatch.setattr(DaprEventReader, "load", load)
            await ledger.append(A, 5)
        return found

    monkeypatch.setattr(DaprEventReader, "load", then_grow)
    assert await ledger.findings() == []


@pytest.mark.parametrize("changes", [{"types": ["thing.else"]}, {"types": []}, {"id": "another"}], ids=str)
async def test_what_a_log_entry_says_of_its_events_is_what_they_are(
    ledger: Ledger, changes: dict[str, Any]
) -> None:
    await ledger.edit(keys.log(0, 3), **changes)
    (finding,) = await ledger.findings()
    assert finding.reason == "the log has another id or other types for its commit"
    assert (finding.lane, finding.seq, finding.stream, finding.version) == (0, 3, "thing-a", 3)


@pytest.mark.parametrize(
    "place",
    [{"seq": 7}, {"lane": 1}, {"version": 7}, {"tenant_id": "acme"}, {"aggregate_id": "b"}],
    ids=str,
)
async def test_an_event_that_says_it_is_elsewhere_is_found(ledger: Ledger, place: dict[str, Any]) -> None:
    await ledger.append(A, 5)
    await forge(ledger, A, 6, **place)
    (finding,) = await ledger.findings()
    assert finding.reason == "it was recorded in another place"
    assert (finding.lane, finding.seq, finding.stream, finding.version) == (0, 6, "thing-a", 6)


async def test_a_head_with_another_hash_is_found(ledger: Ledger) -> None:
    await ledger.edit(keys.head(A), hash="0" * 64)
    (finding,) = await ledger.findings()
    assert finding.reason == "the head of its stream has another hash"


async def forge(ledger: Ledger, stream: StreamId, version: int, /, **said: Any) -> None:
    """Make the last event of a stream say something else, with all unsigned data made to fit."""
    before, raw = await DaprEventReader(ledger.client).read_events([(stream, version - 1), (stream, version)])
    said = said or {"data": {"amount": 1_000_000}}
    forged = said | {"hash": chained(orjson.loads(raw.to_json()) | said, before.hash)}
    await ledger.edit(keys.event(stream, version), **forged)
    await ledger.edit(keys.log(raw.lane, raw.seq), hash=forged["hash"])
    await ledger.edit(keys.head(stream), hash=forged["hash"])
