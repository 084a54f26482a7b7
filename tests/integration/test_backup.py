"""Export and import: a restored store is the same byte for byte, and can be written to from there on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from annals.aggregates import folding
from annals.audit import Checkpointer, SigningKey, VerificationKeys, last_checkpoint, read_checkpoints, verify
from annals.audit.verification import Finding
from annals.dapr import DaprSidecar
from annals.deadletters import DeadLetters
from annals.events import DomainEvent, RecordedEvent, StreamId
from annals.privacy import SubjectKeys
from annals.store import (
    Append,
    DaprEventReader,
    DaprEventStore,
    Export,
    Follower,
    Head,
    NotImportable,
    Restore,
)
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from conftest import COMPONENTS, copy_components, until, write_secrets

SEED = bytes(range(32))
KEPT = "SELECT key, value FROM annals_state WHERE key ~ '^(stream/.*/[0-9]+$|log/|checkpoint/|subject/)'"


@asynccontextmanager
async def held(sidecar: DaprSidecar, owner: str) -> AsyncIterator[DaprEventStore]:
    store = DaprEventStore(sidecar, owner=owner)
    running = asyncio.create_task(store.run())

    async def has_lane() -> bool:
        return store.lane is not None

    await until(has_lane)
    yield store
    running.cancel()


def member(name: str, event_type: str, /, **data: Any) -> DomainEvent:
    return DomainEvent(
        event_type=event_type,
        source="test",
        tenant_id="acme",
        aggregate_type="member",
        aggregate_id=name,
        data=data,
    )


async def add(store: DaprEventStore, name: str, version: int, event_type: str, /, **data: Any) -> None:
    event = member(name, event_type, **data)
    await store.append(Append(StreamId("acme", f"member-{name}"), (event,), version))


async def secret() -> str:
    return base64.b64encode(SEED).decode()


async def fill(sidecar: DaprSidecar) -> None:
    """Fill two lanes. One stream is written through both; part of the log is signed; subjects have keys."""
    personal = SubjectKeys(sidecar, "eventstore", secret)
    async with held(sidecar, "one") as one, held(sidecar, "two") as two:
        for name in ("a", "b", "c"):
            token = (await personal.protect("acme", name, {"name": "Ada"}))["name"]
            await add(one, name, 0, "member.registered", name=token, capacity=1)
        for capacity in range(2, 5):
            await add(two, "a", capacity - 1, "member.capacity_set", capacity=capacity)
        await Checkpointer(sidecar, "eventstore", signing_key, 60).sign()
        await add(one, "a", 4, "member.capacity_set", capacity=9)
        for capacity in range(100):
            await add(one, "b", capacity + 1, "member.capacity_set", capacity=capacity)


async def signing_key() -> SigningKey:
    return SigningKey(base64.b64encode(SEED).decode())


async def findings(sidecar: DaprSidecar) -> list[Finding]:
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    trusted = VerificationKeys(base64.b64encode(public).decode())
    reading = partial(read_checkpoints, sidecar, "eventstore")
    last = partial(last_checkpoint, sidecar, "eventstore")
    said = verify(DaprEventReader(sidecar), reading, last, trusted)
    return [one async for one in said if isinstance(one, Finding)]


@pytest.fixture
async def target(
    new_database: Callable[[], Awaitable[str]], tmp_path: Path, bare_sidecar: Any
) -> AsyncIterator[tuple[DaprSidecar, str]]:
    """Provide a second, empty store in a database of its own."""
    dsn = await new_database()
    resources = copy_components(tmp_path / "target", "shared/secretstore.yaml")
    eventstore = (COMPONENTS / "stores" / "postgresql" / "eventstore.yaml").read_text()
    eventstore = eventstore.replace("name: postgres\n", "name: target\n").replace(
        "key: postgres\n", "key: target\n"
    )
    (resources / "eventstore.yaml").write_text(eventstore)
    secrets = orjson.loads((tmp_path / ".annals" / "secrets.json").read_bytes())
    write_secrets(tmp_path, **secrets, target=dsn)
    _, at = await bare_sidecar(resources)
    sidecar = DaprSidecar(at.grpc)
    yield sidecar, dsn
    await sidecar.close()


async def kept(dsn: str) -> dict[str, bytes]:
    connection = await asyncpg.connect(dsn)
    try:
        return dict(await connection.fetch(KEPT))
    finally:
        await connection.close()


async def test_a_restored_store_is_equal_byte_by_byte_and_goes_on(
    sidecar: DaprSidecar, database: str, target: tuple[DaprSidecar, str]
) -> None:
    await fill(sidecar)
    pages = [page async for page in Export(sidecar, "eventstore", with_keys=True).pages()]
    lines = b"".join(pages).splitlines(keepends=True)
    end = orjson.loads(lines[-1])["end"]
    assert (end["commits"], end["events"]) == (107, 107)
    assert end["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()

    into, dsn = target
    letters = DeadLetters(into, "eventstore", "test")
    live: list[int] = []
    again: list[int] = []

    async def handle(event: RecordedEvent) -> None:
        live.append(event.seq)

    async def remind(event: RecordedEvent) -> None:
        again.append(event.seq)

    following = Follower(into, "eventstore", "test", "f", handle, letters, imported=remind)
    running = [asyncio.create_task(following.run()), asyncio.create_task(letters.run())]

    async def placed() -> bool:
        return following.placed

    await until(placed)
    async with held(into, "one") as owner:
        restore = Restore(into, "eventstore", folding(REGISTRY, HANDLERS))
        head = next(i for i, line in enumerate(lines) if b'"seq":2' in line)
        with pytest.raises(NotImportable, match="did not begin"):
            await restore.apply(b"".join(lines[head : head + 3]))
        await restore.apply(b"".join(lines[:head]))
        await Checkpointer(into, "eventstore", signing_key, 60).sign()
        middle = head + 40
        assert await restore.apply(b"".join(lines[head:middle])) == 40
        assert await restore.apply(b"".join(lines[head - 1 : middle + 5])) == 5, "a repeat takes what is new"
        await restore.apply(b"".join(lines[middle:]))
        assert await restore.apply(b"".join(lines)) == 0

        assert await kept(dsn) == await kept(database)
        source = DaprEventReader(sidecar)
        for name in ("a", "b", "c"):
            stream = StreamId("acme", f"member-{name}")
            (old, _), (new, _) = await source.load(stream), await owner.load(stream)
            assert isinstance(old, Head)
            assert isinstance(new, Head)
            assert (new.version, new.hash) == (old.version, old.hash)
            assert new.state is not None
            assert new.state["capacity"] == {"a": 9, "b": 99, "c": 1}[name]
        disclosed = await SubjectKeys(into, "eventstore", secret).disclose("acme", dict(new.state))
        assert disclosed["name"] == "Ada"

        await add(owner, "c", 1, "member.capacity_set", capacity=7)

        async def handled() -> bool:
            return len(live) == 1 and len(again) == 107

        await until(handled)
        await Checkpointer(into, "eventstore", signing_key, 60).sign()
        assert await findings(into) == []
    for task in running:
        task.cancel()


async def test_a_store_that_was_written_to_is_not_imported_into(
    sidecar: DaprSidecar, target: tuple[DaprSidecar, str]
) -> None:
    await fill(sidecar)
    data = b"".join([page async for page in Export(sidecar, "eventstore", with_keys=False).pages()])
    assert b'"subject"' not in data
    into, dsn = target
    async with held(into, "one") as owner:
        await add(owner, "z", 0, "member.registered", name="", capacity=1)
    before = await kept(dsn)
    restore = Restore(into, "eventstore", folding(REGISTRY, HANDLERS))
    with pytest.raises(NotImportable, match="not empty"):
        await restore.apply(data)
    for wrong in (b"no JSON\n", b'{"format":"other/9","lanes":{}}\n', b'{"commit":"{}","lane":0,"seq":1}\n'):
        with pytest.raises(NotImportable):
            await restore.apply(wrong)
    assert await kept(dsn) == before
