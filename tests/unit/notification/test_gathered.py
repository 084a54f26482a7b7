from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from annals.dapr import DatabaseError, StatementRefused
from annals.store import Undecodable
from annals_notification.gathered import Gathered


async def test_all_that_ask_while_it_is_busy_are_answered_together() -> None:
    calls: list[list[int]] = []
    go = asyncio.Event()

    async def work(keys: Sequence[int]) -> dict[int, int]:
        calls.append(list(keys))
        await go.wait()
        return {key: key * 10 for key in keys}

    gathered = Gathered(work)
    first = asyncio.create_task(gathered.get(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(gathered.get(key)) for key in (1, 2, 3, 3)]
    given_up = asyncio.create_task(gathered.get(2))
    await asyncio.sleep(0)
    given_up.cancel()
    go.set()
    assert await asyncio.gather(first, *others) == [10, 10, 20, 30, 30]
    assert calls == [[1], [1, 2, 3]], "what asks later is never answered by what began before"


@pytest.mark.parametrize(
    "error", [StatementRefused("bad"), Undecodable("stream/default/task-bad/head", ValueError("damaged"))]
)
async def test_a_bad_key_spoils_nothing_for_others(error: Exception) -> None:
    async def work(keys: Sequence[str]) -> dict[str, str]:
        if "bad" in keys:
            raise error
        return {key: key.upper() for key in keys}

    gathered = Gathered(work)
    found = await asyncio.gather(*map(gathered.get, ("a", "bad", "b")), return_exceptions=True)
    assert found[0] == "A"
    assert found[1] is error
    assert found[2] == "B"


async def test_what_fails_for_all_is_told_to_all_and_tried_anew() -> None:
    down = True

    async def work(keys: Sequence[str]) -> dict[str, str]:
        if down:
            raise DatabaseError("away")
        return dict.fromkeys(keys, "there")

    gathered = Gathered(work)
    found = await asyncio.gather(gathered.get("a"), gathered.get("b"), return_exceptions=True)
    assert [type(one) for one in found] == [DatabaseError, DatabaseError]
    down = False
    assert await gathered.get("a") == "there"
