"""The queue of appends: what was taken and not written goes back to its place."""

from __future__ import annotations

import asyncio

from annals.store import StoreUnavailable
from annals.store.append_queue import AppendQueue
from annals.store.group_commit import Waiting
from event_store_conformance import new_stream, to_append


def waiting() -> Waiting:
    return Waiting(to_append(new_stream(), 0), "", 100, asyncio.get_running_loop().create_future())


async def test_what_is_put_back_keeps_its_order_before_all_others() -> None:
    queue = AppendQueue()
    first, second, third, fourth = (waiting() for _ in range(4))
    for one in (first, second, third, fourth):
        queue.join(one)
    taken = [queue.take() for _ in range(3)]
    for one in taken:
        one.begun = True
    queue.put_back(taken)
    assert (len(queue), queue.bytes) == (4, 400)
    assert not any(one.begun for one in taken), "nothing of them is under way"
    assert [queue.take() for _ in range(4)] == [first, second, third, fourth]
    assert queue.bytes == 0


async def test_whom_nobody_waits_for_any_more_is_not_put_back() -> None:
    queue = AppendQueue()
    gone, there = waiting(), waiting()
    for one in (gone, there):
        queue.join(one)
    taken = [queue.take(), queue.take()]
    gone.reject(StoreUnavailable("too late"))
    queue.put_back(taken)
    assert (len(queue), queue.bytes) == (1, 100)
    assert queue.take() is there
    assert isinstance(gone.done.exception(), StoreUnavailable)
