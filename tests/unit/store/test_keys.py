"""The keys of the event store: every store accepts them, and earlier data is still found by them."""

from __future__ import annotations

import pytest

from annals.dapr import DaprSidecar, Write
from annals.events import Position
from annals.store import keys, records
from annals.testing.fake import FakeSidecar
from event_store_conformance import new_stream, to_append
from event_stores import opened

LONGEST = 255
"""The longest key in bytes that state.mysql accepts."""


@pytest.mark.parametrize("tenant", ["t", "t" * 63])
def test_no_key_of_an_outcome_is_longer_than_stores_take(tenant: str) -> None:
    found = {keys.command(tenant, "k" * length) for length in range(1, 257)}
    assert len(found) == 256
    assert max(map(len, found)) <= LONGEST


def test_an_id_that_fits_is_found_where_it_always_was() -> None:
    fits = "k" * (LONGEST - len("command/default/"))
    assert keys.command("default", fits) == f"command/default/{fits}"
    assert keys.legacy_command_key("default", fits) is None
    assert keys.legacy_command_key("default", f"{fits}k") == f"command/default/{fits}k"


async def test_the_outcome_of_a_long_id_is_found_where_it_was_before() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        append = to_append(new_stream(), 0, command_id="k" * 256, fingerprint="f")
        client = DaprSidecar(sidecar.grpc_port)
        outcome = records.encode_outcome(append, Position(0, 1))
        await client.save("eventstore", Write(f"command/{append.stream.tenant}/{'k' * 256}", outcome))
        await client.close()

        assert (await store.load(append.stream, "k" * 256))[1] == records.decode_outcome(outcome)
