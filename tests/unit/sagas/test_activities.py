"""Activities are called at least once; a repeat after the outcome is known does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import orjson
import pytest

from annals.dapr import DaprSidecar, Message, ServiceInvocation
from annals.dapr.invocation import Answer
from annals.sagas import activities
from annals.sagas.activities import ActivityCall, Rejected, SagaActivities
from annals.sagas.events import SagaCompensating, SagaCompleted, SagaStarted, StepCompleted, StepSkipped
from annals.sagas.history import SagaHistory, SagaKey
from annals.sagas.start import entry
from annals.sagas.state import SagaState
from annals.store import MemoryEventStore
from annals.testing.fake import FakeSidecar
from fixed_answer import answering

KEY = SagaKey("s", "default")
AT = datetime(2030, 1, 1, tzinfo=UTC)
STARTED = entry(SagaStarted(started_at=AT, saga_type="t", saga_version=1, input={}, steps=("a",)))


def asked(
    action: Mapping[str, Any],
    attempt: int,
    *,
    final: bool,
    undo: bool = False,
    before: Sequence[Any] = (STARTED,),
) -> dict[str, Any]:
    """Return what the engine asks an activity for."""
    call = {"id": "s", "tenant": "default", "before": before, "step": "a", "attempt": attempt}
    call |= {"run": 0, "undo": undo, "final": final, "timeout": 5, "then": []}
    return call | {"call": action}


class Tried:
    """A function that refuses or fails, and counts its calls."""

    def __init__(self, error: Exception) -> None:
        self.times = 0
        self._error = error
        # Only the function is called, neither a service nor the broker.
        unused = cast("ServiceInvocation", None), cast("DaprSidecar", None)
        self.store = MemoryEventStore()
        self.history = SagaHistory(self.store)
        self.activities = SagaActivities(self.history, *unused, {"try": self._try})

    async def _try(self, _: ActivityCall) -> Any:
        self.times += 1
        raise self._error

    async def perform(
        self, attempt: int, *, final: bool, undo: bool = False, before: Sequence[Any] = (STARTED,)
    ) -> Mapping[str, Any]:
        action = {"kind": "activity", "name": "try", "input": {}}
        call = asked(action, attempt, final=final, undo=undo, before=before)
        return await self.activities.perform(call, None)


async def test_a_workflow_that_outlived_its_saga_does_nothing_and_writes_no_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A restore may leave such workflows: there is no saga whose steps could be compensated."""
    monkeypatch.setattr(activities, "_BEGINS_SECONDS", (0, 0))
    tried = Tried(Rejected("no room"))
    completed = entry(StepCompleted(step="z", attempt=1))
    for undo in (False, True):
        assert await tried.perform(1, final=True, undo=undo, before=[completed]) == {"outcome": "ended"}
    call = {"id": "s", "tenant": "default", "run": 0, "entries": [completed, entry(SagaCompleted())]}
    assert (await tried.activities.record(call, None))["over"]
    assert tried.times == 0
    assert await tried.store.load(KEY.stream) == (None, None)


async def test_a_step_beside_the_one_that_takes_the_beginning_along_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activities, "_BEGINS_SECONDS", (0.01,) * 1_000)
    tried = Tried(Rejected("no room"))
    call = {"id": "s", "tenant": "default", "run": 0, "entries": [entry(StepSkipped(step="b"))]}
    beside = asyncio.gather(tried.perform(1, final=True, before=[]), tried.activities.record(call, None))
    for _ in range(20):
        await asyncio.sleep(0)
    assert tried.times == 0
    await tried.history.record(KEY, [STARTED], None)
    performed, recorded = await beside
    assert (performed["outcome"], recorded["over"], tried.times) == ("rejected", False, 1)
    types = [event.event_type async for event in tried.store.read_stream(KEY.stream)]
    assert types[0] == "saga.started"
    assert sorted(types[1:]) == ["saga.step_failed", "saga.step_skipped", "saga.step_started"]


@pytest.mark.parametrize(
    ("error", "outcome"), [(Rejected("no room"), "rejected"), (ValueError("broken"), "failed")]
)
async def test_a_try_that_failed_is_not_made_again_when_its_call_comes_twice(
    error: Exception, outcome: str
) -> None:
    tried = Tried(error)
    first = await tried.perform(1, final=True)
    again = await tried.perform(1, final=True)
    assert first["outcome"] == again["outcome"] == outcome
    assert again["message"] == first["message"]
    assert again["uncertain"] == first["uncertain"]
    assert tried.times == 1


class Place:
    """A service that reserves a place, unless it `says` something else, and the processes that ask it to."""

    def __init__(self) -> None:
        self.reserved = False
        self.says: Answer | None = None
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.store = MemoryEventStore()

    async def invoke(self, *_: Any, **__: Any) -> Answer:
        self.asked += 1
        await self.may_answer.wait()
        if self.says is not None:
            return self.says
        self.reserved = True
        raise asyncio.CancelledError  # the process dies before it has the answer

    def orchestrator(self) -> SagaActivities:
        """Return the activities of another process of the orchestrator."""
        apps = cast("ServiceInvocation", self)
        return SagaActivities(SagaHistory(self.store), apps, cast("DaprSidecar", None), {})

    async def state(self) -> SagaState:
        _, state = await SagaHistory(self.store).load(KEY)
        return state


def refusal(status: int, problem: str) -> Answer:
    return Answer(status, {"type": f"urn:annals:problem:{problem}", "detail": "not now"})


REFUSALS = [
    refusal(503, "read-only"),
    refusal(503, "unavailable"),
    refusal(503, "busy"),
    refusal(409, "conflict"),
    refusal(422, "rule"),
    refusal(422, "key-reused"),
    Answer(401, {"errorCode": "ERR_UNAUTHORIZED", "message": "invalid api token"}),
    Answer(403, {"errorCode": "ERR_DIRECT_INVOKE", "message": "access denied by policy"}),
]


@pytest.mark.parametrize("says", REFUSALS)
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_try_that_was_begun_before_may_have_taken_effect_whatever_its_call_is_answered_now(
    says: Answer, restarted: bool
) -> None:
    place = Place()
    with pytest.raises(asyncio.CancelledError):
        await place.orchestrator().perform(asked(COMMAND, 1, final=False), None)
    if restarted:
        await SagaHistory(place.store).decide(KEY, lambda saga: saga.restart(1, "it stood still"))
    place.says = says
    second = place.orchestrator()
    run = {"run": int(restarted)}
    first = await second.perform(asked(COMMAND, 1, final=False) | run, None)
    assert first["uncertain"]
    if first["outcome"] != "rejected":
        await second.perform(asked(COMMAND, 2, final=True) | run, None)
    state = await place.state()
    assert (place.reserved, state.steps["a"].uncertain, state.undo_order) == (True, True, ("a",))


@pytest.mark.parametrize("says", REFUSALS)
async def test_a_try_of_one_call_is_certain_although_others_write_to_the_saga_meanwhile(says: Answer) -> None:
    place = Place()
    place.says = says
    process = place.orchestrator()
    await process.record({"id": "s", "tenant": "default", "run": 0, "entries": [STARTED]}, None)
    await SagaHistory(place.store).decide(KEY, lambda saga: saga.cancel("not any more"))
    performed = await process.perform(asked(COMMAND, 1, final=True), None)
    assert not performed["uncertain"]
    assert (await place.state()).undo_order == ()


async def test_a_call_waits_for_another_that_makes_the_same_try_here_and_fails_as_it_did() -> None:
    place = Place()
    place.says = refusal(503, "read-only")
    place.may_answer.clear()
    process = place.orchestrator()
    calls = [asyncio.create_task(process.perform(asked(COMMAND, 1, final=True), None)) for _ in range(2)]
    for _ in range(20):
        await asyncio.sleep(0)
    place.may_answer.set()
    first, second = await asyncio.gather(*calls)
    assert first == second
    assert (first["uncertain"], place.asked) == (False, 1)


async def test_a_try_that_two_processes_make_is_as_uncertain_as_either_of_its_calls() -> None:
    """Which of the two answers Dapr takes is not known."""
    one, other = Place(), Place()
    other.store = one.store
    one.says = other.says = refusal(503, "read-only")
    one.may_answer.clear()
    first = asyncio.create_task(one.orchestrator().perform(asked(COMMAND, 1, final=True), None))
    while not one.asked:
        await asyncio.sleep(0)
    assert (await other.orchestrator().perform(asked(COMMAND, 1, final=True), None))["uncertain"]
    one.may_answer.set()
    assert (await first)["uncertain"]
    assert (await one.state()).undo_order == ("a",)


async def test_an_earlier_try_that_comes_late_is_not_made_and_a_later_one_is() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=False)
    await tried.perform(2, final=False)
    assert tried.times == 2
    assert (await tried.perform(1, final=False))["outcome"] == "failed"
    assert tried.times == 2


async def test_a_compensation_that_failed_is_not_tried_again_by_the_same_call() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=True)
    await tried.perform(1, final=False, undo=True)
    await tried.perform(1, final=False, undo=True)
    assert tried.times == 2


COMMAND: Mapping[str, Any] = {"kind": "command", "app": "command", "type": "t", "data": {}}
FUNCTION: Mapping[str, Any] = {"kind": "activity", "name": "try", "input": {}}
QUERY: Mapping[str, Any] = {"kind": "query", "app": "projector", "path": "q", "fields": ["a"]}


@pytest.mark.parametrize(("call", "body"), [(COMMAND, b""), (QUERY, b""), (QUERY, b"null"), (QUERY, b"[]")])
async def test_what_says_nothing_of_what_was_done_or_asked_for_is_no_success(
    call: Mapping[str, Any], body: bytes
) -> None:
    """Such an answer may be all that is left of what an app sent before it died."""
    store = MemoryEventStore()
    status = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with answering(status + body) as port:
        apps = ServiceInvocation(port)
        activities = SagaActivities(SagaHistory(store), apps, cast("DaprSidecar", None), {})
        performed = await activities.perform(asked(call, 1, final=False), None)
        await apps.close()
    assert (performed["outcome"], performed["uncertain"]) == ("failed", body == b"")
    recorded = [event.event_type async for event in store.read_stream(KEY.stream)]
    assert "saga.step_completed" not in recorded


@pytest.mark.parametrize("problem", ["busy", "read-only", "unavailable", "conflict", "outcome-unknown"])
async def test_a_refusal_says_whether_anything_was_done(problem: str) -> None:
    body = f'{{"type":"urn:annals:problem:{problem}","detail":"not now"}}'.encode()
    head = "HTTP/1.1 503 No\r\nContent-Type: application/problem+json\r\n"
    async with answering(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as port:
        apps = ServiceInvocation(port)
        activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, cast("DaprSidecar", None), {})
        performed = await activities.perform(asked(COMMAND, 1, final=False), None)
        await apps.close()
    assert (performed["outcome"], performed["uncertain"]) == ("failed", problem == "outcome-unknown")


async def answered(status: int, body: Mapping[str, Any], call: Mapping[str, Any] = COMMAND) -> dict[str, Any]:
    """Return the outcome of a try that gets this answer."""
    text = orjson.dumps(body)
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    async with answering(head.encode() + text) as port:
        apps = ServiceInvocation(port)
        activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, cast("DaprSidecar", None), {})
        performed = await activities.perform(asked(call, 1, final=False), None)
        await apps.close()
    return performed


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (400, "malformed"),
        (403, "forbidden"),
        (404, "not-found"),
        (413, "too-large"),
        (422, "rule"),
        (422, "key-reused"),
    ],
)
async def test_what_is_refused_for_its_own_sake_is_not_tried_again(status: int, problem: str) -> None:
    performed = await answered(status, {"type": f"urn:annals:problem:{problem}", "detail": "no"})
    assert (performed["outcome"], performed["uncertain"]) == ("rejected", False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"type": "urn:annals:problem:unknown-command", "detail": "no command is called t"}),
        (404, {"type": "urn:annals:problem:http", "detail": "GET /queries/new: Not Found"}),
        (
            401,
            {"type": "urn:annals:problem:unauthorised", "detail": "only the sidecar may call this service"},
        ),
        (401, {"errorCode": "ERR_UNAUTHORIZED", "message": "invalid api token"}),
        (403, {"errorCode": "ERR_DIRECT_INVOKE", "message": "access denied by policy"}),
        (404, {"errorCode": "ERR_DIRECT_INVOKE", "message": "not found"}),
        (405, {}),
    ],
)
async def test_who_is_not_let_in_or_not_understood_yet_is_tried_again(
    status: int, body: Mapping[str, Any]
) -> None:
    """An older release may answer, or a token is being replaced: nothing was refused, and nothing done."""
    for call in (COMMAND, QUERY):
        performed = await answered(status, body, call)
        assert (performed["outcome"], performed["uncertain"]) == ("failed", False)


@pytest.mark.parametrize("call", [FUNCTION, {"kind": "of a newer release"}])
async def test_what_an_older_release_does_not_know_is_tried_again(call: Mapping[str, Any]) -> None:
    """During an upgrade, Dapr may give a try to a replica of the older release."""
    performed = await answered(200, {}, call)
    assert (performed["outcome"], performed["uncertain"]) == ("failed", False)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({"type": "urn:annals:problem:rule", "rule": "thing.gone", "detail": "it is gone"}, "thing.gone"),
        ({"type": "urn:annals:problem:not-found", "detail": "there is none"}, "not_found"),
    ],
)
async def test_a_refusal_that_a_step_accepts_is_what_it_came_to(body: Mapping[str, Any], rule: str) -> None:
    accepting = {**COMMAND, "accept": [rule, "thing.other"]}
    performed = await answered(422, body, accepting)
    assert (performed["outcome"], performed["result"]) == ("done", {"accepted": rule})
    performed = await answered(422, body, {**COMMAND, "accept": ["thing.other"]})
    assert performed["outcome"] == "rejected"


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize(
    ("extra", "user", "correlation"),
    [
        ({}, None, "s"),
        ({"user": "ada", "correlation_id": "chain"}, "ada", "chain"),
    ],
)
async def test_a_command_is_sent_for_the_saga_under_a_key_of_its_step(
    extra: Mapping[str, Any], user: str | None, correlation: str, undo: bool
) -> None:
    asked_for: list[dict[str, str]] = []

    class Apps:
        async def invoke(self, *_: Any, headers: dict[str, str], **__: Any) -> Answer:
            asked_for.append(headers)
            return Answer(503, {})

    apps = cast("ServiceInvocation", Apps())
    activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, cast("DaprSidecar", None), {})
    for attempt in (1, 2):
        await activities.perform(asked(COMMAND, attempt, final=False, undo=undo) | extra, None)
    await activities.perform(asked({**COMMAND, "user": "bob"}, 3, final=False, undo=undo) | extra, None)
    for headers in asked_for:
        headers.pop("traceparent", None)
    key = "saga:s/a/undo" if undo else "saga:s/a"
    common = {"x-tenant-id": "default", "x-correlation-id": correlation, "idempotency-key": key}
    asks = common | ({"x-user-id": user} if user else {})
    assert asked_for == [asks, asks, common | {"x-user-id": "bob"}]


@pytest.mark.parametrize("call", [COMMAND, QUERY, FUNCTION])
async def test_what_does_not_answer_in_time_may_have_taken_effect(call: Mapping[str, Any]) -> None:
    async def silent(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    class Silent:
        invoke = staticmethod(silent)

    apps, sidecar = cast("ServiceInvocation", Silent()), cast("DaprSidecar", None)
    activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, sidecar, {"try": silent})
    performed = await activities.perform(asked(call, 1, final=False) | {"timeout": 0.01}, None)
    said = {name: performed[name] for name in ("outcome", "message", "uncertain")}
    assert said == {"outcome": "failed", "message": "no answer within 0.01 s", "uncertain": True}


@pytest.mark.parametrize(("error", "uncertain"), [(ValueError("broken"), True), (Rejected("no room"), False)])
async def test_a_function_that_fails_may_have_acted_and_one_that_rejects_has_not(
    error: Exception, uncertain: bool
) -> None:
    performed = await Tried(error).perform(1, final=False)
    assert performed["uncertain"] == uncertain


async def test_an_event_that_the_broker_does_not_take_is_not_published() -> None:
    class Refusing:
        async def publish(self, _topic: str, messages: Sequence[Message]) -> frozenset[str]:
            return frozenset(message.entry_id for message in messages)

    apps, sidecar = cast("ServiceInvocation", None), cast("DaprSidecar", Refusing())
    activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, sidecar, {})
    performed = await activities.perform(asked(PUBLISHING, 1, final=False), None)
    assert (performed["outcome"], performed["uncertain"]) == ("failed", False)


PUBLISHING = {"kind": "publish", "type": "thing.asked", "data": {"n": 1}, "targets": ["other"]}


async def test_an_event_that_is_published_again_is_the_same_one() -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        given = []
        for tenant in ("default", "default", "other"):  # as if publishing had not been recorded
            history = SagaHistory(MemoryEventStore())
            activities = SagaActivities(history, cast("ServiceInvocation", None), client, {})
            call = asked(PUBLISHING, 1, final=False) | {"tenant": tenant, "user": "ada"}
            performed = await activities.perform(call, None)
            assert performed["outcome"] == "done"
            given.append(performed["result"]["event_id"])
        sidecar.faults.fail("BulkPublishEvent")
        failed = await activities.perform(call | {"attempt": 2, "step": "b", "before": []}, None)
        await client.close()
        told = [orjson.loads(message.body) for message in sidecar.dapr.broker.log("integration-events")]
    assert (failed["outcome"], failed["uncertain"]) == ("failed", True)
    assert [one["id"] for one in told] == given
    assert given[0] == given[1] != given[2], "another tenant's saga may have the same id"
    said = [
        [one["data"][name] for name in ("tenant_id", "user_id", "correlation_id", "target_services", "data")]
        for one in told
    ]
    assert said == [[tenant, "ada", "s", ["other"], {"n": 1}] for tenant in ("default", "default", "other")]


async def test_what_a_function_gives_becomes_json_as_what_it_is_given_does() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)

    async def moments(_: ActivityCall) -> Any:
        return {"at": at, "of": {Decimal("1.5")}}

    unused = cast("ServiceInvocation", None), cast("DaprSidecar", None)
    activities = SagaActivities(SagaHistory(MemoryEventStore()), *unused, {"try": moments})
    performed = await activities.perform(asked(FUNCTION, 1, final=False), None)
    assert (performed["outcome"], performed["result"]) == (
        "done",
        {"at": "2030-01-01T00:00:00Z", "of": ["1.5"]},
    )


async def test_a_function_that_gives_what_has_no_json_has_acted_and_would_do_so_again() -> None:
    async def odd(_: ActivityCall) -> Any:
        return object()

    unused = cast("ServiceInvocation", None), cast("DaprSidecar", None)
    activities = SagaActivities(SagaHistory(MemoryEventStore()), *unused, {"try": odd})
    performed = await activities.perform(asked(FUNCTION, 1, final=False), None)
    assert (performed["outcome"], performed["uncertain"]) == ("rejected", True)
    assert performed["message"].startswith("try gave what has no JSON: ")


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Giving:
    """Stands for another app and a function, and gives one value whatever it is asked."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.store = MemoryEventStore()
        apps, no_broker = cast("ServiceInvocation", self), cast("DaprSidecar", None)
        self._activities = SagaActivities(SagaHistory(self.store), apps, no_broker, {"try": self._try})

    async def invoke(self, *_: Any, **__: Any) -> Answer:
        return Answer(200, self._given)

    async def _try(self, _: ActivityCall) -> Any:
        return self._given

    async def perform(self, action: Mapping[str, Any], *, undo: bool = False) -> Mapping[str, Any]:
        return await self._activities.perform(asked(action, 1, final=False, undo=undo), None)


@pytest.mark.parametrize("call", [COMMAND, FUNCTION, QUERY])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1234567890123456789, "data.result.a: a number beyond"),
        ("a\0b", "data.result.a: PostgreSQL and others hold no text with a NUL"),
        (deep(99), "nested more than 100 deep"),
        ("caf\udce9.txt", "surrogates"),
    ],
)
async def test_what_a_step_comes_to_and_no_history_can_hold_is_refused_at_once(
    call: Mapping[str, Any], value: Any, why: str
) -> None:
    """The next activity must record it. If that failed for good, no compensation could be recorded."""
    giving = Giving({"a": value})
    performed = await giving.perform(call)
    assert (performed["outcome"], performed["uncertain"]) == ("rejected", True)
    assert performed["message"].startswith("a came to what cannot be stored: ")
    assert why in performed["message"]
    types = [event.event_type async for event in giving.store.read_stream(KEY.stream)]
    assert types == ["saga.started", "saga.step_started", "saga.step_failed"]


async def test_what_a_compensation_is_answered_is_recorded_nowhere_and_may_be_anything() -> None:
    performed = await Giving({"a": 1234567890123456789}).perform(COMMAND, undo=True)
    assert performed["outcome"] == "done"


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("words", ["no file a\0b", "no file caf\udce9.txt"])
async def test_why_a_try_failed_is_recorded_whatever_its_words_hold(words: str, undo: bool) -> None:
    performed = await Tried(ValueError(words)).perform(1, final=True, undo=undo)
    assert performed["outcome"] == "failed"
    assert performed["message"].startswith("ValueError: no file ")


async def test_an_event_that_no_envelope_holds_is_not_published_and_not_tried_again() -> None:
    publishing = {"kind": "publish", "type": "thing.asked", "targets": []}
    unused = cast("ServiceInvocation", None), cast("DaprSidecar", None)
    for attempt, number in enumerate((2**60, 2**70), 1):
        activities = SagaActivities(SagaHistory(MemoryEventStore()), *unused, {})
        call = asked(publishing | {"data": {"n": number}}, attempt, final=False)
        performed = await activities.perform(call, None)
        assert (performed["outcome"], performed["uncertain"]) == ("rejected", False)
        assert "a number beyond" in performed["message"]


async def test_a_command_that_has_no_json_is_not_sent_and_not_tried_again() -> None:
    apps = ServiceInvocation(1)  # nothing may arrive there
    for attempt, given in enumerate((2**70, "caf\udce9.txt"), 1):
        activities = SagaActivities(SagaHistory(MemoryEventStore()), apps, cast("DaprSidecar", None), {})
        call = asked({**COMMAND, "data": {"n": given}}, attempt, final=False)
        performed = await activities.perform(call, None)
        assert (performed["outcome"], performed["uncertain"]) == ("rejected", False)
    await apps.close()


async def test_an_app_that_answers_204_did_what_it_was_told() -> None:
    store = MemoryEventStore()
    async with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        apps = ServiceInvocation(port)
        activities = SagaActivities(SagaHistory(store), apps, cast("DaprSidecar", None), {})
        performed = await activities.perform(asked(COMMAND, 1, final=False), None)
        await apps.close()
    assert performed["outcome"] == "done"


@pytest.mark.parametrize("undo", [False, True])
async def test_the_call_of_an_earlier_run_does_nothing(undo: bool) -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=False)
    await tried.history.decide(KEY, lambda saga: saga.restart(1, "it stood still"))
    assert await tried.perform(2, final=False, undo=undo) == {"outcome": "ended"}
    assert tried.times == 1


async def test_a_saga_that_was_ended_by_force_acts_no_more() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=False)
    await tried.history.decide(KEY, lambda saga: saga.terminate("enough", frozenset()))
    assert (await tried.perform(2, final=False))["outcome"] == "ended"
    assert tried.times == 1


async def test_a_saga_that_is_taken_back_acts_no_more_and_is_taken_back() -> None:
    tried = Tried(ValueError("broken"))
    await tried.perform(1, final=False)
    await tried.history.record(KEY, [entry(SagaCompensating(reason="no"))], None)
    assert (await tried.perform(2, final=False))["outcome"] == "ended"
    assert tried.times == 1
    await tried.perform(1, final=False, undo=True)
    assert tried.times == 2
