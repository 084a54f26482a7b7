"""Released letters are replayed by whoever knows their read model, and end when their table is gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from annals.deadletters import SETTLED_SECONDS, DeadLetter, Kind, Status, TooManyParked
from annals.events import DomainEvent, RecordedEvent
from annals.projections import Generations, GenerationStatus, Replays
from annals.projections.generations import CatalogueEntry, Outdated
from annals.store import Append, MemoryEventStore
from annals_projector.read_models import PROJECTIONS, TASKS

LETTER = DeadLetter(
    "x",
    Kind.EVENT,
    "tasks",
    "default",
    "task-a",
    4,
    "task.updated",
    "a reason",
    "a group",
    1,
    None,
    "2030-01-01T00:00:00Z",
    generation=3,
    status=Status.RELEASED,
    released_at=time.time(),
)
OF_ANOTHER_RELEASE = CatalogueEntry(
    "tasks", 3, TASKS.version + 1, GenerationStatus.BUILDING, "a test", True, None, False, "2030", False, {}
)


class Letters:
    """Records which letters have ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.gone: list[tuple[str, int]] = []

    def generations(self) -> set[tuple[str, int]]:
        return {("tasks", 2), ("tasks", 3)}

    async def close_generation(self, read_model: str, generation: int) -> None:
        self.gone.append((read_model, generation))

    async def done(self, letter: DeadLetter) -> None:
        self.ended.append(letter.id)


@pytest.mark.parametrize(
    ("known", "ended", "would"), [((), ["x"], "end"), ((OF_ANOTHER_RELEASE,), [], "wait")]
)
async def test_what_another_release_fills_does_not_end_here(
    known: tuple[CatalogueEntry, ...], ended: list[str], would: str
) -> None:
    nothing: Any = None
    letters: Any = Letters()
    generations = Generations(nothing, PROJECTIONS)
    generations.all = known
    replays = Replays(nothing, nothing, nothing, generations, letters)
    await replays._replay(LETTER)
    assert letters.ended == ended
    assert (await replays.dry_run(LETTER))["would"] == would


async def test_what_waits_for_a_table_that_was_dropped_ends_and_for_one_just_made_does_not() -> None:
    class Catalogue(Generations):
        async def refresh(self) -> None:
            self.all = (OF_ANOTHER_RELEASE,)  # generation 3, which did not exist at the earlier read

    nothing: Any = None
    letters: Any = Letters()
    replays = Replays(nothing, nothing, nothing, Catalogue(nothing, PROJECTIONS), letters)
    await replays._end_gone()
    assert letters.gone == [("tasks", 2)]


async def test_what_keeps_a_letter_from_being_replayed_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals.projections.replays._EVERY_SECONDS", 0)
    failures = iter([TooManyParked("1000 are parked")] * 3 + [Outdated("another release's")] * 3)

    class Ended(Exception):
        pass

    class Released(Letters):
        def generations(self) -> set[tuple[str, int]]:
            return set()

        def released(self) -> list[DeadLetter]:
            return [LETTER]

    class Failing(Generations):
        def find(self, *_: object) -> CatalogueEntry | None:
            raise next(failures, Ended())

    made: Any = None
    letters: Any = Released()
    with capture_logs() as logs, pytest.raises(Ended):
        await Replays(made, made, made, Failing(made, PROJECTIONS), letters).run()
    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("error", "a dead letter is not replayed until others are settled"),
        ("warning", "a dead letter cannot be replayed now"),
    ]
    assert {(log["tenant"], log["dead_letter"]) for log in logs} == {("default", LETTER.id)}


async def test_what_is_released_is_applied_at_once_and_done_when_every_replica_knows_of_it() -> None:
    """A replica that does not know of the release yet skips what comes meanwhile."""

    class Applied:
        def __init__(self) -> None:
            self.versions: list[int] = []

        async def apply(self, events: Sequence[RecordedEvent]) -> None:
            self.versions += [event.version for event in events]

    store = MemoryEventStore()
    event = DomainEvent(event_type="task.updated", source="test", aggregate_type="task", aggregate_id="a")
    await store.append(Append(event.stream, (event,) * 5, 0))
    nothing: Any = None
    letters: Any = Letters()
    applier: Any = Applied()
    generations = Generations(nothing, PROJECTIONS)
    generations.all = (replace(OF_ANOTHER_RELEASE, version=TASKS.version, status=GenerationStatus.LIVE),)
    replays = Replays(nothing, store, applier, generations, letters)

    await replays._replay(replace(LETTER, released_at=time.time() - SETTLED_SECONDS / 2))
    assert (applier.versions, letters.ended) == ([5], [])

    await replays._replay(replace(LETTER, released_at=time.time() - SETTLED_SECONDS - 1))
    assert (applier.versions, letters.ended) == ([5, 5], ["x"])
