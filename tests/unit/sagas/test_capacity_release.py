from __future__ import annotations

from datetime import timedelta

import pytest

from annals.sagas import SagaState, StartOn
from annals.sagas.step_state import StepState
from annals.testing import done, failed, rejected, scenario
from annals.testing.sagas import Scenario
from annals_command.commands import fields as commands
from annals_saga_orchestrator.sagas import CATALOG, fields
from annals_saga_orchestrator.sagas.capacity_release import CAPACITY_RELEASE, CAPACITY_RELEASE_1


def release() -> Scenario:
    return scenario(CAPACITY_RELEASE, {"member": "ada", "task_id": "t1"})


def test_a_place_is_free_again() -> None:
    release().run().then("completed").then_did("member.release")


def test_whoever_had_the_task_before_has_no_place_for_it_either() -> None:
    given = {"member": "ada", "task_id": "t1", "previous": "bob"}
    run = (
        scenario(CAPACITY_RELEASE, given)
        .when("member.release", rejected("member.not_reserved"), done())
        .run()
    )
    run.then("completed").then_did("member.release", "member.release")


@pytest.mark.parametrize(
    ("frees", "given"),
    [
        ([], None),
        (["ada"], {"member": "ada", "task_id": "t1"}),
        (["bob", "ada"], {"member": "ada", "task_id": "t1", "previous": "bob"}),
    ],
)
def test_an_event_frees_the_places_that_it_names(frees: list[str], given: dict[str, str] | None) -> None:
    for trigger in CAPACITY_RELEASE.triggers:
        assert isinstance(trigger, StartOn)
        assert trigger.input({"assignee": "zoe", "frees": frees}, "t1") == given


def test_an_id_that_a_command_takes_is_not_refused_as_an_input() -> None:
    assert commands.Id == fields.Id


def test_a_place_that_another_hand_over_has_reserved_meanwhile_stays_taken() -> None:
    freed = {"frees": ["bob", "ada"], "reserved_by": {"bob": "h1", "ada": "h2"}}
    for trigger in CAPACITY_RELEASE.triggers:
        assert isinstance(trigger, StartOn)
        given = trigger.input(freed, "t1")
        assert given is not None
        run = scenario(CAPACITY_RELEASE, given).run()
        assert [call["data"] for call in run.calls] == [
            {"id": "bob", "task_id": "t1", "handover": "h1"},
            {"id": "ada", "task_id": "t1", "handover": "h2"},
        ]
    unknown = release().run()
    assert [call["data"] for call in unknown.calls] == [{"id": "ada", "task_id": "t1"}]


def test_a_start_that_an_older_release_took_is_the_same_when_it_is_repeated() -> None:
    given = {"member": "ada", "task_id": "t1"}
    stored = CAPACITY_RELEASE_1.input.model_validate(given).model_dump(mode="json")
    assert stored == given | {"previous": None}
    steps = dict.fromkeys(CAPACITY_RELEASE_1.step_names, StepState())
    begun = SagaState(saga_type=CAPACITY_RELEASE.type, saga_version=1, input=stored, steps=steps)
    assert CATALOG.same_input(begun, given)
    assert not CATALOG.same_input(begun, given | {"member": "bob"})


def test_nothing_was_reserved() -> None:
    release().when("member.release", rejected("member.not_reserved")).run().then("completed")


def test_a_command_service_that_is_away_for_hours_is_outlasted() -> None:
    away = [failed("it does not answer")] * 60
    run = release().when("member.release", *away, done()).run()
    run.then("completed")
    assert timedelta(hours=7) < run.took < timedelta(hours=10)
