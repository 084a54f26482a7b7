"""A saga that loses its workflow, at whatever moment, ends as it would have and does nothing twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from annals.sagas import (
    AwaitEvent,
    Parallel,
    Retry,
    Saga,
    SagaInput,
    SendCommand,
    StartSaga,
    StartSagas,
    Step,
)
from annals.testing import done, failed, rejected, scenario, timed_out
from annals.testing.sagas import Scenario
from annals_saga_orchestrator.sagas.capacity_release import CAPACITY_RELEASE
from annals_saga_orchestrator.sagas.member_offboarding import MEMBER_OFFBOARDING
from annals_saga_orchestrator.sagas.task_handover import TASK_HANDOVER

MINUTE = timedelta(minutes=1)


class Nothing(SagaInput):
    pass


def command(name: str, **step: Any) -> Step:
    undo = SendCommand(f"{name}_back", lambda _: {})
    return Step(name, SendCommand(name, lambda _: {}), compensation=undo, timeout=5 * MINUTE, **step)


def wait(name: str, *events: str, refusals: tuple[str, ...] = ()) -> Step:
    return Step(name, AwaitEvent(events, refusals=refusals, deadline=lambda _: 10 * MINUTE))


def of(*steps: Step | Parallel, **fields: Any) -> Scenario:
    return scenario(Saga("test", Nothing, steps, **fields), {})


def handover() -> Scenario:
    return scenario(TASK_HANDOVER, {"task_id": "t1", "assignee": "ada", "deadline": "PT1H"})


BESIDE = Parallel(command("b"), command("c"), command("d"))
FAN_OUT = Step("all", StartSagas("other", lambda _: [{"n": n} for n in range(7)], concurrency=3))
CHILD = Step("child", StartSaga("other", lambda _: {}))

SCENARIOS = {
    "steps": of(command("a"), command("b"), command("c")),
    "a step that comes to nothing": of(
        command("a"),
        Step("b", SendCommand("b", lambda _: {}), compensation=SendCommand("b", lambda s: s.results["a"])),
        command("c"),
    )
    .when("a", done(None))
    .when("c", rejected("no")),
    "one step": of(command("a")),
    "an output": of(command("a"), command("b"), output=lambda saga: saga.results),
    "a refusal": of(command("a"), command("b"), command("c")).when("c", rejected("no")),
    "a step that recovers": of(command("a"), command("b")).when("a", failed(), failed(), done({"n": 1})),
    "a step that does not": of(command("a"), command("b", retry=Retry(max_retries=2))).when("b", failed()),
    "no replies": of(command("a"), command("b"), command("c")).when("b", timed_out()),
    "no reply, then a refusal": of(command("a"), command("b")).when("b", timed_out(), rejected("no")),
    "steps beside each other": of(command("a"), BESIDE, command("e")).when("b", done(takes=MINUTE)),
    "one of which fails": of(command("a"), BESIDE).when("c", rejected("no")).when("b", done(takes=MINUTE)),
    "a condition": of(command("a"), command("b", when=lambda s: s.results["a"]["go"]), command("c")).when(
        "a", done({"go": False})
    ),
    "a function that fails": of(command("a"), Step("b", SendCommand("b", lambda s: s.results["missing"]))),
    "an answer": of(command("a"), wait("w", "yes"), command("b")).raised("yes", after=5 * MINUTE, data=7),
    "an early answer": of(command("a"), wait("w", "yes"), command("b"))
    .when("a", done(takes=MINUTE))
    .raised("yes"),
    "no answer": of(command("a"), wait("w", "yes")),
    "a no": of(command("a"), wait("w", "yes", refusals=("no",))).raised("no", after=MINUTE),
    "two answers": of(wait("w1", "yes"), wait("w2", "yes")).raised("yes").raised("yes", after=2 * MINUTE),
    "two answers beside each other": of(Parallel(wait("v", "yes-v"), wait("w", "yes-w")), command("a"))
    .raised("yes-w", after=MINUTE)
    .raised("yes-v", after=2 * MINUTE),
    "an answer beside a no": of(Parallel(wait("v", "yes-v", refusals=("no",)), wait("w", "yes-w")))
    .raised("no", after=MINUTE)
    .raised("yes-w", after=2 * MINUTE),
    "an answer beside steps": of(
        command("a"), Parallel(command("b"), wait("w", "yes"), FAN_OUT), command("c")
    )
    .when("other", done(takes=MINUTE))
    .raised("yes", after=5 * MINUTE),
    "no answer beside a step": of(Parallel(command("a"), wait("w", "yes"))),
    "a step that recovers beside a wait": of(Parallel(command("a"), command("b"), wait("w", "yes")))
    .when("b", failed(), done())
    .raised("yes", after=5 * MINUTE),
    "cancelled beside a wait": of(Parallel(command("a"), wait("w", "yes"))).cancelled(after=MINUTE),
    "an answer said twice": of(command("a"), wait("w1", "yes"), wait("w2", "yes"))
    .when("a", done(takes=3 * MINUTE))
    .raised("yes", after=MINUTE)
    .raised("yes", after=2 * MINUTE),
    "two early answers, one for each wait": of(
        command("a"), wait("w1", "yes"), wait("w2", "yes"), command("b")
    )
    .when("a", done(takes=3 * MINUTE))
    .raised("yes", after=MINUTE, data=1)
    .raised("yes", after=2 * MINUTE, data=2),
    "cancelled in a wait": of(command("a"), wait("w", "yes")).cancelled(after=MINUTE),
    "cancelled between tries": of(command("a"), command("b", retry=Retry(first=10 * MINUTE, cap=10 * MINUTE)))
    .when("b", failed())
    .cancelled(after=MINUTE),
    "no reply, cancelled between tries": of(command("a"), command("b", retry=Retry(first=10 * MINUTE)))
    .when("b", timed_out())
    .cancelled(after=MINUTE / 6),
    "cancelled in a step": of(command("a"), command("b"), command("c"))
    .when("b", done(takes=2 * MINUTE))
    .cancelled(after=MINUTE),
    "cancelled beside others": of(command("a"), BESIDE, command("e"))
    .when("c", done(takes=2 * MINUTE))
    .cancelled(after=MINUTE),
    "a child": of(command("a"), CHILD, command("b")).when("other", done(takes=MINUTE)),
    "a child that fails": of(command("a"), CHILD).when("other", rejected("no")),
    "children": of(command("a"), FAN_OUT, output=lambda saga: saga.results["all"]).when(
        "other", done(takes=MINUTE), rejected("no"), done()
    ),
    "hand-over, accepted": handover()
    .when("queries/tasks/t1", done({"previous_assignee": "bob"}))
    .raised("accept", after=5 * MINUTE),
    "hand-over, declined": handover().raised("decline"),
    "hand-over, no answer": handover(),
    "hand-over, no place": handover().when("member.reserve", rejected("member.capacity_exhausted")),
    "hand-over, task deleted": handover().cancelled(after=MINUTE, reason="task.deleted"),
    "release": scenario(CAPACITY_RELEASE, {"member": "ada", "task_id": "t1", "previous": "bob"}).when(
        "member.release", failed(), rejected("not_found")
    ),
    "offboarding": scenario(MEMBER_OFFBOARDING, {"member": "ada", "successors": ["bob", "eve"]}).when(
        "open-tasks", done(["t1", "t2", "t3"]), done([])
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_ends_as_it_would_have(name: str) -> None:
    meant = SCENARIOS[name].run()
    restarted = SCENARIOS[name].restarted()
    assert restarted, "there is no moment at which it could be lost"
    for moment, ran in enumerate(restarted):
        at = f"lost at moment {moment} of {len(restarted)}"
        ended = (ran.state.status, ran.state.reason, ran.state.left, ran.state.output)
        assert ended == (meant.state.status, meant.state.reason, meant.state.left, meant.state.output), at
        assert sorted(ran.did) == sorted(meant.did), at
        steps = {step: (one.status, one.result) for step, one in ran.state.steps.items()}
        assert steps == {step: (one.status, one.result) for step, one in meant.state.steps.items()}, at
        if ran.state.status == "compensated":
            undone = [did for did in ran.did if did.startswith("undo ")]
            assert sorted(undone) == sorted(did for did in meant.did if did.startswith("undo ")), at


def test_a_wait_is_as_long_as_it_was_to_be() -> None:
    given = of(command("a"), wait("w", "yes"))
    assert {ran.took for ran in given.restarted()} == {given.run().took}


def test_what_could_not_be_taken_back_is_tried_again_and_named() -> None:
    given = of(command("a"), command("b"), command("c")).when("c", rejected("no"))
    given.when("undo b_back", failed())
    for ran in given.restarted():
        ran.then("failed", left=("b",), reason="no")
        assert ran.did.count("undo a_back") == 1
        begun_twice = ran.did.count("undo b_back") - ran.state.steps["b"].undo_attempts
        assert begun_twice in (0, 1), "a try that was over was made again"


def test_children_that_were_not_begun_when_it_was_cancelled_are_not_begun_after_it() -> None:
    given = of(FAN_OUT).when("other", done(takes=2 * MINUTE)).cancelled(after=MINUTE)
    for ran in given.restarted():
        assert len(ran.then("compensated", reason="cancelled").did) == 3
