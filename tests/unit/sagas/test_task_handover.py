from __future__ import annotations

from datetime import timedelta

import pytest

from annals.testing import done, failed, rejected, scenario, timed_out
from annals.testing.sagas import Scenario
from annals_saga_orchestrator.sagas.task_handover import TASK_HANDOVER

FORWARD = (
    "member.reserve",
    "task.assign",
    "queries/tasks/t1",
    "reminder.requested",
    "notification.requested",
)
ACCEPTED = ("task.accept", "reminder.cancelled")
BACK = (
    "undo notification.requested",
    "undo reminder.cancelled",
    "undo task.revert_assignment",
    "undo member.release",
)


def handover() -> Scenario:
    return scenario(TASK_HANDOVER, {"task_id": "t1", "assignee": "ada", "deadline": "PT1H"})


def test_accepted() -> None:
    run = handover().raised("accept", after=timedelta(minutes=5)).run()
    run.then("completed").then_did(*FORWARD, *ACCEPTED)
    assert run.calls[-2]["user"] == "ada", "it is they who accept, not whoever asked them"
    assert run.took == timedelta(minutes=5)


def test_who_had_the_task_before_is_free_again() -> None:
    run = handover().when("queries/tasks/t1", done({"previous_assignee": "bob"})).raised("accept").run()
    run.then("completed").then_did(*FORWARD, *ACCEPTED, "member.release")
    assert run.calls[-1]["data"] == {"id": "bob", "task_id": "t1"}


def test_declined() -> None:
    handover().raised("decline").run().then("compensated", reason="decline").then_did(*FORWARD, *BACK)


def test_nobody_answers_until_the_deadline() -> None:
    run = handover().run().then("compensated", reason="nobody answered").then_did(*FORWARD, *BACK)
    assert run.took == timedelta(hours=1)


@pytest.mark.parametrize("rule", ["member.capacity_exhausted", "not_found", "member.left"])
def test_an_assignee_who_cannot(rule: str) -> None:
    run = handover().when("member.reserve", rejected(rule)).run()
    run.then("compensated", reason=rule).then_did("member.reserve")
    assert run.took == timedelta(0), "a rule that refuses is not asked again"


def test_what_may_have_been_done_is_taken_back_as_this_hand_overs_own() -> None:
    run = handover().when("member.reserve", timed_out(), rejected("member.already_reserved")).run()
    run.then("compensated", reason="already_reserved")
    run.then_did("member.reserve", "member.reserve", "undo member.release")
    assert {one["data"]["handover"] for one in run.calls} == {"saga-under-test"}


def test_a_task_that_was_deleted_meanwhile() -> None:
    run = (
        handover()
        .raised("accept", after=timedelta(minutes=5))
        .when("task.accept", rejected("not_found"))
        .when("undo task.revert_assignment", rejected("not_found"))
        .run()
    )
    run.then("compensated").then_did(*FORWARD, *ACCEPTED, *BACK)


def test_cancelled_while_it_waits() -> None:
    run = handover().cancelled(after=timedelta(minutes=1), reason="task.deleted").run()
    run.then("compensated", reason="task.deleted").then_did(*FORWARD, *BACK)


def test_a_lost_reply_is_asked_for_again_and_taken_back_when_it_never_comes() -> None:
    run = handover().when("task.assign", timed_out()).run()
    run.then("compensated", reason="no answer")
    run.then_did("member.reserve", *["task.assign"] * 4, "undo task.revert_assignment", "undo member.release")
    assert run.took == timedelta(seconds=1 + 2 + 4)


def test_what_cannot_be_taken_back_is_named_and_the_rest_is_taken_back() -> None:
    run = (
        handover().raised("decline").when("undo task.revert_assignment", failed("the service is down")).run()
    )
    run.then("failed", left=("assign-task",))
    assert run.did[-1] == "undo member.release"
    assert run.did.count("undo task.revert_assignment") == 11
