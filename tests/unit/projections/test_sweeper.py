"""What is reported about how far the read models are, especially when they are far behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from annals.dapr import Database, DatabaseError
from annals.deadletters import DeadLetters, DeadLettersUnknown, TooManyParked
from annals.events import DomainEvent, Position, RecordedEvent, StreamId
from annals.projections import Applier, Generation, Sweeper
from annals.store import Append, Commit, EventReader, MemoryEventStore, StoreUnavailable, Undecodable
from annals.store.event_pages import MOST_EVENTS
from annals_projector.read_models import TASKS
from rows_written import NoLetters, TakesEveryRow

COMMITS = 1_000


class ReadModels:
    """Read models that hold everything up to a checkpoint."""

    def __init__(self, checkpoint: int) -> None:
        self.checkpoint = checkpoint
        self.others: dict[str, int] = {}
        self.away = False

    async def fetch(self, sql: str, *_params: str | None) -> Any:
        if self.away:
            raise DatabaseError("it is away")
        if "lane_checkpoints" in sql and "json_object_agg(lane" in sql:
            return {"0": self.checkpoint} | self.others
        return {"checkpoint": self.checkpoint, "seen": {}}


class Applying:
    """Applies what it is given, or raises `failure`."""

    failure: Exception | None = None
    applied = 0
    most = 0
    """The largest number of events at a time."""

    async def apply(self, events: Sequence[RecordedEvent]) -> frozenset[StreamId]:
        if self.failure is not None:
            raise self.failure
        self.applied += len(events)
        self.most = max(self.most, len(events))
        return frozenset()


async def filled() -> MemoryEventStore:
    store = MemoryEventStore()
    for number in range(COMMITS):
        event = DomainEvent(
            event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=str(number)
        )
        await store.append(Append(event.stream, (event,), 0))
    return store


def told(name: str) -> float:
    return REGISTRY.get_sample_value(f"annals_projection_{name}") or 0.0


def sweeper(database: ReadModels, store: EventReader, applying: Applying) -> Sweeper:
    return Sweeper(cast("Database", database), store, cast("Applier", applying), ["tasks"])


@pytest.mark.parametrize("failure", [None, DatabaseError("too slow")])
async def test_the_lag_is_all_that_the_read_models_lack(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    monkeypatch.setattr(
        "annals.projections.sweeper._GRACE", timedelta(seconds=-1)
    )  # no event is recent enough to be waited for
    database, store, applying = ReadModels(checkpoint=100), await filled(), Applying()
    applying.failure = failure
    sweeping = sweeper(database, store, applying)

    try:
        await sweeping.sweep()
    except DatabaseError:
        assert failure

    assert told("lag_commits") == COMMITS - 100


async def test_the_lag_is_none_when_there_is_nothing_more() -> None:
    await sweeper(ReadModels(checkpoint=COMMITS), await filled(), Applying()).sweep()

    assert told("lag_commits") == 0


async def test_when_all_was_last_compared_is_told_of_what_succeeded_only() -> None:
    database = ReadModels(checkpoint=COMMITS)
    sweeping = sweeper(database, await filled(), Applying())
    before = time.time()
    await sweeping.sweep()
    assert before <= (swept := told("swept_timestamp_seconds")) <= time.time()

    database.away = True
    with pytest.raises(DatabaseError):
        await sweeping.sweep()

    assert told("swept_timestamp_seconds") == swept


async def test_what_keeps_a_sweep_from_going_on_is_told_of_once_and_what_may_pass_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._EVERY_SECONDS", 0)
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    full, away, unread = TooManyParked("1000 are parked"), DatabaseError("away"), DeadLettersUnknown("unread")
    failures = iter([full, full, away, away, None, full, unread, unread])

    class Ended(Exception):
        pass

    class Failing(Applying):
        async def apply(self, events: Sequence[RecordedEvent]) -> frozenset[StreamId]:
            self.failure = next(failures, Ended())
            return await super().apply(events)

    store = MemoryEventStore()
    event = DomainEvent(event_type="task.created", source="test", aggregate_type="task", aggregate_id="t")
    await store.append(Append(event.stream, (event,), 0))
    with capture_logs() as logs, pytest.raises(Ended):
        await sweeper(ReadModels(checkpoint=0), store, Failing()).run()

    stopped, passing = "nothing is applied until dead letters are settled", "cannot sweep now"
    assert [(log["log_level"], log["event"], log["error"]) for log in logs if "error" in log] == [
        ("error", stopped, "1000 are parked"),
        ("warning", passing, "away"),
        ("error", stopped, "1000 are parked"),
        ("warning", passing, "unread"),
    ]


async def test_read_models_that_are_ahead_of_the_store_are_told_of_until_they_are_gone() -> None:
    database = ReadModels(checkpoint=COMMITS)
    sweeping = sweeper(database, await filled(), Applying())
    await sweeping.sweep()
    assert sweeping.applied_but_missing == {}

    database.checkpoint, database.others = COMMITS + 1, {"5": 3}
    with capture_logs() as logs:
        await sweeping.sweep()
        await sweeping.sweep()
    assert sweeping.applied_but_missing == {0: COMMITS + 1, 5: 3}
    assert [log["applied"] for log in logs if log["log_level"] == "error"] == [sweeping.applied_but_missing]

    database.checkpoint, database.others = COMMITS, {}
    await sweeping.sweep()
    assert sweeping.applied_but_missing == {}


async def test_what_a_message_brought_that_the_store_does_not_have_is_told_of() -> None:
    """The message waited on the broker while the store was emptied.

    It lies far beyond the checkpoint, or in another lane.
    """

    class Brought(ReadModels):
        async def fetch(self, sql: str, *params: str | None) -> Any:
            if "json_object_agg" in sql and "event_index" in sql and "generate_series" in sql:
                return {"0": self.checkpoint + 50, "3": 7}
            return await super().fetch(sql, *params)

    sweeping = sweeper(Brought(checkpoint=COMMITS), await filled(), Applying())
    with capture_logs() as logs:
        await sweeping.sweep()
    assert sweeping.applied_but_missing == {0: COMMITS + 50, 3: 7}
    assert [log["applied"] for log in logs if log["log_level"] == "error"] == [sweeping.applied_but_missing]


class Indexed(ReadModels):
    """Read models whose index lacks only the first commit; it is read as far as the sweeper asks."""

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "count(*)" not in sql:
            return await super().fetch(sql, *params)
        most = int(params[1] or 0)
        return {"checkpoint": 0, "seen": {str(seq): 1 for seq in range(2, COMMITS + 1)[:most]}}


class Holed(MemoryEventStore):
    """A store that lost the first commit of its lane."""

    def __init__(self, store: MemoryEventStore) -> None:
        super().__init__()
        self.__dict__ |= store.__dict__

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        return [] if first == 1 else await super().read_log(lane, first, last)


async def test_what_is_indexed_behind_a_hole_is_not_applied_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    monkeypatch.setattr("annals.projections.sweeper._PASSED", COMMITS // 2)
    applying = Applying()
    full = await sweeper(Indexed(checkpoint=0), Holed(await filled()), applying).sweep()
    assert (full, applying.applied) == (False, 0)


class Damaged(MemoryEventStore):
    """A store with another lane in which a commit or an event cannot be decoded."""

    def __init__(self, store: MemoryEventStore, *, commit: bool) -> None:
        super().__init__()
        self.__dict__ |= store.__dict__
        self._commit = commit

    async def tails(self, *, certain: bool = True) -> dict[int, int]:
        return {5: 7} | await super().tails(certain=certain)

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        if lane != 5:
            return await super().read_log(lane, first, last)
        if self._commit:
            raise Undecodable(f"log/5/{first}", ValueError("no JSON"))
        return [replace(one, position=Position(5, one.position.seq)) for one in self._log[first - 1 : 7]]

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        events = await super().read_events(refs)
        if events[0].seq <= 7:
            raise Undecodable(f"stream/{events[0].stream}/1", ValueError("no JSON"))
        return events


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "event"])
async def test_a_lane_with_what_cannot_be_decoded_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, commit: bool
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))

    class Lanes(ReadModels):
        async def fetch(self, sql: str, *params: str | None) -> Any:
            found = await super().fetch(sql, *params)
            return found | {"checkpoint": 2} if params[:1] == ("5",) else found

    database, applying = Lanes(checkpoint=COMMITS - 10), Applying()
    database.others = {"5": 2}
    sweeping = sweeper(database, Damaged(await filled(), commit=commit), applying)

    with capture_logs() as logs:
        await sweeping.sweep()

    assert applying.applied == 10
    assert told("lag_commits") == 10 + 5
    assert sweeping.applied_but_missing == {}
    (stalled,) = (log for log in logs if log["event"] == "cannot sweep a lane now")
    assert "cannot be decoded" in stalled["error"]


async def test_what_is_missing_is_held_a_few_events_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    store, applying = await filled(), Applying()
    event = DomainEvent(
        event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id="many"
    )
    await store.append(Append(event.stream, (event,) * 2_000, 0))

    await sweeper(ReadModels(checkpoint=COMMITS), store, applying).sweep()

    assert applying.applied == 2_000
    assert applying.most <= MOST_EVENTS


async def test_an_event_that_the_store_lacks_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    store, applying = await filled(), Applying()
    del store._streams[StreamId.of("default", "thing", str(COMMITS - 5))]

    await sweeper(ReadModels(checkpoint=COMMITS - 10), store, applying).sweep()

    assert applying.applied == 9


class Lossy(MemoryEventStore):
    """A store that lost some commits of its lane together with their events."""

    def __init__(self, store: MemoryEventStore, lost: Collection[int]) -> None:
        super().__init__()
        self.__dict__ |= store.__dict__
        self.lost = lost

    async def read_log(self, lane: int, first: int, last: int) -> list[Commit]:
        there = await super().read_log(lane, first, last)
        return list(takewhile(lambda one: one.position.seq not in self.lost, there))

    async def read_events(self, refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        return [event for event in await super().read_events(refs) if event.seq not in self.lost]


class Following(ReadModels):
    """Read models that index what is applied, except for streams that lack an event."""

    def __init__(self, missing: Collection[int], lacking: Collection[int] = ()) -> None:
        super().__init__(checkpoint=1)
        self.indexed = set(range(1, COMMITS + 1)) - set(missing) - set(lacking)
        self.lacking = lacking
        self.tried: list[int] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "INSERT INTO" in sql:
            self.checkpoint = max(self.checkpoint, int(params[1] or 0))
            return str(self.checkpoint)
        found = await super().fetch(sql, *params)
        if "count(*)" in sql:
            most, after = (int(one or 0) for one in params[1:])
            seen = sorted(seq for seq in self.indexed if seq > max(self.checkpoint, after))
            found["seen"] = {str(seq): 1 for seq in seen[:most]}
        return found

    async def apply(self, events: Sequence[RecordedEvent]) -> frozenset[StreamId]:
        self.tried += [event.seq for event in events]
        self.indexed |= {event.seq for event in events} - set(self.lacking)
        return frozenset(event.stream for event in events if event.seq in self.lacking)


def following(read_models: Following, store: EventReader) -> Sweeper:
    return sweeper(read_models, store, cast("Applying", read_models))


LOST = [*range(101, 401), 450]


@pytest.mark.parametrize("lost", [LOST, LOST[:1]], ids=["many", "one"])
async def test_commits_that_the_store_lost_end_no_healing_behind_them(
    monkeypatch: pytest.MonkeyPatch, lost: list[int]
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    monkeypatch.setattr("annals.projections.sweeper._PASSED", 100)
    store = Lossy(await filled(), lost)
    read_models = Following(missing=[*lost, 650, 700, COMMITS])
    sweeping = following(read_models, store)

    for _ in range(10):
        await sweeping.sweep()
    assert sorted(read_models.tried) == [650, 700, COMMITS]
    assert read_models.checkpoint == 100

    # Later losses are found too, and so is what is brought back.
    read_models.indexed.remove(800)
    for _ in range(10):
        await sweeping.sweep()
    assert read_models.tried[3:] == [800]
    store.lost = lost[1:]
    for _ in range(50):
        await sweeping.sweep()
    assert read_models.tried[4:] == [101]
    assert read_models.checkpoint == (101 if lost[1:] else COMMITS)


async def test_streams_that_lack_an_event_are_tried_without_haste_and_hold_up_none_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    read_models = Following(missing=[650], lacking=range(101, 501))
    sweeping = following(read_models, await filled())

    with capture_logs() as logs:
        full = [await sweeping.sweep() for _ in range(4)]

    assert not any(full)
    assert 650 in read_models.indexed
    assert [log["events"] for log in logs] == [1]


async def test_a_stream_that_lacks_events_is_told_of_once_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    store, read_models = MemoryEventStore(), Following(missing=range(1, 9))
    event = DomainEvent(event_type="task.created", source="test", aggregate_type="task", aggregate_id="t")
    for version in range(8):
        await store.append(Append(event.stream, (event,), version))
    lossy = Lossy(store, [2, 3, 4])
    applier = Applier(
        cast("Database", TakesEveryRow()),
        lossy,
        lambda: [Generation(TASKS, 2)],
        cast("DeadLetters", NoLetters()),
    )

    with capture_logs() as logs:
        await Sweeper(cast("Database", read_models), lossy, applier, ["tasks"]).sweep()

    (lacking,) = (log for log in logs if log["event"] == "an earlier event is not in the store")
    assert lacking["version"] == 2


class BrokenOff(MemoryEventStore):
    """A store whose answer to a read of many events broke off before the first."""

    async def read_events(self, _refs: Sequence[tuple[StreamId, int]]) -> list[RecordedEvent]:
        return []

    async def read_raw_events(
        self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
    ) -> list[bytes | None]:
        there = await super().read_events(refs) if certain else []
        found = {(event.stream, event.version): event.to_json() for event in there}
        return [found.get(ref) for ref in refs]


async def test_an_event_that_a_read_left_out_is_not_taken_for_lost() -> None:
    """It would be reported as an error, and a message that was given up would be parked for it."""
    store = BrokenOff()
    event = DomainEvent(event_type="task.created", source="test", aggregate_type="task", aggregate_id="t")
    for version in range(3):
        await store.append(Append(event.stream, (event,), version))
    last = [one async for one in store.read_stream(event.stream, from_version=3)]
    applier = Applier(
        cast("Database", TakesEveryRow()),
        store,
        lambda: [Generation(TASKS, 2)],
        cast("DeadLetters", NoLetters()),
    )

    with capture_logs() as logs, pytest.raises(StoreUnavailable, match="could be read"):
        await applier.apply(last)

    assert logs == []


class FollowingEvents(Following):
    """Read models that index each event by itself."""

    def __init__(self, missing: Collection[tuple[int, int]], lacking: Collection[int] = ()) -> None:
        super().__init__(range(1, COMMITS + 1), lacking)
        first = {(seq, 1) for seq in range(1, COMMITS + 1)} - {(seq, 1) for seq in lacking}
        self.events = (first | {(MANY, 2)}) - set(missing)

    async def fetch(self, sql: str, *params: str | None) -> Any:
        self.indexed = {seq for seq, _ in self.events}
        found = await super().fetch(sql, *params)
        if "count(*)" in sql:
            found["seen"] = dict(Counter(str(seq) for seq, _ in self.events if str(seq) in found["seen"]))
        return found

    async def apply(self, events: Sequence[RecordedEvent]) -> frozenset[StreamId]:
        self.events |= {(event.seq, event.version) for event in events if event.seq not in self.lacking}
        return await super().apply(events)


MANY = 150
"""A commit of two events."""


async def filled_with_many() -> MemoryEventStore:
    store = MemoryEventStore()
    for number in range(1, COMMITS + 1):
        event = DomainEvent(
            event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id=str(number)
        )
        events = (event, event.model_copy(update={"event_id": "second"})) if number == MANY else (event,)
        await store.append(Append(event.stream, events, 0))
    return store


@pytest.mark.parametrize("passed", [10, COMMITS * 2], ids=["far behind", "on the first page"])
async def test_the_rest_of_a_commit_is_brought_behind_a_commit_that_the_store_lost(
    monkeypatch: pytest.MonkeyPatch, passed: int
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    monkeypatch.setattr("annals.projections.sweeper._PASSED", passed)
    read_models = FollowingEvents(missing=[(101, 1), (MANY, 2)])
    sweeping = following(read_models, Lossy(await filled_with_many(), [101]))

    for _ in range(20):
        await sweeping.sweep()

    assert (MANY, 2) in read_models.events
    assert set(read_models.tried) == {MANY}
    assert read_models.checkpoint == 100


async def test_a_commit_whose_rest_the_store_lacks_is_tried_without_haste_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))

    class Torn(Lossy):
        async def read_raw_events(
            self, refs: Sequence[tuple[StreamId, int]], *, certain: bool = False
        ) -> list[bytes | None]:
            raw = await super().read_raw_events(refs, certain=certain)
            return [None if version == 2 else one for (_, version), one in zip(refs, raw, strict=True)]

    read_models = FollowingEvents(missing=[(MANY, 2)], lacking=range(MANY + 1, MANY + 301))
    sweeping = following(read_models, Torn(await filled_with_many(), []))

    before = told("healed_events_total")
    with capture_logs() as logs:
        full = [await sweeping.sweep() for _ in range(10)]

    assert sum(full) <= 1
    assert [log["events"] for log in logs] == [1]
    assert told("healed_events_total") == before + 1


async def test_what_no_message_brought_behind_a_stream_that_lacks_an_event_is_brought_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.sweeper._GRACE", timedelta(seconds=-1))
    monkeypatch.setattr("annals.projections.sweeper._LOOK_AHEAD", 20)
    monkeypatch.setattr("annals.projections.sweeper._PASSED", 100)
    read_models = Following(missing=range(101, COMMITS + 1), lacking=[101])
    sweeping = following(read_models, await filled())

    pauses = 0
    while len(read_models.indexed) < COMMITS - 1 and pauses < COMMITS:
        pauses += not await sweeping.sweep()

    assert pauses <= COMMITS / 100 + 2  # one for each page, not one for each event


async def test_a_checkpoint_that_another_replica_has_just_moved_is_not_ahead() -> None:
    """A commit comes in between; it existed before the checkpoint that counts it could be read."""
    store = await filled()

    class Moving(ReadModels):
        async def fetch(self, sql: str, *params: str | None) -> Any:
            event = DomainEvent(
                event_type="thing.happened", source="test", aggregate_type="thing", aggregate_id="x"
            )
            head, _ = await store.load(event.stream)
            await store.append(Append(event.stream, (event,), head.version if head else 0))
            self.checkpoint += 1
            return await super().fetch(sql, *params)

    sweeping = sweeper(Moving(checkpoint=COMMITS), store, Applying())
    await sweeping.sweep()
    assert sweeping.applied_but_missing == {}
