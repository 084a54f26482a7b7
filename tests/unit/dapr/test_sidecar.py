"""The client of the sidecar: what it does about answers that are no plain answers."""

from __future__ import annotations

import grpc
import pytest

from annals.dapr import DaprError, DaprSidecar, Write
from annals.testing.fake import FakeSidecar


@pytest.mark.parametrize("refusals", [1, 2, 3])
async def test_keys_whose_values_are_too_large_together_are_all_read(refusals: int) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        wanted = [f"key{number}" for number in range(7)]
        for key in wanted:
            await client.save("eventstore", Write(key, key.encode()))
        sidecar.faults.fail("GetBulkState", grpc.StatusCode.RESOURCE_EXHAUSTED, times=refusals)
        values = await client.get_bulk("eventstore", [*wanted, "absent"])
        assert {key: value.data for key, value in values.items()} == {key: key.encode() for key in wanted}
        await client.close()


async def test_a_value_that_is_too_large_by_itself_is_an_error() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        sidecar.faults.fail("GetBulkState", grpc.StatusCode.RESOURCE_EXHAUSTED, times=2)
        with pytest.raises(DaprError, match="RESOURCE_EXHAUSTED"):
            await client.get_bulk("eventstore", ["large", "small"])
        await client.close()
