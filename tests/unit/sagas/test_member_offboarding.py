from __future__ import annotations

from datetime import timedelta

import pytest

from annals.testing import done, failed, scenario
from annals.testing.sagas import Reply
from annals_saga_orchestrator.sagas import CATALOG

GIVEN = {"member": "ada", "successors": ["bob"]}
AWAY = [failed("it does not answer")] * 30


@pytest.mark.parametrize("found", [[], [done(["t1"])]], ids=["at the start", "at the end"])
def test_a_projector_that_is_away_for_hours_is_outlasted(found: list[Reply]) -> None:
    offboarding = scenario(CATALOG.newest("member-offboarding"), GIVEN)
    run = offboarding.when("open-tasks", *found, *AWAY, done([])).run()
    run.then("completed")
    assert timedelta(hours=7) < run.took < timedelta(hours=12)


def test_one_that_runs_under_the_first_version_gives_up_as_it_would_have() -> None:
    run = scenario(CATALOG.get("member-offboarding", 1), GIVEN).when("open-tasks", *AWAY).run()
    run.then("compensated", reason="it does not answer")
    assert run.took == timedelta(seconds=7)
