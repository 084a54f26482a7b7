from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest

from annals.privacy import PERSONAL
from annals.sagas import (
    AskQuery,
    AwaitEvent,
    CallActivity,
    CancelOn,
    Parallel,
    PublishEvent,
    Retry,
    Saga,
    SagaCatalog,
    SagaContext,
    SagaInput,
    SendCommand,
    StartOn,
    StartSaga,
    StartSagas,
    Step,
)
from annals.testing import done, failed, rejected, scenario, timed_out


class Nothing(SagaInput):
    pass


class Leaver(SagaInput):
    name: Annotated[str, PERSONAL]


class Nested(SagaInput):
    leaver: Leaver


def command(name: str, **step: Any) -> Step:
    undo = SendCommand(f"{name}_back", lambda _: {})
    return Step(name, SendCommand(name, lambda _: {}), compensation=undo, **step)


def saga(*steps: Step | Parallel, **fields: Any) -> Saga[Nothing]:
    return Saga("test", Nothing, steps, **fields)


def test_steps_run_in_order_and_are_taken_back_in_reverse() -> None:
    declared = saga(command("a"), command("b"), command("c"))
    scenario(declared, {}).run().then("completed").then_did("a", "b", "c")
    run = scenario(declared, {}).when("c", rejected("no")).run()
    run.then("compensated", reason="no").then_did("a", "b", "c", "undo b_back", "undo a_back")


def test_a_failing_step_waits_longer_each_time_and_no_longer_than_the_cap() -> None:
    retry = Retry(max_retries=5, first=timedelta(seconds=2), cap=timedelta(seconds=10))
    run = scenario(saga(command("a", retry=retry)), {}).when("a", failed()).run()
    run.then("compensated").then_did(*["a"] * 6)
    assert run.took == timedelta(seconds=2 + 4 + 8 + 10 + 10)


def test_a_step_that_recovers_goes_on() -> None:
    run = scenario(saga(command("a"), command("b")), {}).when("a", failed(), failed(), done()).run()
    run.then("completed").then_did("a", "a", "a", "b")
    assert run.state.steps["a"].attempts == 3


def test_parallel_steps_overlap_and_one_failure_takes_all_back() -> None:
    declared = saga(Parallel(command("a"), command("b"), command("c")), command("d"))
    second = timedelta(seconds=1)
    run = (
        scenario(declared, {})
        .when("a", done(takes=3 * second))
        .when("b", done(takes=2 * second))
        .when("c", done(takes=second))
        .run()
    )
    run.then("completed").then_did("a", "b", "c", "d")
    assert run.took == 3 * second
    run = scenario(declared, {}).when("a", done(takes=second)).when("b", rejected("no")).run()
    run.then("compensated").then_did("a", "b", "c", "undo a_back", "undo c_back")


def test_a_function_that_fails_beside_others_takes_back_what_they_did() -> None:
    broken = Step("b", SendCommand("b", lambda s: s.results["nothing like it"]))
    given = scenario(saga(command("z"), Parallel(command("a"), broken)), {})
    run = given.when("a", done(takes=timedelta(seconds=1))).run()
    run.then("compensated", reason="b: KeyError").then_did("z", "a", "undo a_back", "undo z_back")


def test_a_condition_skips_a_step() -> None:
    declared = saga(command("a"), command("b", when=lambda s: s.results["a"]["go"]), command("c"))
    run = scenario(declared, {}).when("a", done({"go": False})).run()
    run.then("completed").then_did("a", "c")
    assert run.state.steps["b"].status == "skipped"
    last = saga(command("a"), command("b", when=lambda _: False))
    scenario(last, {}).run().then("completed").then_did("a")


def test_an_event_that_comes_early_is_kept() -> None:
    wait = Step("wait", AwaitEvent(("yes",), deadline=lambda _: timedelta(hours=1)))
    declared = saga(command("a", timeout=timedelta(minutes=2)), wait, command("b"))
    run = scenario(declared, {}).when("a", done(takes=timedelta(minutes=1))).raised("yes").run()
    run.then("completed").then_did("a", "b")
    assert run.took == timedelta(minutes=1)


def test_an_event_that_no_step_took_is_taken_back_by_the_step_that_asked_for_it() -> None:
    undo = SendCommand("refund", lambda _: {})
    unused = SendCommand("unused", lambda _: {})
    asks = Step("ask", PublishEvent("payment.requested", lambda _: {}), compensation=undo)
    declared = saga(asks, command("reserve"), replace(wait("pay", "paid"), compensation=unused))
    full = scenario(declared, {}).when("reserve", failed(), rejected("full"))
    run = full.raised("paid", after=timedelta(milliseconds=500)).run()
    run.then("compensated").then_did("payment.requested", "reserve", "reserve", "undo refund")


def test_two_waits_for_the_same_event_take_one_each() -> None:
    steps = [Step(f"wait{n}", AwaitEvent(("yes",), deadline=lambda _: timedelta(hours=1))) for n in (1, 2)]
    declared = saga(*steps)
    run = scenario(declared, {}).raised("yes").raised("yes", after=timedelta(minutes=2)).run()
    run.then("completed")
    assert run.took == timedelta(minutes=2)
    scenario(declared, {}).raised("yes").run().then("compensated", reason="nobody answered")
    busy = scenario(saga(command("a"), *steps), {}).when("a", done(takes=timedelta(seconds=3)))
    said_again = busy.raised("yes").raised("yes", after=timedelta(seconds=1)).run()
    said_again.then("compensated", reason="wait2: nobody answered")


def test_a_cancel_ends_a_wait_between_retries() -> None:
    retry = Retry(first=timedelta(minutes=10), cap=timedelta(minutes=10))
    run = (
        scenario(saga(command("a"), command("b", retry=retry)), {})
        .when("b", failed())
        .cancelled(after=timedelta(minutes=1))
        .run()
    )
    run.then("compensated", reason="cancelled").then_did("a", "b", "undo a_back")
    assert run.took == timedelta(minutes=1)


def test_what_may_have_taken_effect_is_taken_back_when_it_is_cancelled_before_the_next_try() -> None:
    retry = Retry(first=timedelta(minutes=10), cap=timedelta(minutes=10))
    given = scenario(saga(command("a"), command("b", retry=retry)), {}).when("b", timed_out())
    run = given.cancelled(after=timedelta(minutes=1)).run()
    run.then("compensated", reason="cancelled").then_did("a", "b", "undo b_back", "undo a_back")


def test_a_refusal_after_a_lost_reply_takes_back_what_may_have_been_done() -> None:
    run = scenario(saga(command("a")), {}).when("a", timed_out(), rejected("no")).run()
    run.then("compensated", reason="no").then_did("a", "a", "undo a_back")


def test_what_a_rule_keeps_from_being_taken_back_is_not_tried_again() -> None:
    given = scenario(saga(command("a"), command("b")), {}).when("b", rejected("no"))
    run = given.when("undo a_back", rejected("never")).run()
    run.then("failed", left=("a",)).then_did("a", "b", "undo a_back")


def test_a_child_that_does_not_complete_fails_its_step() -> None:
    declared = saga(command("a"), Step("child", StartSaga("other", lambda _: {})))
    scenario(declared, {}).run().then("completed").then_did("a", "other")
    run = scenario(declared, {}).when("other", rejected("no")).run()
    run.then("compensated").then_did("a", "other", "undo a_back")


def test_many_children_run_a_few_at_a_time_and_some_may_fail() -> None:
    fan_out = StartSagas("other", lambda _: [{"n": n} for n in range(7)], concurrency=3)
    declared = saga(Step("all", fan_out), output=lambda s: s.results["all"])
    minute = done(takes=timedelta(minutes=1))
    run = scenario(declared, {}).when("other", minute, rejected("no"), minute).run().then("completed")
    assert run.state.output["by_status"] == {"completed": 6, "compensated": 1}
    assert [one["reason"] for one in run.state.output["not_completed"]] == ["no"]
    # The refused child makes room at once: two run beside it in the first minute, then three, then one.
    assert run.took == timedelta(minutes=2)


def test_a_step_that_runs_others_is_taken_back_when_it_is_cancelled_in_it() -> None:
    undo = SendCommand("all_back", lambda _: {})
    many = Step("all", StartSagas("other", lambda _: [{"n": 1}, {"n": 2}]), compensation=undo)
    given = scenario(saga(command("a"), many), {}).when("other", done(takes=timedelta(minutes=2)))
    run = given.cancelled(after=timedelta(minutes=1)).run()
    run.then("compensated").then_did("a", "other", "other", "undo all_back", "undo a_back")
    assert run.state.steps["all"].result == {"total": 2, "cancelled": True}


def test_a_function_that_fails_takes_the_saga_back() -> None:
    broken = Step("b", SendCommand("b", lambda s: s.results["missing"]))
    run = scenario(saga(command("a"), broken), {}).run()
    run.then("compensated", reason="KeyError").then_did("a", "undo a_back")
    undo = SendCommand("x", lambda s: s.results["missing"])
    steps = (command("a"), Step("b", SendCommand("b", lambda _: {}), compensation=undo), command("c"))
    run = scenario(saga(*steps), {}).when("c", rejected("no")).run()
    run.then("failed", left=("b",)).then_did("a", "b", "c", "undo a_back")


def test_a_declaration_that_is_not_deterministic_is_found() -> None:
    declared = saga(Step("a", CallActivity("roll", lambda _: random.random())))
    with pytest.raises(AssertionError, match="not deterministic: request 1"):
        scenario(declared, {}).run()


def test_step_names_are_unique() -> None:
    with pytest.raises(ValueError, match="with unique names"):
        saga(command("a"), Parallel(command("a")))


@pytest.mark.parametrize("name", ["prüfen", "a||b", "", "a" * 146])
def test_a_step_whose_command_would_have_a_key_that_no_service_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sends a command"):
        saga(command(name))
    undo = SendCommand("back", lambda _: {})
    with pytest.raises(ValueError, match="sends a command"):
        saga(Step(name, PublishEvent("thing.said", lambda _: {}), compensation=undo))
    saga(wait(name, "yes"), command("a step"))


def wait(name: str, *events: str, refusals: tuple[str, ...] = (), by: Any = None) -> Step:
    return Step(name, AwaitEvent(events, lambda _: timedelta(hours=1), refusals, by))


@pytest.mark.parametrize(
    "steps",
    [
        (Parallel(wait("a", "yes"), wait("b", "yes")),),
        (Parallel(wait("a", "yes-a", refusals=("no",)), wait("b", "yes-b", refusals=("no",))),),
        (wait("a", "yes", by=lambda _: "ada"), wait("b", "yes", by=lambda _: "bob")),
        (wait("a", "yes", by=lambda _: "ada"), command("c"), Parallel(command("d"), wait("b", "yes"))),
    ],
)
def test_an_event_of_which_nobody_could_say_which_step_it_is_for_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match=r"a and b both wait for .*: give each events of its own"):
        saga(*steps)
    saga(wait("a", "yes"), Parallel(wait("b", "yes"), wait("c", "no")))


@pytest.mark.parametrize(
    "steps",
    [
        (Parallel(wait("a", "Yes"), wait("b", "yes")),),
        (wait("a", "Yes"), wait("b", "yes")),
        (wait("a", "Yes", refusals=("yes",)),),
    ],
)
def test_events_that_dapr_takes_for_one_are_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="Yes and yes are the same event to Dapr"):
        saga(*steps)
    saga(wait("a", "Yes"), wait("b", "Yes"))


def test_an_event_that_no_address_can_name_is_refused() -> None:
    for name in ("", "pay/ok"):
        with pytest.raises(ValueError, match=f"test: no request can raise the event '{name}'"):
            saga(wait("a", "yes", refusals=(name,)))
    saga(wait("a", "it is paid.", "späť"))


def test_the_event_that_cancels_a_saga_cannot_be_awaited() -> None:
    for name in ("annals.cancel", "Annals.Cancel"):
        with pytest.raises(ValueError, match=f"test: {name} is what cancels a saga"):
            saga(wait("a", name))


def test_two_that_wait_at_the_same_time_are_answered_in_any_order() -> None:
    declared = saga(Parallel(wait("a", "yes-a"), wait("b", "yes-b")), command("c"))
    for first, second in (("yes-a", "yes-b"), ("yes-b", "yes-a")):
        given = scenario(declared, {}).raised(first, after=timedelta(minutes=1))
        run = given.raised(second, after=timedelta(minutes=2)).run()
        run.then("completed").then_did("c")
        assert run.took == timedelta(minutes=2)


def test_of_two_that_wait_at_the_same_time_the_one_that_was_answered_waits_no_more() -> None:
    declared = saga(Parallel(wait("a", "yes-a", refusals=("no-a",)), wait("b", "yes-b")))
    given = scenario(declared, {}).raised("yes-a", after=timedelta(minutes=1))
    with pytest.raises(AssertionError, match="nothing waits for no-a any more"):
        given.raised("no-a", after=timedelta(minutes=2)).run()


class Kind(Enum):
    LATE = "late"


@dataclass
class Note:
    text: str


class Rich(SagaInput):
    kind: Kind = Kind.LATE
    owner: UUID = UUID(int=7)
    after: timedelta = timedelta(hours=1)


SENT = {
    "due": "2030-01-01T10:00:00Z",
    "kind": "late",
    "owner": str(UUID(int=7)),
    "after": "PT1H",
    "notes": [{"text": "soon"}],
}


def rich(context: SagaContext[Rich]) -> dict[str, Any]:
    given = context.input
    due = context.started + given.after
    fields = {"due": due, "kind": given.kind, "owner": given.owner, "after": given.after}
    return fields | {"notes": (Note("soon"),)}


def test_what_is_sent_is_json_whatever_a_declaration_makes_it_of() -> None:
    steps = (
        Step("a", SendCommand("a", rich)),
        Step("b", StartSaga("b", rich)),
        Step("c", StartSagas("c", lambda context: [rich(context)])),
        Step("d", CallActivity("d", lambda context: context.results["a"]["tags"])),
    )
    run = scenario(Saga("test", Rich, steps, output=rich), {}).when("a", done({"tags": ("x", "y")})).run()
    run.then("completed").then_did("a", "b", "c", "d")
    assert run.calls[0]["data"] == SENT
    assert [run.calls[1]["input"], run.calls[2]["input"]] == [SENT, SENT]
    assert run.calls[3]["input"] == ["x", "y"]
    assert run.state.output == SENT


def test_what_has_no_json_is_found_before_its_step_begins() -> None:
    undo = SendCommand("b_back", lambda _: {})
    broken = Step("b", SendCommand("b", lambda _: {"what": object()}), compensation=undo)
    run = scenario(saga(command("a"), broken), {}).run()
    run.then("compensated", reason="object").then_did("a", "undo a_back")


def test_of_an_answer_a_step_has_the_fields_that_it_asks_for() -> None:
    ask = Step("q", AskQuery(lambda _: "queries/tasks/t1", ("assignee", "gone")))
    tell = Step("a", SendCommand("a", lambda context: context.results["q"]))
    given = scenario(saga(ask, tell), {}).when("queries/tasks/t1", done({"assignee": "ada", "title": "T"}))
    assert given.run().then("completed").calls[1]["data"] == {"assignee": "ada", "gone": None}


def test_what_takes_longer_than_its_step_may_has_timed_out() -> None:
    declared = saga(command("a", timeout=timedelta(seconds=5), retry=Retry(max_retries=1)))
    run = scenario(declared, {}).when("a", done(takes=timedelta(hours=1))).run()
    run.then("compensated", reason="no answer").then_did("a", "a", "undo a_back")
    assert run.took == timedelta(seconds=5 + 1 + 5)


def test_an_event_that_is_refused_fails_the_test() -> None:
    asked = scenario(saga(wait("w", "yes", by=lambda _: "ada")), {})
    asked.raised("yes").run().then("completed")
    scenario(saga(wait("w", "yes", by=lambda _: "ada")), {}).raised("yes", by="ada").run().then("completed")
    with pytest.raises(AssertionError, match="yes is refused: only ada may answer this, not bob"):
        scenario(saga(wait("w", "yes", by=lambda _: "ada")), {}).raised("yes", by="bob").run()
    with pytest.raises(AssertionError, match="yse is refused: no step waits for yse"):
        scenario(saga(wait("w", "yes")), {}).raised("yse").run()
    with pytest.raises(AttributeError, match="reviewr"):
        scenario(saga(wait("w", "yes", by=lambda context: context.input.reviewr)), {}).raised("yes").run()


@pytest.mark.parametrize(
    ("data", "read"), [(("x",), ["x"]), ({"a": ("x",)}, {"a": ["x"]}), ({1: 2}, {"1": 2})]
)
def test_the_data_of_an_event_is_what_json_makes_of_it(data: Any, read: Any) -> None:
    declared = saga(wait("w", "yes"), output=lambda context: context.results["w"]["data"])
    assert scenario(declared, {}).raised("yes", data=data).run().then("completed").state.output == read


SOON = timedelta(seconds=10)


def test_answers_of_several_that_wait_to_be_taken_are_each_taken_once() -> None:
    """A repetition by one of them in the meantime is no further answer."""
    asked = scenario(saga(command("a"), wait("v", "yes"), wait("w", "yes")), {}).when("a", done(takes=SOON))
    ran = asked.raised("yes", by="ada").raised("yes", by="ada").raised("yes", by="bob").run()
    assert ran.then("completed").took == SOON
    answers = (
        scenario(saga(wait("v", "yes"), wait("w", "yes")), {}).raised("yes", by="ada").raised("yes", by="bob")
    )
    answers.run().then("completed")


def test_what_cannot_be_stored_or_published_is_taken_back_as_in_production() -> None:
    numbered = saga(Step("a", CallActivity("number", lambda _: {})))
    run = scenario(numbered, {}).when("number", done({"id": 2**60})).run()
    run.then("compensated", reason="a came to what cannot be stored: data.result.id: a number beyond")
    asked = saga(Step("a", AskQuery(lambda _: "x", ("name",))))
    scenario(asked, {}).when("x", done({"id": 2**60, "name": "Ada"})).run().then("completed")
    said: Any = ["no object"]
    published = saga(Step("a", PublishEvent("thing.said", lambda _: said)))
    scenario(published, {}).run().then("compensated", reason="this is no event to publish").then_did()
    with pytest.raises(AssertionError, match=r"saga\.completed cannot be stored .* data\.output\.id"):
        scenario(saga(command("a"), output=lambda _: {"id": 2**60}), {}).run()


def test_an_event_is_refused_while_nobody_can_say_who_may_raise_it() -> None:
    find = Step("find", AskQuery(lambda _: "x", ("who",)))
    declared = saga(find, wait("a", "yes", by=lambda saga: saga.results["find"]["who"]))
    asked = scenario(declared, {}).when("x", done({"who": "ada"}, takes=timedelta(seconds=5)))
    with pytest.raises(AssertionError, match="yes is refused: nobody can say yet who may raise yes"):
        asked.raised("yes").run()


def test_a_declaration_that_could_not_work_is_refused() -> None:
    forgotten: Any = "yes"
    for mistaken in (
        lambda: AwaitEvent(forgotten, lambda _: timedelta(hours=1)),
        lambda: AskQuery(lambda _: "x", forgotten),
        lambda: SendCommand("a", lambda _: {}, accept=forgotten),
        lambda: PublishEvent("thing.said", lambda _: {}, targets=forgotten),
    ):
        with pytest.raises(ValueError, match="takes a tuple of names"):
            mistaken()
    for mistaken in (
        lambda: PublishEvent("orderPlaced", lambda _: {}),
        lambda: StartOn("Order.Placed", lambda data, _: data),
        lambda: CancelOn("order", lambda _, order: order),
    ):
        with pytest.raises(ValueError, match="is not a type such as"):
            mistaken()
    with pytest.raises(ValueError, match="at least 1, not 0"):
        StartSagas("other", lambda _: [], concurrency=0)
    with pytest.raises(ValueError, match="test: a CancelOn finds its saga by the business key"):
        saga(command("a"), triggers=(CancelOn("task.deleted", lambda _, task_id: task_id),))
    with pytest.raises(ValueError, match="test: name of Leaver is marked as personal"):
        replace(saga(command("a")), input=Leaver)
    with pytest.raises(ValueError, match=r"Nested\.leaver is marked as personal"):
        replace(saga(command("a")), input=Nested)
    calling = saga(Step("s", command("a").action, compensation=CallActivity("undo", lambda _: {})))
    with pytest.raises(ValueError, match="test: s calls the function undo, which does not exist"):
        SagaCatalog(calling).require_functions({"do"})
    SagaCatalog(calling).require_functions({"do", "undo"})
    for action in (StartSaga("other", lambda _: {}), StartSagas("other", lambda _: [])):
        with pytest.raises(ValueError, match="s starts other, which is not declared"):
            SagaCatalog(saga(Step("s", action)))


def test_the_key_of_a_compensation_is_that_of_no_other_step() -> None:
    mistaken = saga(command("reserve"), command("reserve/undo"))
    with pytest.raises(ValueError, match="test: reserve/undo would have the key of reserve's compensation"):
        SagaCatalog(mistaken)
    SagaCatalog(mistaken, saga(command("reserve"), command("release"), version=2))
    SagaCatalog(saga(Step("reserve", command("a").action), command("reserve/undo")))


@pytest.mark.parametrize(
    ("other", "alike"), [("ship/order", "ship.order"), ("x" * 63 + "_by_air", "x" * 63 + "_by_sea")]
)
def test_two_sagas_that_one_event_starts_have_ids_of_their_own(other: str, alike: str) -> None:
    """The id shows the type's first 63 characters, and a dash for each that an id cannot have."""

    def started_by(saga_type: str, *events: str) -> Saga[Any]:
        triggers = tuple(StartOn(event, lambda data, _: data) for event in events)
        return Saga(saga_type, Nothing, (command("a"),), triggers=triggers)

    with pytest.raises(ValueError, match=r"that order\.placed starts would have the same id"):
        SagaCatalog(started_by(other, "order.placed"), started_by(alike, "order.paid", "order.placed"))
    SagaCatalog(started_by(other, "order.placed"), started_by(alike, "order.paid"))
