from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

import pytest

from annals.aggregates import (
    Aggregate,
    Command,
    CommandBus,
    CommandContext,
    CommandRequest,
    Handler,
    KeyReused,
    NotFound,
    RuleViolation,
)
from annals.aggregates import bus as bus_module
from annals.events import DomainEvent, EventData, EventRegistry, Position, StreamId
from annals.privacy import PERSONAL, SubjectErased, SubjectKey
from annals.store import (
    Append,
    Appended,
    Backpressure,
    ConflictError,
    EventStore,
    Head,
    MemoryEventStore,
    Outcome,
    OutcomeUnknown,
    StoreUnavailable,
)
from annals.testing.fake import FakeSidecar
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY
from event_stores import opened
from sealing import sealed

TASK = StreamId("default", "task-t")


def bus(store: EventStore, **options: object) -> CommandBus:
    return CommandBus(store, REGISTRY, HANDLERS, source="test", protect=sealed, **options)  # type: ignore[arg-type]


def event(kind: str, data: dict[str, object]) -> DomainEvent:
    return DomainEvent(event_type=kind, source="test", aggregate_type="task", aggregate_id="t", data=data)


def command(kind: str, **data: object) -> CommandRequest:
    return CommandRequest(kind, {"id": "t", **data}, CommandContext(user="ada"))


def keyed(kind: str, **data: object) -> CommandRequest:
    return dataclasses.replace(command(kind, **data), idempotency_key="the-key")


async def test_a_state_of_an_older_schema_is_folded_again() -> None:
    store = MemoryEventStore()
    past = (event("task.created", {"title": "Write"}), event("task.completed", {}))
    await store.append(Append(TASK, past, 0, state={"nonsense": True}, state_schema=0))
    with pytest.raises(RuleViolation, match="completed"):
        await bus(store).execute(command("task.complete"))
    assert (await bus(store).execute(command("task.reopen"))).appended.version == 3


class Closed(EventData, type="account.closed"):
    pass


class Account(Aggregate):
    aggregate_type: ClassVar[str] = "account"

    def close(self) -> EventData:
        return Closed()

    def apply(self, _: EventData) -> Self:
        return self


class AccountOfNow(Account):
    """Of a release that also keeps whether the account is closed; the event has been there since before."""

    closed: bool = False

    def close(self) -> EventData:
        if self.closed:
            raise RuleViolation("account.closed", "the account is closed")
        return super().close()

    def apply(self, event: EventData) -> Self:
        return self.model_copy(update={"closed": isinstance(event, Closed)})


class Close(Command):
    command_type: ClassVar[str] = "account.close"

    id: str


def accounts(store: EventStore, release: type[Account]) -> CommandBus:
    handler = Handler(Close, release, lambda said: said.id, lambda account, _: account.close(), creates=True)
    return CommandBus(store, EventRegistry([Closed]), [handler], source="test")


async def test_a_state_without_a_field_of_this_release_is_folded_again() -> None:
    store = MemoryEventStore()
    request = CommandRequest("account.close", {"id": "a"})
    await accounts(store, Account).execute(request)

    with pytest.raises(RuleViolation, match="closed"):
        await accounts(store, AccountOfNow).execute(request)


async def test_what_another_instance_did_is_seen_before_a_command_is_refused() -> None:
    store = MemoryEventStore()
    one, two = bus(store), bus(store)
    await one.execute(command("task.create", title="Write"))
    await one.execute(command("task.complete"))
    await two.execute(command("task.reopen"))
    assert (await one.execute(command("task.complete"))).appended.version == 4


async def test_a_repeat_is_known_whatever_the_order_of_its_data() -> None:
    tasks = bus(MemoryEventStore())
    request = keyed("task.create", title="Write", description="A page")
    first = await tasks.execute(request)
    reordered = dataclasses.replace(request, data=dict(reversed(request.data.items())))
    assert await tasks.execute(reordered) == first


@pytest.mark.parametrize("calls", [1, 2])
async def test_a_repeat_says_as_the_first_whether_its_aggregate_is_new(calls: int) -> None:
    often = dataclasses.replace(REACH, decide=lambda _, said: [Reached(phone=said.phone)] * calls)
    people = CommandBus(MemoryEventStore(), EventRegistry([Reached]), [often], source="test", protect=sealed)
    for key, created in (("one", True), ("two", False)):
        request = CommandRequest("person.reach", {}, idempotency_key=key)
        first = await people.execute(request)
        assert first.created is created
        assert await people.execute(request) == first


async def test_a_key_is_of_one_command() -> None:
    store = MemoryEventStore()
    tasks = bus(store)
    await tasks.execute(command("task.create", title="Write"))
    await tasks.execute(keyed("task.complete"))
    for other in (keyed("task.reopen"), keyed("task.complete", id="another")):
        with pytest.raises(KeyReused):
            await tasks.execute(other)
    assert [one.event_type async for one in store.read_stream(TASK)] == ["task.created", "task.completed"]


async def test_a_repeat_gets_the_first_outcome_after_its_subject_was_erased_too() -> None:
    erased = False

    async def protect(tenant: str, subject: str, fields: Mapping[str, str]) -> dict[str, str]:
        if erased:
            raise SubjectErased(f"{subject} was erased")
        return await sealed(tenant, subject, fields)

    members = CommandBus(MemoryEventStore(), REGISTRY, HANDLERS, source="test", protect=protect)
    request = keyed("member.register", id="zoe", name="Zoe")
    first = await members.execute(request)
    reserve = CommandRequest("member.reserve", {"id": "zoe", "task_id": "t"}, idempotency_key="another-key")
    await members.execute(reserve)
    await members.execute(command("member.register", id="max", name="Max"))
    erased = True
    assert await members.execute(request) == first
    for other in (
        command("member.register", id="zoe", name="Zoe"),
        dataclasses.replace(request, idempotency_key="new"),
        dataclasses.replace(request, idempotency_key="another-key"),
        keyed("member.register", id="max", name="Max"),
    ):
        with pytest.raises(RuleViolation, match="was erased"):
            await members.execute(other)


async def test_nothing_is_kept_of_a_command_by_which_a_guessed_name_could_be_confirmed() -> None:
    """It would outlive the erasure of the subject: it is not encrypted."""
    kept = []
    for key in (bytes(64), bytes(range(64))):

        async def protect(
            tenant: str, subject: str, fields: Mapping[str, str], key: bytes = key
        ) -> dict[str, str]:
            of = SubjectKey(tenant, subject, key)
            return {field: str(of.encrypt(field, text)) for field, text in fields.items()}

        store = MemoryEventStore()
        members = CommandBus(store, REGISTRY, HANDLERS, source="test", protect=protect)
        await members.execute(keyed("member.register", id="zoe", name="Zoe"))
        _, outcome = await store.load(StreamId("default", "member-zoe"), "the-key")
        assert outcome is not None
        kept.append(outcome.fingerprint)
    assert kept[0] != kept[1], "the fingerprint is of what is encrypted"


class Reached(EventData, type="person.reached"):
    phone: str | None


class Reach(Command):
    command_type: ClassVar[str] = "person.reach"

    phone: Annotated[str, PERSONAL] | None = None


class Person(Aggregate):
    aggregate_type: ClassVar[str] = "person"

    def apply(self, event: EventData) -> Self:  # noqa: ARG002
        return self


REACH = Handler(Reach, Person, lambda _: "zoe", lambda _, said: Reached(phone=said.phone), creates=True)


async def test_a_personal_field_that_may_be_left_out_is_protected_where_it_is_given() -> None:
    store = MemoryEventStore()
    people = CommandBus(store, EventRegistry([Reached]), [REACH], source="test", protect=sealed)
    for given in ({"phone": "+49 170 1"}, {"phone": None}, {}):
        await people.execute(CommandRequest("person.reach", given))
    told = [one.data["phone"] async for one in store.read_stream(StreamId("default", "person-zoe"))]
    assert told == [(await sealed("default", "zoe", {"phone": "+49 170 1"}))["phone"], None, None]


def test_a_personal_field_that_cannot_be_protected_is_refused_before_any_command() -> None:
    class ReachAtAny(Reach):
        phones: list[Annotated[str, PERSONAL]]

    anyhow = dataclasses.replace(REACH, command=ReachAtAny)
    with pytest.raises(ValueError, match=r"ReachAtAny\.phones"):
        CommandBus(MemoryEventStore(), EventRegistry([Reached]), [anyhow], source="test", protect=sealed)


def test_a_mark_on_what_is_not_encrypted_is_refused_before_any_command() -> None:
    class Named(EventData, type="person.named"):
        name: Annotated[str, PERSONAL]

    class NamedPerson(Person):
        name: Annotated[str, PERSONAL] = ""

    class ReachByAddress(Reach):
        id: Annotated[str, PERSONAL]

    for events, handler, field in (
        ([Reached, Named], REACH, r"Named\.name"),
        ([Reached], dataclasses.replace(REACH, aggregate=NamedPerson), r"NamedPerson\.name"),
        ([Reached], dataclasses.replace(REACH, command=ReachByAddress), r"ReachByAddress\.id"),
    ):
        with pytest.raises(ValueError, match=field):
            CommandBus(MemoryEventStore(), EventRegistry(events), [handler], source="test", protect=sealed)


def test_a_type_that_no_event_can_carry_is_refused_before_any_command() -> None:
    class ReachInCamels(Reach):
        command_type: ClassVar[str] = "personReach"

    class OtherPerson(Person):
        aggregate_type: ClassVar[str] = "Person"

    for misnamed in (
        dataclasses.replace(REACH, command=ReachInCamels),
        dataclasses.replace(REACH, aggregate=OtherPerson),
    ):
        with pytest.raises(ValueError, match=r"is not an? (aggregate )?type"):
            CommandBus(
                MemoryEventStore(), EventRegistry([Reached]), [misnamed], source="test", protect=sealed
            )


def test_two_of_one_type_are_refused_before_any_command() -> None:
    class Leave(Command):
        command_type: ClassVar[str] = "person.leave"

    class CopyOfPerson(Person):
        pass

    for name, second in (
        ("person.reach", dataclasses.replace(REACH, aggregate=Account)),
        ("person", dataclasses.replace(REACH, command=Leave, aggregate=CopyOfPerson)),
    ):
        with pytest.raises(ValueError, match=rf"^two .* {name}$"):
            CommandBus(
                MemoryEventStore(), EventRegistry([Reached]), [REACH, second], source="test", protect=sealed
            )


async def test_a_decision_of_nothing_is_no_mistake_of_the_caller() -> None:
    silent = dataclasses.replace(REACH, decide=lambda _person, _said: ())
    people = CommandBus(MemoryEventStore(), EventRegistry([Reached]), [silent], source="test", protect=sealed)
    with pytest.raises(TypeError, match="at least one event, or a RuleViolation"):
        await people.execute(CommandRequest("person.reach", {}))


async def test_an_event_that_could_not_be_read_again_is_not_stored() -> None:
    class ClosedBefore(EventData, type="account.closed", version="0.9"):
        pass

    class Untyped(EventData):
        pass

    store = MemoryEventStore()
    for forgotten in (Reached(phone=None), ClosedBefore(), Untyped()):
        decides = dataclasses.replace(REACH, decide=lambda _, __, event=forgotten: event)
        people = CommandBus(store, EventRegistry([Closed]), [decides], source="test", protect=sealed)
        with pytest.raises(TypeError, match=f"{type(forgotten).__name__} is not registered"):
            await people.execute(CommandRequest("person.reach", {}))
    assert not await store.tails()


class Meeting(MemoryEventStore):
    """Lets two callers load before either of them goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.both = asyncio.Barrier(2)

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        found = await super().load(stream, command_id, certain=certain)
        await self.both.wait()
        return found


@pytest.mark.parametrize("named", [{"id": "t"}, {}])
async def test_two_instances_that_are_sent_one_key_at_once_give_one_outcome(named: dict[str, str]) -> None:
    store = Meeting()
    request = CommandRequest("task.create", {**named, "title": "Write"}, idempotency_key="the-key")
    one, other = await asyncio.gather(bus(store).execute(request), bus(store).execute(request))
    assert one == other
    assert await store.tails() == {0: 1}


async def test_two_instances_that_are_sent_one_key_for_two_commands_at_once_do_one_of_them() -> None:
    store = Meeting()
    outcomes = await asyncio.gather(
        bus(store).execute(keyed("task.create", title="Write")),
        bus(store).execute(keyed("task.create", title="Something else")),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in outcomes) == ["CommandResult", "KeyReused"]
    assert await store.tails() == {0: 1}


async def test_events_carry_who_and_why() -> None:
    store = MemoryEventStore()
    context = CommandContext(
        "acme", "ada", "session", "console", "correlation", "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    )
    request = CommandRequest("task.create", {"id": "t", "title": "Write"}, context, "the-key")
    await bus(store).execute(request)
    (recorded,) = [event async for event in store.read_stream(StreamId("acme", "task-t"))]
    assert (recorded.user_id, recorded.session_id, recorded.client, recorded.correlation_id) == (
        "ada",
        "session",
        "console",
        "correlation",
    )
    assert (recorded.causation_id, recorded.traceparent) == ("the-key", context.traceparent)
    assert recorded.command_type == "task.create"


@pytest.mark.parametrize("user", ["bob", None])
async def test_what_only_one_may_say_nobody_else_says(user: str | None) -> None:
    store = MemoryEventStore()
    tasks = bus(store)
    await tasks.execute(command("task.create", title="Write", assignee="ada"))
    accept = {"id": "t", "assignee": "ada"}
    with pytest.raises(PermissionError, match="only ada may send"):
        await tasks.execute(CommandRequest("task.accept", accept, CommandContext(user=user)))
    done = await tasks.execute(CommandRequest("task.accept", accept, CommandContext(user="ada")))
    assert done.appended.version == 2


class Forgetful(MemoryEventStore):
    """Keeps nothing, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = 0

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        self.loaded += 1
        return await super().load(stream, command_id, certain=certain)

    async def append(self, append: Append) -> Appended:
        return Appended(append.stream, append.last, Position(0, 1))


async def test_large_aggregates_take_little_memory_and_those_of_late_are_at_hand() -> None:
    store = Forgetful()
    tasks = bus(store)
    tracemalloc.start()
    try:
        for number in range(2_000):
            large = {"id": f"t{number}", "title": "Write", "description": f"{number}".ljust(49_999, ".")}
            await tasks.execute(CommandRequest("task.create", large))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000_000, "they are 100 MB"

    store.loaded = 0
    await tasks.execute(CommandRequest("task.complete", {"id": "t1999"}))
    assert store.loaded == 0
    with pytest.raises(NotFound):
        await tasks.execute(CommandRequest("task.complete", {"id": "t0"}))
    assert store.loaded > 0


async def test_commands_that_wait_for_one_aggregate_are_all_answered_by_their_deadline() -> None:
    async with FakeSidecar() as sidecar, opened(sidecar.grpc_port) as store:
        tasks = bus(store, deadline_seconds=1.5)
        await bus(store).execute(command("task.create", title="Write"))
        sidecar.faults.fail("ExecuteStateTransaction", times=5)  # for 1.85 s
        asked = (tasks.execute(command("task.update", title=f"Write {n}")) for n in range(8))
        async with asyncio.timeout(6):  # and not eight times 1.5 s
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in answers] == [OutcomeUnknown] + [StoreUnavailable] * 7

        # The command in progress took effect, and none of the others.
        completed = await bus(store).execute(command("task.complete"))
        assert completed.appended.version == 3


class Hanging(MemoryEventStore):
    """Answers no read until the test sets `goes_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def load(
        self, stream: StreamId, command_id: str | None = None, *, certain: bool = False
    ) -> tuple[Head | None, Outcome | None]:
        self.asked.set()
        await self.goes_on.wait()
        return await super().load(stream, command_id, certain=certain)


async def test_a_read_that_is_not_answered_keeps_nobody_beyond_the_deadline() -> None:
    tasks = bus(Hanging(), deadline_seconds=0.05)
    with pytest.raises(StoreUnavailable, match="in time"):
        await tasks.execute(command("task.create", title="Write"))


async def test_a_key_that_is_not_made_keeps_nobody_beyond_the_deadline() -> None:
    async def protect(_tenant: str, _subject: str, _fields: Mapping[str, str]) -> dict[str, str]:
        await asyncio.sleep(30)
        raise AssertionError

    store = MemoryEventStore()
    members = CommandBus(store, REGISTRY, HANDLERS, source="test", protect=protect, deadline_seconds=0.05)
    with pytest.raises(StoreUnavailable, match="in time"):
        await members.execute(command("member.register", name="Ada", capacity=1))


async def test_only_so_many_wait_for_one_aggregate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "_COMMANDS_A_STREAM", 3)
    store = Hanging()
    tasks = bus(store)
    asked = [asyncio.create_task(tasks.execute(command("task.create", title="Write"))) for _ in range(3)]
    await store.asked.wait()
    with pytest.raises(Backpressure, match="3 commands wait"):
        await tasks.execute(command("task.create", title="Write"))
    store.goes_on.set()
    await tasks.execute(command("task.create", id="another", title="Write"))
    await asyncio.wait(asked)
    await tasks.execute(command("task.complete"))


async def test_callers_that_leave_keep_nobody_from_their_turn() -> None:
    store = Hanging()
    tasks = bus(store)
    asked = [asyncio.create_task(tasks.execute(command("task.create", title=f"{n}"))) for n in range(3)]
    await store.asked.wait()
    for one in asked[:2]:
        one.cancel()
    store.goes_on.set()
    await asked[2]
    assert [event.data["title"] async for event in store.read_stream(TASK)] == ["2"]


class Contended(MemoryEventStore):
    """Loses the next `times` appends to a faster instance."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def append(self, append: Append) -> Appended:
        if self.times > 0:
            self.times -= 1
            faster = event("task.assigned", {"assignee": "ada"})
            await super().append(Append(append.stream, (faster,), append.expected_version))
        return await super().append(append)


async def test_who_names_no_version_has_no_conflict_however_often_others_are_faster() -> None:
    store = Contended(times=0)
    tasks = bus(store)
    await tasks.execute(command("task.create", title="Write"))
    store.times = 12
    assert (await tasks.execute(command("task.complete"))).appended.version == 14

    store.times = 1
    with pytest.raises(ConflictError) as conflict:
        await tasks.execute(dataclasses.replace(command("task.reopen"), expected_version=14))
    assert (conflict.value.expected, conflict.value.actual) == (14, 15)


async def test_a_command_that_others_are_faster_than_for_ever_is_given_up_at_its_deadline() -> None:
    store = Contended(times=0)
    tasks = bus(store, deadline_seconds=0.2)
    await tasks.execute(command("task.create", title="Write"))
    store.times = 10_000
    with pytest.raises(StoreUnavailable, match="in time"):
        await tasks.execute(command("task.complete"))


async def test_commands_on_one_aggregate_are_carried_out_one_at_a_time() -> None:
    class Counting(MemoryEventStore):
        appends = 0

        async def append(self, append: Append) -> Appended:
            self.appends += 1
            await asyncio.sleep(0)
            return await super().append(append)

    store = Counting()
    tasks = bus(store)
    await tasks.execute(command("task.create", title="Write"))
    changes = [command("task.update", title=f"Write {number}") for number in range(10)]
    await asyncio.gather(*map(tasks.execute, changes))
    assert store.appends == 11, "none was a conflict with another of this instance"
