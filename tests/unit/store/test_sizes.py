"""How large an event may be: an event that could not be published is not stored."""

from __future__ import annotations

import asyncio
import re

import orjson
import pytest

from annals.dapr import DaprSidecar
from annals.events import DomainEvent, RecordedEvent, to_cloudevent_json
from annals.store import (
    MAX_EVENT_BYTES,
    Append,
    AppendTooLarge,
    DaprEventStore,
    require_publishable,
)
from annals.store.follower import is_transient
from annals.store.sizes import TRANSACTION_BYTES
from annals.testing.fake import FakeSidecar
from annals_command.commands import HANDLERS
from annals_command.domain.events import TaskCreated
from event_store_conformance import saying
from event_stores import lane_held

_SMALLEST_BROKER = 256 * 1024


def event(text: str, **fields: str) -> DomainEvent:
    return saying("x" * 128, text, **fields)


def as_dapr_writes_it(event: DomainEvent) -> bytes:
    recorded = RecordedEvent.record(event, version=1, lane=0, seq=1)
    return re.sub(rb"[<>&]|\xe2\x80[\xa8\xa9]", rb"\\u0000", to_cloudevent_json(recorded))


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀", '"', "\n", "<", "&", "\x01", "\u2028"])
def test_whatever_is_let_pass_the_smallest_broker_takes(letter: str) -> None:
    ids = dict.fromkeys(("user_id", "session_id", "client", "correlation_id", "causation_id"), "<" * 256)
    length, step = 0, 1 << 18
    while step:  # finds the longest text that passes
        try:
            data = orjson.dumps({"text": letter * (length + step)})
            require_publishable("thing.happened", data, MAX_EVENT_BYTES)
        except AppendTooLarge:
            step //= 2
        else:
            length += step
    assert len(as_dapr_writes_it(event(letter * length, **ids))) < _SMALLEST_BROKER


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀", '"', "\n"])
def test_the_longest_task_is_taken_in_every_script(letter: str) -> None:
    (create,) = (one.command for one in HANDLERS if one.command.command_type == "task.create")
    given = {"title": letter * 500 if letter != "\n" else "x", "description": letter * 50_000}
    command = create.model_validate(given | {"tags": ["漢" * 64] * 50, "assignee": "x" * 128})
    created = TaskCreated(**command.model_dump(exclude={"id"}))
    require_publishable("task.created", orjson.dumps(created.model_dump(mode="json")), MAX_EVENT_BYTES)


async def test_an_event_that_is_too_large_is_refused_and_leaves_nothing() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test", max_event_bytes=10_000)
        running = asyncio.create_task(store.run())
        await lane_held(store)
        large, small = event("x" * 8_000), event("y" * 7_900)

        with pytest.raises(AppendTooLarge, match="takes 10011 bytes, one event may take 10000"):
            await store.append(Append(large.stream, (small, large), 0))

        assert await store.load(large.stream, certain=True) == (None, None)
        assert (await store.append(Append(small.stream, (small, small), 0))).version == 2
        await store.drain()
        await running
        await client.close()


async def test_what_is_kept_of_a_transaction_only_who_asks_for_it_may_have() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        store = DaprEventStore(client, owner="test")
        running = asyncio.create_task(store.run())
        await lane_held(store)
        large = event("x" * (TRANSACTION_BYTES - 10_000))

        with pytest.raises(AppendTooLarge, match=f"one append may take {TRANSACTION_BYTES - 20_000}"):
            await store.append(Append(large.stream, (large,), 0, reserve=20_000))
        state = {"text": "x" * TRANSACTION_BYTES}
        with pytest.raises(AppendTooLarge, match="the events and the state after them take"):
            await store.append(Append(large.stream, (event("x"),), 0, state))

        assert (await store.append(Append(large.stream, (large,), 0))).version == 1
        await store.drain()
        await running
        await client.close()


def test_what_is_too_large_now_is_too_large_later() -> None:
    assert not is_transient(AppendTooLarge("it is what it is"))
