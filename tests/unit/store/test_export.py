"""How much of the store an export holds at a time."""

from __future__ import annotations

import orjson
import pytest

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, StreamId
from annals.store import Append, Export, export
from annals.testing.fake import FakeSidecar
from event_stores import opened

TEXT = b"x" * 20_000


def written(stream: StreamId, count: int) -> Append:
    event = {"event_type": "thing.happened", "source": "test", "aggregate_type": "thing"}
    happened = DomainEvent.model_validate(event | {"aggregate_id": "1", "data": {"text": TEXT.decode()}})
    return Append(stream, (happened,) * count, 0, {})


@pytest.mark.parametrize(
    ("commits", "most"),
    [
        ([1] * 100, 19),
        ([3] * 40, 18),
        ([50] * 3, 50),
        ([1, 100, 10, 9, 1], 100),
    ],
)
async def test_an_export_holds_as_many_events_at_a_time_as_their_size_allows(
    commits: list[int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is one line, and whole."""
    monkeypatch.setattr(export, "_BYTES", 400_000)
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        for number, count in enumerate(commits):
            await store.append(written(StreamId.of("default", "thing", str(number)), count))
        client = DaprSidecar(sidecar.grpc_port)
        pages = [page async for page in Export(client, "eventstore", with_keys=False).pages()]
        await client.close()
    lines = [orjson.loads(line) for line in b"".join(pages).splitlines()]
    assert [len(line["events"]) for line in lines if "events" in line] == commits
    assert lines[-1]["end"]["events"] == sum(commits)
    assert max(page.count(TEXT) for page in pages) == most
