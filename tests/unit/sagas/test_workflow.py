"""What Dapr keeps twice in a workflow's history, after a worker died in the middle of a turn."""

from __future__ import annotations

from dapr.ext.workflow._durabletask.internal import protos

from annals.sagas.workflow import history_once


def _item(*numbers: int) -> protos.WorkItem:
    item = protos.WorkItem()
    for place, number in enumerate(numbers):
        event = item.workflowRequest.pastEvents.add()
        event.eventId = number
        event.taskScheduled.name = str(place)
    return item


def test_what_a_workflow_scheduled_is_seen_once_in_the_place_of_the_first() -> None:
    past = history_once(_item(-1, 0, -1, 1, 1, 0, -1, 2)).workflowRequest.pastEvents
    assert [event.taskScheduled.name for event in past] == ["0", "1", "2", "3", "6", "7"]


def test_a_history_without_repeats_and_an_activity_are_left_alone() -> None:
    item = _item(-1, 0, 1, -1)
    assert history_once(item) == _item(-1, 0, 1, -1)
    activity = protos.WorkItem(activityRequest=protos.ActivityRequest(name="perform"))
    assert history_once(activity) == activity
