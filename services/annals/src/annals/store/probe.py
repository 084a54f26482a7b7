"""Tests whether a state store can hold an event store, before anything is entrusted to it."""

from __future__ import annotations

import uuid

import grpc

from annals.dapr import DaprError, DaprSidecar, SidecarUnavailable, StateConflict, Write

_TTL_SECONDS = 60  # after which the store removes the keys of the probe
_FIRST, _SECOND = b"1", b"2"  # the value of a key, and the one that must not replace it


class UnfitStore(Exception):
    """The state store breaks a rule that the event store depends on."""


async def probe(sidecar: DaprSidecar, store: str) -> None:
    """Insert keys that differ only by case, then try to insert one again in a transaction with another key.

    The store must accept the keys that differ by case; a MySQL database with the default collation does
    not. It must refuse to insert a key again, and that transaction must leave nothing behind. state.redis,
    for example, overwrites the key and keeps a part of the transaction (components-contrib,
    state/redis/redis.go, Multi): it would lose events silently. It must refuse in words that `annals.dapr`
    knows: a refusal that looks like a failure would be sent again for ever.

    Raises UnfitStore, or DaprError if the store cannot be reached.
    """
    taken, other = _new_key(), _new_key()
    faults = []
    try:
        await _insert(sidecar, store, taken, f"{taken}/beside")
    except DaprError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        raise await _unfit(sidecar, store, f"it has no transactions ({error.details})") from error
    if await _refuses(sidecar, store, taken.upper(), f"{taken}/BESIDE"):
        faults.append("it treats keys that differ only by case as equal (see components/stores/mysql)")
    if not await _refuses(sidecar, store, other, taken):
        faults.append("it does not refuse to insert a key that exists (first-write in a transaction)")
    values = await sidecar.get_certain(store, [taken, other])
    if taken not in values or values[taken].data != _FIRST:
        faults.append("it overwrites a key that may only be inserted")
    if other in values:
        faults.append("it keeps a part of a transaction that failed")
    if faults:
        raise await _unfit(sidecar, store, "; ".join(faults))


async def _refuses(sidecar: DaprSidecar, store: str, *names: str) -> bool:
    """Try to insert keys, and return whether the store refuses that. Raises UnfitStore and DaprError."""
    try:
        await _insert(sidecar, store, *names, value=_SECOND)
    except StateConflict:
        return True
    except SidecarUnavailable:
        raise
    except DaprError:
        # A store that is away would not take other keys now, and would not fail the same way again.
        await _insert(sidecar, store, _new_key(), _new_key())
        try:
            await _insert(sidecar, store, *names, value=_SECOND)
        except (StateConflict, SidecarUnavailable):
            pass
        except DaprError as again:
            fault = (
                f"it refuses to insert some keys in words that this release does not know ({again.details})"
            )
            raise await _unfit(sidecar, store, fault) from again
        raise
    return False


async def _insert(sidecar: DaprSidecar, store: str, *names: str, value: bytes = _FIRST) -> None:
    writes = [Write(name, value, insert_only=True, ttl_seconds=_TTL_SECONDS) for name in names]
    await sidecar.transact(store, writes)


async def _unfit(sidecar: DaprSidecar, store: str, faults: str) -> UnfitStore:
    kind = (await sidecar.components()).get(store, "unknown type")
    return UnfitStore(
        f"the state store '{store}' ({kind}) cannot hold an event store: {faults}. "
        "Use state.postgresql (v2), state.mysql or state.sqlite; see components/README.md."
    )


def _new_key() -> str:
    return f"probe/{uuid.uuid4()}"
