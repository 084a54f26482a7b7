"""What holds on every broker, and who ensures it.

Each case asks two things. What a recorder receives shows whether broker and Dapr ensure it by themselves;
that is noted for docs/guarantees.md. What the read models hold must be right everywhere; that is asserted.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from faulty_proxy import Faults
from matrix import Broker
from outcomes import Outcomes
from world import Recorder, World, happens, history

from annals.dapr import Message, publish_metadata
from annals.events import CONTENT_TYPE, DomainEvent, RecordedEvent, new_id, to_cloudevent_json
from annals.projections import Generations, difference
from annals.store import Append, DaprEventStore
from annals.web.background import background
from annals_projector.read_models import PROJECTIONS
from annals_projector.read_models.tasks import TASKS
from conftest import until
from event_stores import lane_held
from read_model_database import PoolDatabase

pytestmark = [pytest.mark.brokers, pytest.mark.timeout(900)]

SOON = 60.0
_SEED = int(os.environ.get("ANNALS_SEED", str(random.randrange(1_000_000))))


def the_recorder(at: World) -> Recorder:
    return at.recorders["saga-orchestrator"][0]


def ask_the_projector(at: World) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{at.projectors[0].port}", timeout=60)


async def passed_over(projector: httpx.AsyncClient) -> float:
    """Return how many events the projector has received again after it had applied them."""
    counted = (await projector.get("/metrics")).text
    [line] = re.findall(r"^annals_projection_skipped_events_total (\S+)$", counted, re.MULTILINE)
    return float(line)


async def publish(at: World, events: list[RecordedEvent]) -> None:
    """Publish events one by one, bypassing the publisher and its order."""
    for event in events:
        message = Message(
            new_id(),
            to_cloudevent_json(event),
            CONTENT_TYPE,
            publish_metadata(event.stream.tenant, event.stream.name, event.event_id),
        )
        assert not await at.writer.publish("domain-events", [message])


@asynccontextmanager
async def stored_and_not_published(
    at: World, events: list[DomainEvent]
) -> AsyncIterator[list[RecordedEvent]]:
    """Append events to the store that reach no topic.

    The store publishes on a topic that its app may not use.
    """
    store = DaprEventStore(at.writer, owner="silent", topic="integration-events")
    async with background(store.run(), "lane"):
        await lane_held(store)
        found = []
        versions: dict[str, int] = {}
        for event in events:
            before = versions.get(event.aggregate_id, 0)
            await store.append(Append(event.stream, (event,), before))
            versions[event.aggregate_id] = before + 1
            found += await store.read_events([(event.stream, before + 1)])
        yield found


async def test_every_event_arrives_at_every_group(at: World, outcomes: Outcomes) -> None:
    events = await at.append(history(30, 5))

    itself = await the_recorder(at).takes(events, SOON)
    await at.projected(events)
    outcomes.note("every subscribing service is given every event", by_itself=itself)


async def test_each_stream_is_seen_in_order(at: World, broker: Broker, outcomes: Outcomes) -> None:
    events = await at.append(history(40, 25))

    ordered = await the_recorder(at).takes(events, SOON) and the_recorder(at).in_order(events)
    await at.projected(events)
    itself = broker.keeps_order
    assert ordered or not itself, "it does not keep the order that it promises"
    outcomes.note("a stream's events are seen in their order", by_itself=itself)


async def test_what_is_refused_comes_again(at: World, outcomes: Outcomes) -> None:
    recorder = the_recorder(at)
    recorder.tell(refuse=2)
    events = await at.append(history(5, 2))

    itself = await recorder.takes(events, SOON)
    recorder.tell()
    given = [line["id"] for line in recorder.lines()]
    assert not itself or all(given.count(event.event_id) >= 3 for event in events)
    outcomes.note("what a service refuses is given to it again", by_itself=itself)


async def test_a_repetition_changes_nothing(at: World, broker: Broker, outcomes: Outcomes) -> None:
    """Redeliver only the first event of each stream: read models that applied it again would show it."""
    events = await at.append(history(5, 4))
    await at.projected(events)
    first = [event for event in events if event.version == 1]
    async with ask_the_projector(at) as projector:
        before = await passed_over(projector)
        await publish(at, first)

        async def came_again() -> bool:
            return await passed_over(projector) >= before + len(first)

        if not broker.drops_repeats:
            await until(came_again, SOON, "the projector to pass over what it has had")
    # The projector applies one batch after another, so it is done with these once the next event shows.
    after = await at.append(history(1, 1))
    await at.projected(after)
    assert await at.shows(events), "what came again was applied again"

    once = await the_recorder(at).takes([*events, *after], SOON)
    once = once and all(the_recorder(at).taken()[name] == 1 for name in ids(events))
    assert once or not broker.drops_repeats, "it gives what it has given"
    outcomes.note("a repeated message takes effect once", by_itself=broker.drops_repeats)


async def test_disorder_with_gaps_and_repetitions_is_put_right(at: World, outcomes: Outcomes) -> None:
    dice = random.Random(7)
    async with stored_and_not_published(at, history(10, 10)) as events:
        shuffled = [event for event in events if dice.random() < 0.7]
        shuffled += dice.sample(shuffled, 10)
        dice.shuffle(shuffled)
        await publish(at, shuffled)
        await at.projected(events)
    outcomes.note("messages out of order, twice or never come to the right state", by_itself=False)


async def test_a_consumer_killed_in_mid_batch_misses_nothing(
    at: World, broker: Broker, outcomes: Outcomes
) -> None:
    recorder = the_recorder(at)
    recorder.tell(hang=True)
    events = await at.append(history(40, 3))

    async def in_hand() -> bool:
        return any(line["answer"] == "NONE" for line in recorder.lines())

    await until(in_hand, 2 * SOON)
    recorder.tell()
    await asyncio.gather(recorder.app.kill(), at.projectors[0].kill())

    itself = await recorder.takes(events, broker.hands_out_again_after)
    await at.projected(events)
    outcomes.note("a service killed in the middle of a batch misses nothing", by_itself=itself)


async def test_a_broker_killed_under_load_loses_nothing(
    at: World, broker: Broker, outcomes: Outcomes
) -> None:
    case = "a broker killed under load loses nothing"
    if not broker.keeps_what_it_has:
        outcomes.fail(case, "not shown: what stands for it here keeps nothing when it ends")
        pytest.skip(f"what stands for {broker.name} here keeps nothing when it ends")
    acknowledged: list[RecordedEvent] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            acknowledged.extend(await at.append(history(4, 2)))

    loading = asyncio.create_task(load())

    async def some(count: int) -> bool:
        return len(acknowledged) >= count

    try:
        await until(lambda: some(80), SOON)
        at.server.kill()
        await at.server.wait_exit()
        before = len(acknowledged)
        await until(lambda: some(before + 40), SOON, "commands to succeed without a broker")
        await at.server.wait_ready()
        await until(lambda: some(before + 120), SOON)
    finally:
        done.set()
        await loading

    itself = await the_recorder(at).takes(acknowledged, broker.hands_out_again_after)
    await at.projected(acknowledged)
    outcomes.note(case, by_itself=itself)


async def test_a_new_subscriber_has_the_history(at: World, outcomes: Outcomes) -> None:
    events = await at.append(history(10, 5))
    await at.projected(events)

    late = await at.recorder("notification")
    itself = await late.takes(events, 20)
    database = PoolDatabase(at.pool)
    generations = Generations(database, PROJECTIONS)
    await generations.refresh()
    number = await generations.create(TASKS, "late")

    async def caught_up() -> bool:
        await generations.refresh()
        known = generations.find("tasks", number)
        return known is not None and known.caught_up

    await until(caught_up, SOON)
    found = await difference(database, "default", (TASKS.table, 1), (TASKS.table, number))
    assert found["new_rows"] >= 10
    assert (found["only_old"], found["only_new"], found["differing"]) == (0, 0, 0)
    outcomes.note("a new subscriber is given what was before it", by_itself=itself)


async def test_a_poison_message_holds_up_nobody(at: World, outcomes: Outcomes) -> None:
    before = await at.append(history(5, 2))
    poison = f"this is no event {new_id()}"
    assert not await at.writer.publish(
        "domain-events",
        [Message(new_id(), poison.encode(), "text/plain", publish_metadata("-", "-", new_id()))],
    )
    after = await at.append(history(5, 2))

    await at.projected([*before, *after])
    async with ask_the_projector(at) as projector:

        async def kept() -> bool:
            letters = (await projector.get("/dead-letters")).json()["items"]
            details = [(await projector.get(f"/dead-letters/{one['id']}")).text for one in letters]
            return any(poison in detail for detail in details)

        await until(kept, SOON, "the message to be kept as it was")
    outcomes.note("a message that cannot be read is kept and holds up nobody", by_itself=False)


async def test_an_event_of_900_kilobytes_arrives(at: World, outcomes: Outcomes) -> None:
    events = await at.append(history(1, 2, data="x" * 900_000))

    itself = await the_recorder(at).takes(events, SOON)
    await at.projected(events)
    small = await at.append(history(1, 1))
    await at.projected(small)
    outcomes.note("an event of 900 kB arrives", by_itself=itself)


async def test_a_burst_of_10_000_events_arrives(at: World, outcomes: Outcomes) -> None:
    events = await at.append(history(500, 20))

    await at.projected(events, 400)
    itself = await the_recorder(at).takes(events, 200)
    outcomes.note("a burst of 10,000 events arrives", by_itself=itself)


async def test_two_tenants_with_the_same_ids_do_not_meet(at: World, outcomes: Outcomes) -> None:
    one = history(3, 2, tenant="acme")
    other = [
        event.with_context(tenant_id="globex", event_id=new_id()) for event in one if event.data.get("title")
    ]
    events = [*await at.append(one), *await at.append(other)]

    await at.projected(events)
    async with ask_the_projector(at) as projector:
        for tenant, title in (("acme", "version 2"), ("globex", "version 1")):
            row = await projector.get(
                f"/queries/tasks/{one[0].aggregate_id}", headers={"x-tenant-id": tenant}
            )
            assert row.json()["title"] == title
        stranger = await projector.get(
            f"/queries/tasks/{one[0].aggregate_id}", headers={"x-tenant-id": "other"}
        )
        assert stranger.status_code == 404
    outcomes.note("a tenant sees its own and nothing else", by_itself=False)


async def test_what_the_network_does_by_a_seed_loses_nothing(at: World, outcomes: Outcomes) -> None:
    sys.stdout.write(f"\nANNALS_SEED={_SEED}\n")
    at.proxy.faults = Faults(_SEED, delay=0.05, cut=0.01, lose_reply=0.01, swallow=0.002)
    try:
        events = []
        for _ in range(10):
            events += await at.append(history(10, 3))
            at.proxy.cut_all()

        async def enough() -> bool:
            return at.proxy.injected >= 20

        await happens(enough, 20)
    finally:
        at.proxy.faults = None
    assert at.proxy.injected, "no fault was injected"

    await at.projected(events)
    itself = await the_recorder(at).takes(events, SOON)
    outcomes.note("connections that are slow, cut or silent lose nothing", by_itself=itself)


async def test_two_replicas_share_the_work(at: World, broker: Broker, outcomes: Outcomes) -> None:
    case = "two replicas of a service share its work"
    if not broker.replicas:
        outcomes.fail(case, "one replica of each service: a session belongs to one connection")
        pytest.skip(f"on {broker.name} a session belongs to one connection")
    one, other = the_recorder(at), await at.recorder("saga-orchestrator")
    await at.projector()
    shares = []

    async def both_work() -> bool:
        shares.extend(await at.append(history(20, 3)))
        return bool(ids(shares) & other.taken().keys()) and bool(ids(shares) & one.taken().keys())

    shared = await happens(both_work, SOON)

    async def all_taken() -> bool:
        return ids(shares) <= one.taken().keys() | other.taken().keys()

    itself = shared and await happens(all_taken, SOON)
    await at.projected(shares)
    outcomes.note(case, by_itself=itself)


def ids(events: list[RecordedEvent]) -> set[str]:
    return {event.event_id for event in events}
