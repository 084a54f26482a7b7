"""Many dead letters that are released together."""

from __future__ import annotations

import asyncio

from annals.deadletters import DeadLetters, Status, of_event
from annals.events import RecordedEvent
from event_store_conformance import saying

MANY = 130
"""More letters than one transaction changes."""


async def test_a_large_group_is_released_whole_and_may_be_released_again(dead_letters: DeadLetters) -> None:
    for number in range(MANY):
        event = RecordedEvent.record(saying(f"t{number}", "x"), version=1, lane=0, seq=number + 1)
        await dead_letters.park(*of_event("tasks", event, ValueError("the same"), attempts=5))
    parked = dead_letters.parked("default")
    assert len(parked) == MANY

    # As if a release had broken off half-way and was requested once more.
    assert await dead_letters.release(parked[:50], "ada", "mended") == 50
    assert await dead_letters.release(parked, "ada", "mended") == MANY
    await dead_letters.refresh()
    assert {one.status for one in dead_letters.parked("default")} == {Status.RELEASED}
    details = await asyncio.gather(*(dead_letters.get("default", parked[n].id) for n in (0, MANY - 1)))
    assert [[entry["action"] for entry in detail.history] for _, detail in details] == [
        ["replayed", "replayed"],
        ["replayed"],
    ]

    await dead_letters.done(dead_letters.released()[0])
    assert await dead_letters.release(parked, "ada", "mended") == MANY - 1
