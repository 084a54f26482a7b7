"""Steps and compensations that fail on real workflows: what may have acted is taken back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest

from annals.dapr.invocation import Answer
from annals.sagas import (
    Parallel,
    Saga,
    SagaCatalog,
    SagaStatus,
    SendCommand,
    Step,
    StepStatus,
    history,
)
from annals.sagas.asker import Asker
from annals.sagas.history import Recorded, SagaKey
from annals.sagas.runs import instance_id
from annals.store import Append, Appended, AppendTooLarge
from annals.store.sizes import ENVELOPE_BYTES
from conftest import until
from saga_machine import SagaMachine, saga_machine
from small_sagas import KEY, WAIT, Answering, Numbered, answered, beside, command


class Broken:
    """Answers commands, but for one: that takes effect, and what comes back is beyond what is foreseen."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
        self.did.append(path.removeprefix("commands/"))
        if path == "commands/b":
            raise RuntimeError("beyond all")
        return Answer(200, {})


@pytest.mark.parametrize("block", [(command("b"),), (Parallel(command("b"), command("c")),)])
async def test_a_step_whose_activity_failed_may_have_acted_and_is_taken_back(block: Any) -> None:
    broken = Broken()
    saga = Saga("test", Numbered, (command("a"), *block))
    async with saga_machine(SagaCatalog(saga), broken) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert "beyond all" in (ended.reason or "")
    assert ended.steps["b"].status == "compensated"
    assert sorted(broken.did) == sorted(list(ended.steps) + [f"{name}_back" for name in ended.steps])


async def test_what_could_not_be_recorded_goes_before_what_was_done_beside_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is recorded last is taken back first, also by a workflow that goes on in place of this one."""

    async def has_told_of_a_and_c() -> bool:
        history = machine.dapr.workflows.find(instance_id(KEY)).history
        return sum(event.HasField("taskCompleted") for event in history) == len(["a", "c"])

    saga = Saga("test", Numbered, (command("a"), Parallel(command("b"), command("c"))))
    async with saga_machine(SagaCatalog(saga), Answering()) as machine:
        record = machine.history.record_news

        async def breaks_late(key: SagaKey, entries: Any, *given: Any) -> Recorded:
            if any(one["data"].get("step") == "b" for one in entries if one["type"] == "saga.step_started"):
                await until(has_told_of_a_and_c)
                monkeypatch.undo()
                raise RuntimeError("beyond all")
            return await record(key, entries, *given)

        monkeypatch.setattr(machine.history, "record_news", breaks_late)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.undo_order) == (SagaStatus.COMPENSATED, ("a", "c", "b"))


async def test_a_step_that_comes_to_an_id_that_no_history_can_hold_is_taken_back_with_all_before_it() -> None:
    """Many an outside system's id is a number beyond 2^53."""
    did: list[str] = []

    class Numbering:
        async def invoke(self, app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            return Answer(200, {"id": 1234567890123456789} if app == "shop" else {})

    order = Step(
        "order",
        SendCommand("order", lambda _: {}, app="shop"),
        compensation=SendCommand("order_back", lambda _: {}, app="shop"),
    )
    saga = Saga("test", Numbered, (command("a"), order, command("b")))
    async with saga_machine(SagaCatalog(saga), Numbering()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert "order came to what cannot be stored: data.result.id: a number beyond" in (ended.reason or "")
    assert did == ["a", "order", "order_back", "a_back"]


@pytest.mark.parametrize("words", ["a\0b", "caf\udce9.txt"])
async def test_a_declaration_that_fails_in_words_that_cannot_be_stored_is_taken_back(words: str) -> None:
    def failing(_: Any) -> Any:
        raise ValueError(words)

    saga = Saga("test", Numbered, (command("a"), Step("b", SendCommand("b", failing))))
    async with saga_machine(SagaCatalog(saga), Broken()) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert (ended.reason or "").startswith("ValueError: ")


@pytest.mark.parametrize("times", [1, 100])
async def test_a_compensation_that_fails_beyond_what_is_foreseen_is_tried_again_and_then_left(
    times: int,
) -> None:
    """And the others go on: what was done before it is taken back all the same."""

    class BreaksBack:
        def __init__(self) -> None:
            self.did: list[str] = []

        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            self.did.append(path.removeprefix("commands/"))
            if path == "commands/c":
                return Answer(422, {"type": "urn:annals:problem:rule", "detail": REFUSED})
            if path == "commands/b_back" and self.did.count("b_back") <= times:
                raise RuntimeError("beyond all")
            return Answer(200, {})

    breaks = BreaksBack()
    saga = Saga("test", Numbered, (command("a"), command("b"), command("c")))
    async with saga_machine(SagaCatalog(saga), breaks) as machine:
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        for _ in range(20):
            await machine.clock.advance(timedelta(seconds=30))
        ended = await machine.orchestrator.load(KEY)
    known = ended.steps["b"]
    if times == 1:
        assert (ended.status, ended.left, known.undo_attempts) == (SagaStatus.COMPENSATED, (), 2)
    else:
        assert (ended.status, ended.left) == (SagaStatus.FAILED, ("b",))
        assert "beyond all" in (known.error.message if known.error else "")
        assert known.status is StepStatus.COMPENSATION_FAILED
    assert (breaks.did[-1], ended.steps["a"].status) == ("a_back", StepStatus.COMPENSATED)


TOO_MUCH = "too much for one transaction"


REFUSED = "no more of that"


def bound(machine: SagaMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store take no saga that is larger than 40 kB."""
    append = machine.store.append

    async def bounded(given: Append) -> Appended:
        if len(orjson.dumps(given.state)) > 40_000:
            raise AppendTooLarge(TOO_MUCH)
        return await append(given)

    monkeypatch.setattr(machine.store, "append", bounded)


@pytest.mark.parametrize(
    ("steps", "cancels", "why"),
    [
        ((command("a"),), False, TOO_MUCH),
        ((command("a"), command("b")), False, TOO_MUCH),
        ((command("a"), WAIT), False, TOO_MUCH),
        ((command("a"), command("b")), True, "not any more"),
        ((Parallel(command("a"), command("refused")),), False, REFUSED),
    ],
)
async def test_a_step_that_comes_to_more_than_can_be_recorded_is_taken_back(
    steps: tuple[Any, ...], cancels: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if path == "commands/refused":
                return Answer(422, {"type": "urn:annals:problem:rule", "detail": REFUSED})
            if path != "commands/a":
                return Answer(200, {})
            if cancels:
                await machine.orchestrator.cancel(KEY, "not any more", Asker())
            return Answer(200, {"text": "x" * 50_000})

    saga = Saga("test", Numbered, steps)
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert why in (ended.reason or "")
    assert (did[0], did[-1], did.count("a")) == ("a", "a_back", 1)


async def test_what_could_not_be_recorded_beside_a_wait_is_taken_back_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            return Answer(200, {"text": "x" * 50_000})

    async with saga_machine(SagaCatalog(beside(command("a"), answered("w"))), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        await machine.orchestrator.raise_event(KEY, "yes-w", None, Asker("ada"))
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert TOO_MUCH in (ended.reason or "")
    assert (did[0], did[-1], did.count("a")) == ("a", "a_back", 1)


async def test_what_could_not_be_recorded_is_taken_back_also_by_who_goes_on_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[str] = []

    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if did[-1] == "b_back" and did.count("b_back") == 1:
                going_back.set()
                await goes_on.wait()
            return Answer(200, {"text": "x" * 50_000} if path == "commands/a" else {})

    going_back, goes_on = asyncio.Event(), asyncio.Event()
    saga = Saga("test", Numbered, (command("z"), command("a"), command("b"), command("c")))
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        async with asyncio.timeout(20):
            await going_back.wait()
        await machine.orchestrator.restart(KEY, "its workflow was lost", Asker())
        goes_on.set()
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert ended.status is SagaStatus.COMPENSATED
    assert list(dict.fromkeys(did)) == ["z", "a", "b_back", "a_back", "z_back"]
    assert {ended.steps[name].status for name in ("z", "a", "b")} == {StepStatus.COMPENSATED}


async def test_a_saga_that_comes_to_too_much_by_small_results_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left out of the record on the way back is less than what that adds to it."""
    sizes = [40_000, 20_000, 10_000, 5_000, *[700] * 40]
    did: list[str] = []

    class Terse:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            did.append(path.removeprefix("commands/"))
            if did[-1].endswith("_back"):
                return Answer(200, {})
            return Answer(200, {"text": "x" * sizes[int(did[-1].removeprefix("s"))]})

    saga = Saga("test", Numbered, tuple(command(f"s{index}") for index in range(len(sizes))))
    async with saga_machine(SagaCatalog(saga), Terse()) as machine:
        append = machine.store.append

        async def bounded(given: Append) -> Appended:
            size = sum(len(orjson.dumps(event.data)) + ENVELOPE_BYTES for event in given.events)
            if size + len(orjson.dumps(given.state)) > 100_000 + history._WAY_BACK_BYTES - given.reserve:
                raise AppendTooLarge(TOO_MUCH)
            return await append(given)

        monkeypatch.setattr(machine.store, "append", bounded)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, TOO_MUCH in (ended.reason or "")) == (SagaStatus.COMPENSATED, True)
    back = [name for name in did if name.endswith("_back")]
    assert 4 < len(back) < len(sizes)
    # Of the last nobody knows how far it came.
    assert back == [f"s{index}_back" for index in reversed(range(len(did) - len(back) + 1))]


async def test_a_saga_whose_completion_cannot_be_recorded_has_not_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Verbose:
        async def invoke(self, _app: str, _method: str, path: str, **_: Any) -> Answer:
            return Answer(200, {"text": "x" * 50_000} if path == "commands/a" else {})

    saga = Saga("test", Numbered, (command("a"),), output=lambda _: "all is well")
    async with saga_machine(SagaCatalog(saga), Verbose()) as machine:
        bound(machine, monkeypatch)
        await machine.orchestrator.start(KEY, "test", {}, Asker())
        await machine.clock.settle()
        ended = await machine.orchestrator.load(KEY)
    assert (ended.status, ended.steps["a"].status) == (SagaStatus.COMPENSATED, StepStatus.COMPENSATED)
    assert TOO_MUCH in (ended.reason or "")
