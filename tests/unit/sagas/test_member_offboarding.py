from __future__ import annotations

from datetime import timedelta

import pytest

from annals.sagas import StartOn
from annals.testing import done, failed, scenario
from annals.testing.sagas import Reply
from annals_command.commands.member_commands import HANDLERS, LeaveMember
from annals_command.domain.events import MemberLeft
from annals_command.domain.member import Member
from annals_saga_orchestrator.sagas import CATALOG
from annals_saga_orchestrator.sagas.member_offboarding import MEMBER_OFFBOARDING_1

GIVEN = {"member": "ada", "successors": ["bob"]}
AWAY = [failed("it does not answer")] * 30


@pytest.mark.parametrize("found", [[], [done(["t1"])]], ids=["at the start", "at the end"])
def test_a_projector_that_is_away_for_hours_is_outlasted(found: list[Reply]) -> None:
    offboarding = scenario(CATALOG.newest("member-offboarding"), GIVEN)
    run = offboarding.when("open-tasks", *found, *AWAY, done([])).run()
    run.then("completed")
    assert timedelta(hours=7) < run.took < timedelta(hours=12)


def test_one_that_runs_under_the_first_version_gives_up_as_it_would_have() -> None:
    run = scenario(MEMBER_OFFBOARDING_1, GIVEN).when("open-tasks", *AWAY).run()
    run.then("compensated", reason="it does not answer")
    assert run.took == timedelta(seconds=7)


@pytest.mark.parametrize("deadline", ["PT0.000001S", "P364DT23H59M59.999999S", "P365D"])
@pytest.mark.parametrize("successors", [[".."], ["Az09._~@:-" * 12 + "12345678"] * 1_000], ids=["one", "all"])
def test_no_leave_that_the_command_takes_is_refused_as_an_input(deadline: str, successors: list[str]) -> None:
    """The event would be parked, and later events of the member would wait: a user must not cause that."""
    offboarding = CATALOG.newest("member-offboarding")
    (leaves,) = (one for one in HANDLERS if one.command is LeaveMember)
    (begun_by,) = (one for one in offboarding.triggers if isinstance(one, StartOn))
    command = LeaveMember.model_validate({"id": "~" * 128, "successors": successors, "deadline": deadline})
    event = leaves.decide(Member(registered=True), command)
    assert isinstance(event, MemberLeft)
    given = begun_by.input(event.model_dump(mode="json"), command.id)
    assert given is not None
    stored = offboarding.input.model_validate(given).model_dump(mode="json")
    offboarding.input.model_validate(stored)
