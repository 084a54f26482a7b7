"""Which guarantees that an event store needs each state store gives, asked through a real sidecar.

The command service's start-up probe must detect whatever a store does not guarantee.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from outcomes import Outcomes

from annals.dapr import DaprError, DaprSidecar, Write
from annals.events import new_id
from annals.free_ports import free_port
from annals.store import UnfitStore
from annals.store.probe import probe
from conftest import copy_components, write_secrets
from event_stores import REDIS
from suite import infra

pytestmark = [pytest.mark.brokers, pytest.mark.timeout(300)]

STORE = "eventstore"


@dataclass(frozen=True, slots=True)
class Store:
    """A state store behind a sidecar."""

    name: str
    sidecar: DaprSidecar


@pytest.fixture(params=["postgresql", "sqlite", "mysql", "redis"])
async def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    new_database: Callable[[], Awaitable[str]],
    mariadb: infra.MariaDb,
    launch: Callable[..., Any],
    bare_sidecar: Callable[..., Any],
) -> AsyncIterator[Store]:
    folder = copy_components(tmp_path / "components", "shared/secretstore.yaml")
    match request.param:
        case "postgresql":
            secrets = {"postgres": await new_database()}
        case "mysql":
            await mariadb.recreate("annals")
            secrets = dict(mariadb.secrets)
        case "redis":
            server = infra.Redis(tmp_path, free_port())
            server.initialise()
            await launch(server.spec())
            secrets = dict(server.secrets)
        case _:
            secrets = {"sqlite-events": str(tmp_path / "events.db")}
    if request.param == "redis":
        (folder / "eventstore.yaml").write_text(REDIS)
    else:
        copy_components(folder, f"stores/{request.param}/eventstore.yaml")
    write_secrets(tmp_path, **secrets)
    _, at = await bare_sidecar(folder)
    sidecar = DaprSidecar(at.grpc, timeout=30)
    yield Store(request.param, sidecar)
    await sidecar.close()


async def refused(write: Awaitable[None]) -> bool:
    """Return whether a transaction is refused, whatever the text: stores unfit for Annals have their own."""
    try:
        await write
    except DaprError:
        return True
    return False


async def keeps_an_inserted_key(sidecar: DaprSidecar) -> bool:
    key, beside = new_id(), new_id()
    await sidecar.transact(STORE, [Write(key, b"1", insert_only=True), Write(f"{key}/", b"1")])
    again = [Write(beside, b"2"), Write(key, b"2", insert_only=True)]
    found = await refused(sidecar.transact(STORE, again))
    value = await sidecar.get(STORE, key)
    return found and value is not None and value.data == b"1"


async def leaves_nothing_of_what_failed(sidecar: DaprSidecar) -> bool:
    key, beside = new_id(), new_id()
    await sidecar.save(STORE, Write(key, b"1"))
    first = await sidecar.get(STORE, key)
    assert first is not None
    await sidecar.save(STORE, Write(key, b"2"))
    stale = [Write(beside, b"3"), Write(key, b"3", etag=first.etag)]
    return await refused(sidecar.transact(STORE, stale)) and await sidecar.get(STORE, beside) is None


async def keeps_a_changed_value(sidecar: DaprSidecar) -> bool:
    key = new_id()
    await sidecar.save(STORE, Write(key, b"1"))
    first = await sidecar.get(STORE, key)
    assert first is not None
    await sidecar.transact(STORE, [Write(key, b"2", etag=first.etag), Write(f"{key}/", b"-")])
    late = [Write(key, b"3", etag=first.etag), Write(f"{key}/", b"-")]
    found = await refused(sidecar.transact(STORE, late))
    value = await sidecar.get(STORE, key)
    return found and value is not None and value.data == b"2"


async def lets_one_of_many_win(sidecar: DaprSidecar) -> bool:
    key = new_id()

    def insert(number: int) -> Awaitable[bool]:
        writes = [Write(key, b"%d" % number, insert_only=True), Write(f"{key}/{number}", b"-")]
        return refused(sidecar.transact(STORE, writes))

    return sorted(await asyncio.gather(*map(insert, range(20)))).count(False) == 1


async def tells_keys_apart_by_case(sidecar: DaprSidecar) -> bool:
    key = f"a{new_id()}"
    await sidecar.save(STORE, Write(key, b"1"))
    await sidecar.save(STORE, Write(key.upper(), b"2"))
    value = await sidecar.get(STORE, key)
    return value is not None and value.data == b"1"


async def gives_back_the_bytes(sidecar: DaprSidecar) -> bool:
    given = json.dumps({"b": 12345678901234567890, "a": 1.0}).encode()
    key = new_id()
    await sidecar.transact(STORE, [Write(key, given), Write(f"{key}/", b"-")])
    value = await sidecar.get(STORE, key)
    return value is not None and value.data == given


async def takes_500_keys_at_once(sidecar: DaprSidecar) -> bool:
    run = new_id()
    keys = [f"{run}/{number}" for number in range(500)]
    await sidecar.transact(STORE, [Write(key, b"1", insert_only=True) for key in keys])
    return len(await sidecar.get_bulk(STORE, keys)) == 500


async def takes_900_kilobytes(sidecar: DaprSidecar) -> bool:
    key = new_id()
    await sidecar.transact(STORE, [Write(key, b"x" * 900_000), Write(f"{key}/", b"-")])
    value = await sidecar.get(STORE, key)
    return value is not None and len(value.data) == 900_000


CASES: dict[str, Callable[[DaprSidecar], Awaitable[bool]]] = {
    "a key that exists is not inserted again in a transaction": keeps_an_inserted_key,
    "a transaction that is refused leaves nothing behind": leaves_nothing_of_what_failed,
    "a value that has changed is not overwritten in a transaction": keeps_a_changed_value,
    "of twenty that insert a key at once one succeeds": lets_one_of_many_win,
    "keys that differ by case are two": tells_keys_apart_by_case,
    "a value comes back byte by byte": gives_back_the_bytes,
    "500 keys in one transaction": takes_500_keys_at_once,
    "a value of 900 kB": takes_900_kilobytes,
}


async def test_the_command_service_takes_a_store_just_when_it_keeps_all(store: Store) -> None:
    outcomes = Outcomes(f"store:{store.name}")
    kept = {}
    for case, holds in CASES.items():
        kept[case] = await holds(store.sidecar)
        if kept[case]:
            outcomes.note(case, by_itself=True)
        else:
            outcomes.fail(case, "")
    try:
        await probe(store.sidecar, STORE)
    except UnfitStore as error:
        outcomes.fail("the command service takes it", str(error))
        taken = False
    else:
        outcomes.note("the command service takes it", by_itself=True)
        taken = True
    outcomes.save()
    assert taken == all(kept.values()), kept
