"""Replicas that change the parked letters at the same time lose none of each other's changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any, cast

import grpc
import httpx
import orjson
import pytest
from structlog.testing import capture_logs

from annals.dapr import DaprError, DaprSidecar, StateValue, Write
from annals.deadletters import (
    DeadLetter,
    DeadLetters,
    DeadLettersUnknown,
    Detail,
    MovedOn,
    Status,
    TooManyParked,
    TooMuchEdited,
    UnknownLetter,
    Unreadable,
    dead_letters,
    of_event,
)
from annals.deadletters.letter import of_raw
from annals.events import RecordedEvent, StreamId
from annals.store import MemoryEventStore, Undecodable
from annals.testing.fake import FakeSidecar
from annals.web.dead_letters import not_tried_out, routes
from annals.web.problems import unavailable
from conftest import until
from event_store_conformance import to_append
from event_stores import Bounded
from unit.web.bare_app import bare_app

ACME, GLOBEX = (StreamId(tenant, "thing-x") for tenant in ("acme", "globex"))


class AtOnce(DaprSidecar):
    """Two clients with one barrier in `meet`: neither writes before both have read."""

    meet: asyncio.Barrier | None = None

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        if self.meet is not None:
            meet, self.meet = self.meet, None
            await meet.wait()
        await super().transact(store, writes)


@pytest.fixture
async def clients() -> AsyncIterator[tuple[AtOnce, AtOnce]]:
    async with FakeSidecar() as sidecar:
        both = AtOnce(sidecar.grpc_port), AtOnce(sidecar.grpc_port)
        yield both
        for one in both:
            await one.close()


async def event_of(stream: StreamId, version: int = 1) -> RecordedEvent:
    store = MemoryEventStore()
    await store.append(to_append(stream, 0, version))
    return (await store.read_events([(stream, version)]))[0]


async def failed(stream: StreamId, version: int = 1) -> tuple[DeadLetter, Detail]:
    return of_event("tasks", await event_of(stream, version), ValueError("a bug"), attempts=1)


def letters_of(client: DaprSidecar) -> DeadLetters:
    return DeadLetters(client, "eventstore", "test")


async def test_two_that_park_at_the_same_time_are_both_parked(clients: tuple[AtOnce, AtOnce]) -> None:
    both = [letters_of(client) for client in clients]
    for pair in (("a", "b"), ("c", "d")):  # the index does not exist yet, then it does
        meet = asyncio.Barrier(2)
        for client in clients:
            client.meet = meet
        streams = [StreamId("acme", f"thing-{name}") for name in pair]
        found = [await failed(stream) for stream in streams]
        await asyncio.gather(*(one.park(*failure) for one, failure in zip(both, found, strict=True)))
    await both[0].refresh()
    assert {one.stream for one in both[0].parked("acme")} == {f"thing-{name}" for name in "abcd"}


@pytest.mark.parametrize("versions", [(3, 1), (1, 3), (2, 1, 3)])
async def test_a_sequence_is_parked_at_its_first_event_that_failed_in_whatever_order_they_do(
    held: Held, versions: tuple[int, ...]
) -> None:
    letters = letters_of(held)
    for version in versions:
        await letters.park(*await failed(ACME, version))
    [letter] = letters.parked("acme")
    assert (letter.version, letter.attempts) == (1, len(versions))


async def test_what_fails_again_while_it_is_handled_stays_parked(clients: tuple[AtOnce, AtOnce]) -> None:
    one, other = (letters_of(client) for client in clients)
    await one.park(*await failed(ACME, 2))
    await one.release(one.parked("acme"), "ada", "mended")
    (released,) = one.released()
    await other.park(*await failed(ACME, 3))
    await one.done(released)
    assert [letter.version for letter in one.parked("acme")] == [3]


async def test_tenants_with_a_stream_of_one_name_have_letters_of_their_own(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    for stream in (ACME, GLOBEX):
        await letters.park(*await failed(stream))
    (own,), (other,) = letters.parked("acme"), letters.parked("globex")
    with pytest.raises(UnknownLetter):
        await letters.get("globex", own.id)

    await letters.correct(own, None, "ada", "nonsense")
    await letters.release([own], "ada", "nonsense")

    assert letters.released() == letters.parked("acme")
    assert letters.parked("globex") == [other]
    assert letters.corrected("tasks", await event_of(ACME)) is None
    assert letters.corrected("tasks", await event_of(GLOBEX)) is not None


async def test_whose_letters_are_parked_is_known_to_who_operates_the_suite(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    for stream in (ACME, GLOBEX, StreamId("globex", "thing-y")):
        with capture_logs() as logs:
            await letters.park(*await failed(stream))
        assert [log["tenant"] for log in logs if log["event"] == "parked"] == [stream.tenant]
    app = bare_app()
    app.include_router(routes(letters, MemoryEventStore(), not_tried_out, cast("Any", None)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as http:
        answer = await http.get("/dead-letters/groups/tenants", headers={"x-tenant-id": "default"})
    assert answer.json() == {"items": [{"tenant": "globex", "parked": 2}, {"tenant": "acme", "parked": 1}]}


async def test_what_is_logged_of_a_dead_letter_quotes_nothing_of_the_event(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of a projection may quote what people wrote, and the log outlives an erasure."""
    letters, event = letters_of(clients[0]), await event_of(ACME)
    try:
        int("call Ada at 555-0100")
    except ValueError as error:
        letter = of_event("tasks", event, error, attempts=1)
    with capture_logs() as logs:
        await letters.park(*letter)
        monkeypatch.setattr("annals.deadletters.index._MAX_PARKED", 1)
        with pytest.raises(TooManyParked):
            await letters.park(replace(letter[0], id="another"), letter[1])
    assert [log["event"] for log in logs] == [
        "parked",
        "an event or message failed, and there is no room to park it",
    ]
    assert all(log["group"] == letter[0].group for log in logs)
    assert "ValueError in test_dead_letters" in letter[0].group
    assert "555-0100" in letter[0].reason
    assert "555-0100" not in str(logs)


async def test_what_could_not_be_read_is_released_together_however_long_it_is() -> None:
    async with FakeSidecar() as sidecar:
        client = Bounded(sidecar.grpc_port)
        letters = letters_of(client)
        for number in range(80):
            await letters.park(*of_raw("messages", "acme", f"{number}" + "x" * 60_000, "no JSON"))
        assert await letters.release(letters.parked("acme"), "ada", "mended") == 80
        assert len(letters.released()) == 80
        for letter in letters.released():
            _, detail = await letters.get("acme", letter.id)
            assert [entry["action"] for entry in detail.history] == ["replayed"]
            assert len(detail.raw or "") > 60_000
        await client.close()


async def test_a_text_that_comes_again_stays_as_it_was_edited_and_released(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters, other = (letters_of(client) for client in clients)
    message = of_raw("messages", "acme", "nonsense", "no JSON")
    await letters.park(*message)
    (letter,) = letters.parked("acme")
    await letters.rewrite(letter, "sense", "ada", "mended by hand")
    await other.park(*message)
    await letters.release([letter], "ada", "mended by hand")

    await other.park(*message)

    found, detail = await letters.get("acme", letter.id)
    assert letters.released() == [found]
    assert (detail.raw, found.attempts) == ("sense", 3)
    assert [entry["action"] for entry in detail.history] == ["edited", "replayed"]

    await letters.done(found)
    await other.park(*message)
    assert (await letters.get("acme", letter.id))[1].raw == "nonsense"


async def test_of_two_that_change_a_letter_at_the_same_time_each_sees_what_the_other_did(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    one, other = (letters_of(client) for client in clients)
    await one.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    (letter,) = one.parked("acme")

    async def at_once(*doing: Awaitable[object]) -> Detail:
        meet = asyncio.Barrier(2)
        for client in clients:
            client.meet = meet
        await asyncio.gather(*doing)
        return (await one.get("acme", letter.id))[1]

    detail = await at_once(
        one.rewrite(letter, "a", "ada", "mended"), other.rewrite(letter, "b", "bob", "mended")
    )
    first, second = detail.history
    assert (first["before"], second["before"]) == ("nonsense", {"ada": "a", "bob": "b"}[first["user"]])
    await other.refresh()
    detail = await at_once(
        one.rewrite(letter, "c", "ada", "mended"), other.release([letter], "bob", "mended")
    )
    assert sorted(entry["action"] for entry in detail.history[2:]) == ["edited", "replayed"]
    assert detail.raw == "c"
    await other.refresh()
    detail = await at_once(one.rewrite(letter, "d", "ada", "mended"), other.park_again(letter, "no JSON"))
    assert detail.raw == "d"


class Held(DaprSidecar):
    """Holds back the answer to a read, or to a transaction, until the test lets it go."""

    holds: str | None = None

    def __init__(self, grpc_port: int) -> None:
        super().__init__(grpc_port)
        self.held, self.go_on = asyncio.Event(), asyncio.Event()

    async def _hold(self, what: str) -> None:
        if self.holds == what:
            self.holds = None
            self.held.set()
            await self.go_on.wait()

    async def get(self, store: str, key: str) -> StateValue | None:
        value = await super().get(store, key)
        await self._hold("read")
        return value

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        await super().transact(store, writes)
        await self._hold("transaction")


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    async with FakeSidecar() as sidecar:
        client = Held(sidecar.grpc_port)
        yield client
        await client.close()


@pytest.mark.parametrize("holds", ["read", "transaction"])
async def test_what_was_parked_is_not_forgotten_for_what_was_read_or_changed_before(
    held: Held, holds: str
) -> None:
    letters = letters_of(held)
    held.holds = holds
    earlier = letters.refresh() if holds == "read" else letters.park(*await failed(GLOBEX))
    going_on = asyncio.create_task(earlier)
    await held.held.wait()
    parking = asyncio.create_task(letters.park(*await failed(ACME)))
    await asyncio.wait([parking], timeout=0.5)

    held.go_on.set()
    await asyncio.gather(going_on, parking)

    assert letters.find("tasks", ACME) is not None


async def test_what_is_being_parked_is_not_forgotten_for_what_was_read_just_before_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The read began after the parking, and so it is newer, and does not have the letter."""
    async with FakeSidecar() as sidecar:
        parked_by, read_by = DaprSidecar(sidecar.grpc_port), Held(sidecar.grpc_port)
        letters = letters_of(parked_by)
        write, writing, go_on = parked_by.transact, asyncio.Event(), asyncio.Event()

        async def write_later(*given: Any) -> None:
            writing.set()
            await go_on.wait()
            await write(*given)

        monkeypatch.setattr(parked_by, "transact", write_later)
        parking = asyncio.create_task(letters.park(*await failed(ACME)))
        await writing.wait()
        monkeypatch.setattr(letters, "_sidecar", read_by)
        read_by.holds = "read"
        reading = asyncio.create_task(letters.refresh())
        await read_by.held.wait()
        go_on.set()
        await parking
        read_by.go_on.set()
        await reading
        assert letters.find("tasks", ACME) is not None
        for client in (parked_by, read_by):
            await client.close()


async def test_a_copy_that_was_not_read_for_long_is_not_relied_on(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = letters_of(held)
    await letters.refresh()
    letters.require_fresh("tasks")
    monkeypatch.setattr(dead_letters, "_STALE_SECONDS", -1)
    with pytest.raises(DeadLettersUnknown, match="for too long"):
        letters.require_fresh("tasks")


async def test_what_was_read_first_is_not_taken_for_newer(held: Held) -> None:
    letters, other = letters_of(held), letters_of(held)
    held.holds = "read"
    earlier = asyncio.create_task(letters.refresh())
    await held.held.wait()
    await other.park(*await failed(ACME))
    await letters.refresh()

    held.go_on.set()
    await earlier

    assert letters.find("tasks", ACME) is not None


async def test_what_was_released_anew_while_it_was_read_in_vain_stays_released(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters, operator = (letters_of(client) for client in clients)
    await letters.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    await letters.release(letters.parked("acme"), "ada", "mended")
    (read,) = letters.released()
    await operator.rewrite(read, "sense", "ada", "mended by hand")
    await operator.release([read], "ada", "mended by hand")

    await letters.park_again(read, "no JSON")

    assert len(letters.released()) == 1


async def test_what_waits_for_a_generation_is_counted_of_all_tenants(clients: tuple[AtOnce, AtOnce]) -> None:
    letters = letters_of(clients[0])
    for stream in (ACME, GLOBEX):
        for generation in (1, 2):
            letter, detail = await failed(stream)
            letter = replace(letter, id=f"{letter.id}-{generation}", generation=generation)
            await letters.park(letter, detail)
    await letters.release([one for one in letters.parked("acme") if one.generation == 2], "ada", "mended")
    assert [letters.parked_in("tasks", generation) for generation in (1, 2, 3)] == [2, 1, 0]
    assert letters.parked_in("members", 1) == 0


async def test_too_many_of_a_generation_stop_that_one_alone(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MAX_PARKED", 2)
    one, other = (letters_of(client) for client in clients)

    async def park(name: str, generation: int, by: DeadLetters = one) -> None:
        event = await event_of(StreamId("acme", f"thing-{name}"))
        await by.park(*of_event("tasks", event, ValueError("a bug"), attempts=1, generation=generation))

    await park("a", 3)
    await park("b", 3)
    with pytest.raises(TooManyParked, match="2 sequences of tasks, generation 3"):
        await park("c", 3, by=other)  # which does not know of the others yet
    await park("b", 3, by=other)
    await other.refresh()
    assert sorted(letter.attempts for letter in other.parked("acme")) == [1, 2]
    with pytest.raises(TooManyParked):
        other.require_fresh("tasks", 3)
    other.require_fresh("tasks", 2)
    other.require_fresh("members", 1)
    await park("c", 2, by=other)

    await other.close_generation("tasks", 3)

    assert [letter.generation for letter in other.parked("acme")] == [2]
    other.require_fresh("tasks", 3)
    await one.refresh()
    await park("d", 3)


async def test_too_many_in_all_stop_every_consumer(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MOST_PARKED", 2)
    letters = letters_of(clients[0])
    for generation in (1, 2):
        event = await event_of(StreamId("acme", "thing-a"))
        await letters.park(*of_event("tasks", event, ValueError("a bug"), attempts=1, generation=generation))
    await letters.refresh()
    with pytest.raises(TooManyParked, match="2 sequences are parked in all"):
        letters.require_fresh("members", 1)


async def test_an_unreadable_message_that_is_one_too_many_comes_again(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MAX_PARKED", 1)

    async def handle(_: object) -> None:
        raise AssertionError

    unreadable = Unreadable(letters_of(clients[0]), handle)
    assert await unreadable.keep("nonsense", "it is none") == "SUCCESS"
    assert await unreadable.keep("other nonsense", "it is none") == "RETRY"


@pytest.mark.parametrize(
    ("message", "whose"),
    [
        ({"data": {"tenant_id": "globex"}}, "globex"),
        ({"data": {"tenant_id": "no such name"}}, "default"),
        ({"data": {"tenant_id": 7}}, "default"),
        ({"data": "nonsense"}, "default"),
        ("nonsense", "default"),
    ],
)
async def test_an_unreadable_message_is_for_the_operators_of_its_tenant_where_it_names_one(
    clients: tuple[AtOnce, AtOnce], message: object, whose: str
) -> None:
    async def handle(_: object) -> None:
        raise AssertionError

    letters = letters_of(clients[0])
    assert await Unreadable(letters, handle).keep(message, "it is none") == "SUCCESS"
    assert [one.tenant for tenant in ("globex", "default") for one in letters.parked(tenant)] == [whose]


async def test_what_is_nested_too_deeply_to_be_written_down_is_parked_all_the_same(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    async def handle(_: object) -> None:
        raise AssertionError

    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    letters = letters_of(clients[0])
    assert await Unreadable(letters, handle).keep(nested, "it is none") == "SUCCESS"
    (letter,) = letters.parked("default")
    assert (await letters.get("default", letter.id))[1].raw == "nested too deeply to be kept"


async def test_a_message_takes_no_more_room_when_it_is_kept_whatever_its_script() -> None:
    """A broker may take messages of 2 MiB, and a sidecar takes 4 MiB."""

    async def handle(_: object) -> None:
        raise AssertionError

    message = {"data": {"tenant_id": "acme", "text": "Ж" * 1_000_000}}
    async with FakeSidecar() as sidecar:
        client = Bounded(sidecar.grpc_port)
        letters = letters_of(client)
        assert await Unreadable(letters, handle).keep(message, "no event") == "SUCCESS"
        (letter,) = letters.parked("acme")
        _, detail = await letters.get("acme", letter.id)
        assert orjson.loads(detail.raw or "") == message
        await client.close()


async def test_a_message_that_an_older_release_kept_is_known_when_it_comes_again(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    async def handle(_: object) -> None:
        raise AssertionError

    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", '{"data": {"tenant_id": "acme", "n": 1}}', "no event"))
    await Unreadable(letters, handle).keep({"data": {"tenant_id": "acme", "n": 1}}, "no event")
    assert [letter.attempts for letter in letters.parked("acme")] == [2]


async def test_a_number_in_what_is_nested_deeply_is_kept_as_a_number(clients: tuple[AtOnce, AtOnce]) -> None:
    """What orjson does not read is read with decimals."""

    async def handle(_: object) -> None:
        raise AssertionError

    letters = letters_of(clients[0])
    assert await Unreadable(letters, handle).keep({"n": Decimal("1.5")}, "no event") == "SUCCESS"
    (letter,) = letters.parked("default")
    assert (await letters.get("default", letter.id))[1].raw == '{"n": 1.5}'


async def test_only_what_was_unreadable_is_read_again(clients: tuple[AtOnce, AtOnce]) -> None:
    """A service's consumers share one place for dead letters, so released events of others are there too."""
    read: list[object] = []

    async def handle(message: object) -> None:
        read.append(message)

    letters = letters_of(clients[0])
    event, _ = await failed(ACME)
    await letters.park(event, Detail())
    unreadable = Unreadable(letters, handle)
    await unreadable.keep({"n": 1}, "it is none")
    await letters.release([*letters.parked("acme"), *letters.parked("default")], "ada", "mended")
    reading = asyncio.create_task(unreadable.run())

    async def handled() -> bool:
        return not letters.parked("default")

    await until(handled)
    reading.cancel()
    assert read == [{"n": 1}]
    assert [one.id for one in letters.released()] == [event.id]


@pytest.mark.parametrize(
    ("becomes", "handled"),
    [
        ({"data": {"tenant_id": "acme"}}, True),
        ({"data": {"tenant_id": "globex"}}, False),
        ({"data": {"tenant_id": "default"}}, False),
        ({"data": {}}, False),
    ],
)
async def test_a_text_that_is_edited_is_handled_only_as_a_message_of_its_tenant(
    clients: tuple[AtOnce, AtOnce], becomes: dict[str, Any], handled: bool
) -> None:
    read: list[object] = []

    async def handle(message: object) -> None:
        read.append(message)

    letters = letters_of(clients[0])
    unreadable = Unreadable(letters, handle)
    await unreadable.keep({"data": {"tenant_id": "acme", "event_type": 7}}, "no event")
    (letter,) = letters.parked("acme")
    await letters.rewrite(letter, orjson.dumps(becomes).decode(), "ada", "mended by hand")
    await letters.release([letter], "ada", "mended by hand")
    reading = asyncio.create_task(unreadable.run())

    async def dealt_with() -> bool:
        return not letters.released()

    await until(dealt_with)
    reading.cancel()
    assert read == ([becomes] if handled else [])
    assert [one.reason for one in letters.parked("acme")] == ([] if handled else ["it is of another tenant"])


async def test_what_an_older_release_parked_is_released_and_discarded_however_much_it_is() -> None:
    letter, detail = await failed(ACME)
    letter = replace(letter, reason="ä" * 280, trace_id="a" * 32)
    ids = [f"{number:016}" for number in range(4_200)]
    of_before = [asdict(replace(letter, id=one, stream=f"thing-{one * 2}")) for one in ids]
    index = {"parked": of_before[:4_000], "done": of_before[4_000:], "corrections": {}}
    async with FakeSidecar() as sidecar:
        client = Bounded(sidecar.grpc_port)
        await client.save("eventstore", Write("dead-letters/test", orjson.dumps(index)))
        long = orjson.dumps(asdict(replace(detail, stack="x" * 4_000)))
        group = ids[:100]
        for one in group:
            await client.save("eventstore", Write(f"dead-letters/test/{one}", long))
        letters = letters_of(client)
        await letters.refresh()
        found = [one for one in letters.parked("acme") if one.id in group]

        assert await letters.release(found, "ada", "mended") == 100
        await letters.correct(letters.parked("acme")[-1], None, "ada", "nonsense")

        assert [one.id for one in letters.released()] == group
        await client.close()


async def test_at_most_so_many_bytes_are_taken_in_and_what_is_there_is_dealt_with_all_the_same(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MOST_BYTES", 1_000)
    letters = letters_of(clients[0])

    async def park(name: str, reason: str = "a bug") -> None:
        event = await event_of(StreamId("acme", f"thing-{name}"))
        await letters.park(*of_event("tasks", event, ValueError(reason), attempts=1))

    async def size() -> int:
        value = await clients[0].get("eventstore", "dead-letters/test")
        return len(value.data) if value else 0

    async def fill() -> None:
        while True:
            await park(str(len(letters.parked("acme"))))

    # Corrections stay for good and take no room from letters; older releases also kept here who made them.
    corrected = {f"tasks/acme/thing-old{number}/1": {"data": None, "user": "ada"} for number in range(100)}
    index = {"parked": [], "done": [], "corrections": corrected}
    await clients[0].save("eventstore", Write("dead-letters/test", orjson.dumps(index)))
    with pytest.raises(TooManyParked, match=r"take 1\d\d\d bytes"):
        await fill()
    assert len(letters.parked("acme")) > 1
    await letters.refresh()
    letters.require_fresh("tasks")  # events that do not fail are still handled
    first, second, *_ = letters.parked("acme")
    before = await size()

    await letters.release(letters.parked("acme"), "ada", "mended")
    await park("0", "ein Fehler, der länger ist als der vorige")
    await letters.correct(second, None, "ada", "nonsense " * 50)

    assert first.id not in [one.id for one in letters.released()]
    assert second.id in [one.id for one in letters.released()]
    assert await size() - before < 50 * len(letters.parked("acme"))
    _, detail = await letters.get("acme", first.id)
    assert "länger ist als der vorige" in detail.stack
    _, detail = await letters.get("acme", second.id)
    assert detail.history[-1]["reason"] == "nonsense " * 50

    monkeypatch.setattr("annals.deadletters.index._MAX_DONE", 1)
    for one in letters.released():
        await letters.done(one)
    await park("more")


async def test_what_is_read_again_in_vain_has_a_reason_of_bounded_length(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    (letter,) = letters.parked("acme")
    await letters.park_again(letter, "x" * 5_000)
    assert letters.parked("acme")[0].reason == "x" * 500


async def test_a_text_that_is_nested_too_deeply_to_be_read_again_is_parked_again(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", "[" * 100_000, "no JSON"))
    await letters.release(letters.parked("acme"), "ada", "mended")

    async def handle(_: object) -> None:
        raise AssertionError

    reading = asyncio.create_task(Unreadable(letters, handle).run())

    async def parked_again() -> bool:
        return not letters.released()

    await until(parked_again)
    reading.cancel()
    (letter,) = letters.parked("acme")
    assert letter.attempts == 2
    assert "recursion" in letter.reason


async def test_as_much_is_edited_as_there_is_room_for_and_discarded_beyond_it(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MOST_EDITED", 1_000)
    letters = letters_of(clients[0])
    for stream in (ACME, GLOBEX):
        await letters.park(*await failed(stream))
    (own,), (other,) = letters.parked("acme"), letters.parked("globex")
    await letters.correct(own, {"title": "x" * 800}, "ada", "mended by hand")

    with pytest.raises(TooMuchEdited, match="at most 1000"):
        await letters.correct(other, {"title": "y" * 800}, "ada", "mended by hand")
    answer = await edit(letters, other, {"title": "y" * 800})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:annals:problem:too-large")
    assert "or discard the event" in answer.json()["detail"]

    await letters.correct(own, {"title": "x" * 700}, "ada", "mended by hand")
    await letters.correct(other, None, "ada", "nonsense")
    assert letters.corrected("tasks", await event_of(GLOBEX)) is None
    corrected = letters.corrected("tasks", await event_of(ACME))
    assert corrected is not None
    assert corrected.data == {"title": "x" * 700}


async def test_what_is_discarded_takes_no_room_from_what_is_edited(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MOST_EDITED", 100)
    letters = letters_of(clients[0])
    for number in range(5):
        await letters.park(*await failed(StreamId("acme", f"thing-{number}")))
    *discarded, edited = letters.parked("acme")
    for letter in discarded:
        await letters.correct(letter, None, "ada", "nonsense")

    await letters.correct(edited, {"title": "x"}, "ada", "mended by hand")

    corrected = letters.corrected("tasks", await event_of(edited.sequence))
    assert corrected is not None
    assert corrected.data == {"title": "x"}


async def test_no_more_is_discarded_than_leaves_room_for_what_fails_later(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.index._MOST_DISCARDED", 50)
    letters = letters_of(clients[0])
    for stream in (ACME, GLOBEX):
        await letters.park(*await failed(stream))
    (own,), (other,) = letters.parked("acme"), letters.parked("globex")
    assert (await discard(letters, own)).status_code == 200

    answer = await discard(letters, other)

    assert (answer.status_code, answer.json()["type"]) == (413, "urn:annals:problem:too-large")
    assert "release a version" in answer.json()["detail"]
    assert letters.parked("globex") == [other]
    assert letters.corrected("tasks", await event_of(GLOBEX)) is not None
    assert (await edit(letters, other, {"title": "x"})).status_code == 200


async def test_an_event_that_nobody_looked_at_is_neither_discarded_nor_edited(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    await letters.park(*await failed(ACME, 2))
    (letter,) = letters.parked("acme")
    assert (await discard(letters, letter, version=2)).status_code == 200
    await letters.park(*await failed(ACME, 3))  # the replay goes on until the next event fails

    again = await discard(letters, letter, version=2)
    edited = await edit(letters, letter, {"number": 2}, version=2)

    for answer in (again, edited):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:annals:problem:conflict")
        assert (answer.json()["expected"], answer.json()["actual"]) == (2, 3)
    assert [one.status for one in letters.parked("acme")] == [Status.PARKED]
    event = await event_of(ACME, 3)
    assert letters.corrected("tasks", event) == event
    assert (await edit(letters, letter, {"number": 3}, version=3)).status_code == 200
    assert (await discard(letters, letter)).status_code == 200


async def test_a_message_that_was_read_meanwhile_is_not_discarded(clients: tuple[AtOnce, AtOnce]) -> None:
    """Its history would say that an operator discarded what was handled."""
    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    (letter,) = letters.parked("acme")
    await letters.done(letter)

    answer = await discard(letters, letter)

    assert (answer.status_code, answer.json()["detail"]) == (404, f"{letter.id} is not parked any more")
    assert (await letters.get("acme", letter.id))[1].history == []


async def test_a_message_that_cannot_be_read_is_discarded(clients: tuple[AtOnce, AtOnce]) -> None:
    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    (letter,) = letters.parked("acme")

    assert (await discard(letters, letter)).status_code == 200

    found, detail = await letters.get("acme", letter.id)
    assert (found.status, letters.parked("acme")) == (Status.DONE, [])
    assert [(entry["action"], entry["reason"]) for entry in detail.history] == [("discarded", "nonsense")]


async def test_what_fails_elsewhere_by_now_is_not_corrected(clients: tuple[AtOnce, AtOnce]) -> None:
    letters = letters_of(clients[0])
    await letters.park(*await failed(ACME, 2))
    (letter,) = letters.parked("acme")
    await letters.release([letter], "ada", "mended")
    await letters.park(*await failed(ACME, 3))

    with pytest.raises(MovedOn):
        await letters.correct(letter, None, "ada", "nonsense")

    event = await event_of(ACME, 2)
    assert letters.corrected("tasks", event) == event


async def edit(
    letters: DeadLetters, letter: DeadLetter, data: dict[str, Any], **looked_at: int
) -> httpx.Response:
    """Edit a letter and return the API's answer."""
    body = {"data": data, "reason": "mended by hand"} | looked_at
    return await asked(letters, letter, "PUT", "data", body)


async def discard(letters: DeadLetters, letter: DeadLetter, **looked_at: int) -> httpx.Response:
    return await asked(letters, letter, "POST", "discard", {"reason": "nonsense"} | looked_at)


async def asked(
    letters: DeadLetters, letter: DeadLetter, method: str, what: str, body: dict[str, Any]
) -> httpx.Response:

    class Recorded:
        async def requested(self, *_: object) -> None:
            pass

    operations: Any = Recorded()
    app = bare_app()
    app.include_router(routes(letters, MemoryEventStore(), not_tried_out, operations))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        path = f"/dead-letters/{letter.id}/{what}"
        return await client.request(method, path, json=body, headers={"x-tenant-id": letter.tenant})


class Unrecorded:
    async def requested(self, *_: object) -> None:
        raise unavailable("not recorded")


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [
        ("POST", "replay", {}),
        ("POST", "discard", {}),
        ("PUT", "data", {"data": {"number": 1}}),
    ],
)
async def test_what_cannot_be_recorded_is_not_done_to_a_letter(method: str, what: str, body: Any) -> None:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        letters = letters_of(client)
        await letters.park(*await failed(ACME))
        (letter,) = letters.parked("acme")
        app = bare_app()
        app.include_router(routes(letters, MemoryEventStore(), not_tried_out, cast("Any", Unrecorded())))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as http:
            given = {"json": {"reason": "mended"} | body, "headers": {"x-tenant-id": "acme"}}
            answer = await http.request(method, f"/dead-letters/{letter.id}/{what}", **given)
            assert answer.status_code == 503, answer.text
            group = {"json": {"reason": "mended", "group": letter.group}, "headers": {"x-tenant-id": "acme"}}
            assert (await http.post("/dead-letters/groups/replay", **group)).status_code == 503
        assert (await letters.get("acme", letter.id))[0] == letter
        assert letters.released() == []
        assert letters._index.corrections == {}
        await client.close()


async def test_an_index_that_was_damaged_is_named_and_waited_for(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_REFRESH_SECONDS", 0.01)
    letters, place = letters_of(clients[0]), "dead-letters/test"
    await letters.park(*await failed(ACME))
    (letter,) = letters.parked("acme")
    whole = await clients[1].get("eventstore", place)
    assert whole is not None
    await clients[1].save("eventstore", Write(place, b"{"))
    running = asyncio.create_task(letters.run())
    named = f"{place} cannot be decoded"

    with capture_logs() as logs:

        async def said() -> bool:
            return running.done() or any(named in str(log.get("error")) for log in logs)

        await until(said)
    answer = await edit(letters, letter, {"number": 1})
    assert (answer.status_code, named in answer.text) == (503, True)
    assert ("it is damaged" in answer.text, answer.headers["retry-after"]) == (True, "60")
    with pytest.raises(DeadLettersUnknown, match=named):
        await letters.park(*await failed(GLOBEX))
    value = await clients[1].get("eventstore", place)
    assert value is not None
    assert value.data == b"{", "nothing is made of what may be mended"

    await clients[1].save("eventstore", Write(place, whole.data))
    await letters.park(*await failed(GLOBEX))
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_a_letter_whose_event_is_damaged_names_the_damaged_value(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    class Damaged(MemoryEventStore):
        async def load(self, *_: object, **__: object) -> Any:
            raise Undecodable("stream/acme/thing-x/event/1", ValueError("not JSON"))

    letters = letters_of(clients[0])
    await letters.park(*await failed(ACME))
    (letter,) = letters.parked("acme")
    app = bare_app()
    app.include_router(routes(letters, Damaged(), not_tried_out, cast("Any", None)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as http:
        answer = await http.get(f"/dead-letters/{letter.id}", headers={"x-tenant-id": "acme"})
    detail = answer.json()["detail"]
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert detail.startswith("stream/acme/thing-x/event/1 cannot be decoded"), detail
    assert "it is damaged" in detail


async def damage(client: DaprSidecar, letter: DeadLetter) -> None:
    await client.save("eventstore", Write(f"dead-letters/test/{letter.id}", b"{"))


async def test_that_the_letters_cannot_be_read_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_REFRESH_SECONDS", 0)
    answers = iter(["away", "away", None, "away"])

    class Ended(Exception):
        pass

    class Unsteady:
        async def get(self, *_: str) -> StateValue | None:
            if (why := next(answers, "")) == "":
                raise Ended
            if why is not None:
                raise DaprError(grpc.StatusCode.UNAVAILABLE, why)
            return None

    with capture_logs() as logs, pytest.raises(Ended):
        await DeadLetters(cast("Any", Unsteady()), "eventstore", "test").run()
    assert len(logs) == 2, "once for each time that they cannot be read"


async def test_that_a_released_message_cannot_be_handled_is_said_once(
    clients: tuple[AtOnce, AtOnce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annals.deadletters.unreadable._EVERY_SECONDS", 0)
    letters, tried = letters_of(clients[0]), 0
    await letters.park(*of_raw("messages", "acme", '{"data": {"tenant_id": "acme"}}', "no event"))
    await letters.release(letters.parked("acme"), "ada", "mended")

    async def handle(_: object) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("the database is away")

    async def three_times() -> bool:
        return tried >= 3

    with capture_logs() as logs:
        reading = asyncio.create_task(Unreadable(letters, handle).run())
        await until(three_times)
        reading.cancel()
    [said] = logs
    assert (said["tenant"], said["error"]) == ("acme", "the database is away")


async def test_the_detail_of_an_event_that_was_damaged_is_named_and_keeps_nothing_waiting(
    clients: tuple[AtOnce, AtOnce],
) -> None:
    letters = letters_of(clients[0])
    for stream in (ACME, StreamId("acme", "thing-y")):
        await letters.park(*await failed(stream))
    letter, _ = letters.parked("acme")
    await damage(clients[1], letter)
    with pytest.raises(DeadLettersUnknown, match=f"{letter.id} cannot be decoded"):
        await letters.get("acme", letter.id)

    assert await letters.release(letters.parked("acme"), "ada", "mended") == 2
    for one in letters.released():
        await letters.done(one)
    await damage(clients[1], letter)
    with capture_logs() as logs:
        await letters.park(*await failed(ACME))
    assert any(f"{letter.id} cannot be decoded" in str(log.get("error")) for log in logs)
    assert (await letters.get("acme", letter.id))[1].stack, "it begins anew"

    await damage(clients[1], letter)
    assert (await edit(letters, letter, {"number": 1})).status_code == 200
    assert (await letters.get("acme", letter.id))[1].history[-1]["data"] == {"number": 1}


async def test_a_text_that_was_damaged_is_named_and_waited_for(clients: tuple[AtOnce, AtOnce]) -> None:
    letters = letters_of(clients[0])
    await letters.park(*of_raw("messages", "acme", "nonsense", "no JSON"))
    (letter,) = letters.parked("acme")
    await damage(clients[1], letter)
    for attempt in (letters.get("acme", letter.id), letters.rewrite(letter, "{}", "ada", "it is none")):
        with pytest.raises(DeadLettersUnknown, match=f"{letter.id} cannot be decoded"):
            await attempt
