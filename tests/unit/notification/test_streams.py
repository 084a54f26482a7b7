from __future__ import annotations

from typing import Any

import pytest

from annals.events import RecordedEvent
from annals_notification.streams import positions
from annals_notification.streams.filters import Filter
from annals_notification.streams.hub import Client
from annals_notification.streams.tail import Commit


def event(kind: str = "task.created", **fields: Any) -> RecordedEvent:
    envelope = {
        "event_type": kind,
        "source": "test",
        "aggregate_type": kind.partition(".")[0],
        "aggregate_id": "1",
        "version": 1,
        "lane": 0,
        "seq": 1,
        "data": {},
    }
    return RecordedEvent.model_validate(envelope | fields)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (Filter("default"), True),
        (Filter("others"), False),
        (Filter("default", types=("task.*",)), True),
        (Filter("default", types=("member.*", "task.deleted")), False),
        (Filter("default", streams=("task-1",)), True),
        (Filter("default", streams=("task-2",)), False),
        (Filter("default", topics=("domain-events",)), True),
        (Filter("default", topics=("saga-events",)), False),
        (Filter("default", users=("ada",)), True),
        (Filter("default", users=("bob",)), True),
        (Filter("default", users=("eve",)), False),
        (Filter("default", types=("task.*",), users=("eve",)), False),
    ],
)
def test_a_filter_lets_through_what_meets_all_its_conditions(wanted: Filter, seen: bool) -> None:
    assert wanted.matches(event(user_id="ada", data={"assignee": "bob"})) is seen


def test_a_place_is_written_with_the_events_own_lane_first_and_read_again() -> None:
    assert positions.render({0: 17, 48: 3, 2: 9}, first=48) == "48-3,0-17,2-9"
    assert positions.parse("48-3,0-17,2-9") == {0: 17, 48: 3, 2: 9}
    assert positions.parse("0-5") == {0: 5}, "a command's position is one too"
    with pytest.raises(ValueError, match="a position is like"):
        positions.parse("yesterday")


def test_a_client_that_takes_nothing_is_cut_and_what_it_has_not_asked_for_does_not_count() -> None:
    client = Client(Filter("default", types=("task.*",)), buffer=50)
    other = Commit(0, 1, "0-1", ((event("member.left"), "{}"),))
    wanted = Commit(0, 2, "0-2", ((event(), "{}"),))
    for _ in range(100):
        client.offer(other)
    assert client.queue.empty()
    for _ in range(50):
        client.offer(wanted)
    assert not client.cut
    client.offer(wanted)
    assert client.cut
