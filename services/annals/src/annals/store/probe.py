"""Tests whether a state store can hold an event store, before anything is entrusted to it."""

from __future__ import annotations

import uuid

from annals.dapr import DaprSidecar, StateConflict, Write

_TTL_SECONDS = 60  # after which the store removes the keys of the probe


class UnfitStore(Exception):
    """The state store breaks a rule that the event store depends on."""


async def probe(sidecar: DaprSidecar, store: str) -> None:
    """Insert keys that differ only by case, then try to insert one again in a transaction with another key.

    The store must accept the keys that differ by case; a MySQL database with the default collation does
    not. It must refuse to insert a key again, and that transaction must leave nothing behind. state.redis,
    for example, overwrites the key and keeps a part of the transaction (components-contrib,
    state/redis/redis.go, Multi): it would lose events silently.

    Raises UnfitStore, or DaprError if the store cannot be reached.
    """
    taken, other = (f"probe/{uuid.uuid4()}" for _ in range(2))

    def write(key: str, value: bytes) -> Write:
        return Write(key, value, insert_only=True, ttl_seconds=_TTL_SECONDS)

    faults = []
    await sidecar.transact(store, [write(taken, b"1"), write(f"{taken}/beside", b"1")])
    try:
        await sidecar.transact(store, [write(taken.upper(), b"1"), write(f"{taken}/BESIDE", b"1")])
    except StateConflict:
        faults.append("it treats keys that differ only by case as equal (see components/stores/mysql)")
    try:
        await sidecar.transact(store, [write(other, b"2"), write(taken, b"2")])
    except StateConflict:
        refused = True
    else:
        refused = False
    values = await sidecar.get_certain(store, [taken, other])
    if not refused:
        faults.append("it does not refuse to insert a key that exists (first-write in a transaction)")
    if taken not in values or values[taken].data != b"1":
        faults.append("it overwrites a key that may only be inserted")
    if other in values:
        faults.append("it keeps a part of a transaction that failed")
    if faults:
        kind = (await sidecar.components()).get(store, "unknown type")
        raise UnfitStore(
            f"the state store '{store}' ({kind}) cannot hold an event store: {'; '.join(faults)}. "
            "Use state.postgresql (v2), state.mysql or state.sqlite; see components/README.md."
        )
