"""Reads the checkpoints that are in the store."""

from __future__ import annotations

from annals.audit.checkpoint import Checkpoint
from annals.dapr import DaprSidecar
from annals.store import keys, records

_PAGE = 100


async def last_checkpoint(sidecar: DaprSidecar, store: str, lane: int) -> Checkpoint | None:
    """Return the last checkpoint of a lane, or None. Raises DaprError and Undecodable."""
    key = keys.checkpoint(lane)
    value = await sidecar.get(store, key)
    return records.decoded(key, value.data, Checkpoint.from_json) if value else None


async def read_checkpoints(sidecar: DaprSidecar, store: str, lane: int, first: int) -> list[Checkpoint]:
    """Return a lane's checkpoints from number `first` on: at most a page, ending before the first absent one.

    Raises DaprError and Undecodable.
    """
    wanted = [keys.checkpoint(lane, number) for number in range(first, first + _PAGE)]
    found = await sidecar.get_bulk(store, wanted)
    if wanted[0] not in found:
        value = await sidecar.get(store, wanted[0])
        found = found if value is None else {wanted[0]: value}
    checkpoints = []
    for key in wanted:
        if key not in found:
            break
        checkpoints.append(records.decoded(key, found[key].data, Checkpoint.from_json))
    return checkpoints
