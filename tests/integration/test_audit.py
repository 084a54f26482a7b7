"""The proof of the audit trail, against somebody who edits the database by hand."""

from __future__ import annotations

import asyncio
import base64
import os
from functools import partial
from typing import Any

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from annals.audit import (
    Checkpoint,
    Checkpointer,
    Finding,
    SigningKey,
    VerificationKeys,
    last_checkpoint,
    read_checkpoints,
    rolled,
    verify,
)
from annals.dapr import DaprSidecar
from annals.events import DomainEvent, StreamId, chained
from annals.store import Append, DaprEventReader, DaprEventStore
from event_stores import lane_held

SEED = base64.b64encode(bytes(range(32))).decode()
STREAM = "stream/default/thing-b"


class Ledger:
    """A store with three streams of five events, signed except for the last commit of each."""

    def __init__(self, sidecar: DaprSidecar, pool: asyncpg.Pool) -> None:
        self._sidecar = sidecar
        self._pool = pool
        self._checkpointer = Checkpointer(sidecar, "eventstore", self._key, 60)

    async def _key(self) -> SigningKey:
        return SigningKey(SEED)

    async def fill(self) -> None:
        store = DaprEventStore(self._sidecar, owner="writer")
        running = asyncio.create_task(store.run())

        await lane_held(store)
        for version in range(5):
            if version == 4:
                await self._checkpointer.sign()
            for name in ("a", "b", "c"):
                event = DomainEvent(
                    event_type="thing.happened",
                    source="test",
                    aggregate_type="thing",
                    aggregate_id=name,
                    data={"amount": version * 1.5, "über": "ø"},
                )
                await store.append(Append(StreamId("default", f"thing-{name}"), (event,), version))
        running.cancel()

    async def findings(self) -> list[Finding]:
        public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
        trusted = VerificationKeys(base64.b64encode(public).decode())
        reading = partial(read_checkpoints, self._sidecar, "eventstore")
        last = partial(last_checkpoint, self._sidecar, "eventstore")
        said = verify(DaprEventReader(self._sidecar), reading, last, trusted)
        return [one async for one in said if isinstance(one, Finding)]

    async def read(self, key: str) -> dict[str, Any]:
        return dict(
            orjson.loads(await self._pool.fetchval("SELECT value FROM annals_state WHERE key = $1", key))
        )

    async def edit(self, key: str, /, **changes: Any) -> None:
        value = orjson.dumps(await self.read(key) | changes)
        await self._pool.execute("UPDATE annals_state SET value = $2 WHERE key = $1", key, value)

    async def delete(self, *keys: str) -> None:
        await self._pool.execute("DELETE FROM annals_state WHERE key = ANY($1)", list(keys))


@pytest.fixture
async def ledger(sidecar: DaprSidecar, pool: asyncpg.Pool) -> Ledger:
    ledger = Ledger(sidecar, pool)
    await ledger.fill()
    return ledger


async def test_what_nobody_altered_verifies(ledger: Ledger) -> None:
    assert await ledger.findings() == []
    assert len(await read_checkpoints(ledger._sidecar, "eventstore", 0, 1)) == 1
    await ledger._checkpointer.sign()
    await ledger._checkpointer.sign()
    assert [one.seq for one in await read_checkpoints(ledger._sidecar, "eventstore", 0, 1)] == [12, 15]
    assert await ledger.findings() == []


async def test_an_edited_event_is_named(ledger: Ledger) -> None:
    event = await ledger.read(f"{STREAM}/3")
    await ledger.edit(f"{STREAM}/3", data={"amount": 1_000_000})
    (finding,) = await ledger.findings()
    assert (finding.stream, finding.version, finding.event_id) == ("thing-b", 3, event["event_id"])
    assert "content" in finding.reason


async def test_an_edited_event_is_named_though_its_own_hash_was_made_to_fit(ledger: Ledger) -> None:
    await _forge(ledger, 3)
    (finding,) = await ledger.findings()
    assert (finding.stream, finding.version) == ("thing-b", 3)
    assert "the log" in finding.reason


async def test_a_chain_forged_to_its_end_breaks_at_the_log_or_the_signature(ledger: Ledger) -> None:
    await _forge(ledger, 3)
    for version in (4, 5):
        await _forge(ledger, version, edit=False)
    for version in (3, 4, 5):
        event = await ledger.read(f"{STREAM}/{version}")
        await ledger.edit(f"log/0/{event['seq']}", hash=event["hash"])
    await ledger.edit(f"{STREAM}/head", hash=(await ledger.read(f"{STREAM}/5"))["hash"])
    (finding,) = await ledger.findings()
    assert finding.stream is None
    assert finding.reason == "the log between 1 and 12 is not what was signed"


async def test_a_missing_event_and_a_log_cut_off_are_found(ledger: Ledger) -> None:
    await ledger.delete(f"{STREAM}/5")
    (finding,) = await ledger.findings()
    assert (finding.stream, finding.version, finding.reason) == ("thing-b", 5, "it is missing")
    await ledger.delete(*(f"log/0/{seq}" for seq in range(11, 16)))
    for name in ("a", "b", "c"):
        await ledger.edit(f"stream/default/thing-{name}/head", version=9)
    (finding,) = await ledger.findings()
    assert finding.reason == "the log ends at 10, but was signed beyond that"


async def test_an_edited_head_is_found(ledger: Ledger) -> None:
    await ledger.edit(f"{STREAM}/head", version=4)
    (finding,) = await ledger.findings()
    assert finding.stream == "thing-b"
    assert "head" in finding.reason


async def test_a_checkpoint_of_another_key_is_not_trusted(ledger: Ledger) -> None:
    digest = ""
    for commit in await DaprEventReader(ledger._sidecar).read_log(0, 1, 12):
        digest = rolled(digest, commit)
    forged = SigningKey(base64.b64encode(os.urandom(32)).decode()).sign(
        Checkpoint(0, 1, 12, digest, "2026-01-01T00:00:00+00:00", "")
    )
    await ledger.edit("checkpoint/0/1", **orjson.loads(forged.to_json()))
    (finding,) = await ledger.findings()
    assert finding.reason == "checkpoint 1 is not signed by a trusted key"


async def _forge(ledger: Ledger, version: int, *, edit: bool = True) -> None:
    previous = (await ledger.read(f"{STREAM}/{version - 1}"))["hash"]
    content = await ledger.read(f"{STREAM}/{version}")
    if edit:
        content["data"] = {"amount": 1_000_000}
    await ledger.edit(f"{STREAM}/{version}", data=content["data"], hash=chained(content, previous))
