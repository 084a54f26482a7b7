from __future__ import annotations

from datetime import timedelta

from annals.testing import done, failed, rejected, scenario
from annals.testing.sagas import Scenario
from annals_saga_orchestrator.sagas.capacity_release import CAPACITY_RELEASE


def release() -> Scenario:
    return scenario(CAPACITY_RELEASE, {"member": "ada", "task_id": "t1"})


def test_a_place_is_free_again() -> None:
    release().run().then("completed").then_did("member.release")


def test_nothing_was_reserved() -> None:
    release().when("member.release", rejected("member.not_reserved")).run().then("completed")


def test_a_command_service_that_is_away_for_hours_is_outlasted() -> None:
    away = [failed("it does not answer")] * 60
    run = release().when("member.release", *away, done()).run()
    run.then("completed")
    assert timedelta(hours=7) < run.took < timedelta(hours=10)
