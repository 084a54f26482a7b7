from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from annals.dapr.invocation import Answer
from annals.store import MAX_EVENT_BYTES, AppendTooLarge
from annals_notification.due import NotNow
from annals_notification.recurrence import Recurrence
from annals_notification.recurrences import Recurrences
from fixed_answer import sidecar

SET_UP = "2029-12-01T00:00:00+00:00"


class Database:
    """A database of one row that records writes; with `changes` false, another has changed the row."""

    def __init__(self, changes: bool = True, **given: Any) -> None:
        start = datetime(2030, 1, 1, 9, tzinfo=UTC)
        whole = {"rule": "FREQ=DAILY", "command": {"type": "task.create", "data": {}}, "start": start} | given
        data = Recurrence.model_validate(whole).model_dump(mode="json")
        self.row = {"id": "r", "data": data, "last": SET_UP, "next": "2030-01-01T09:00:00+00:00"}
        self.changes = changes
        self.written: list[tuple[str | None, ...]] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "UPDATE" not in sql:
            return {"row": self.row}
        self.written.append(params)
        return int(self.changes)


class Alarms:
    def __init__(self) -> None:
        self.rings: list[datetime] = []

    def set(self, _kind: str, _tenant: str, _row_id: str, at: datetime) -> None:
        self.rings.append(at)


def recurrences(database: Database, alarms: Alarms) -> Recurrences:
    return Recurrences(cast("Any", database), cast("Any", None), cast("Any", alarms))


async def test_what_pauses_comes_no_more() -> None:
    database, alarms = Database(), Alarms()
    await recurrences(database, alarms).pause("t", "r", True)
    [(*found_by, paused, following, _now)] = database.written
    assert (found_by, paused, following) == (["t", "r", SET_UP], "true", None)
    assert alarms.rings == []


async def test_what_goes_on_comes_when_its_rule_says() -> None:
    first, second = "2030-01-01T09:00:00Z", datetime(2030, 1, 2, 9, tzinfo=UTC)
    database, alarms = Database(paused=True, skip=[first]), Alarms()
    await recurrences(database, alarms).pause("t", "r", False)
    [(*_, going_on, following, _now)] = database.written
    assert (going_on, following) == ("false", second.isoformat())
    assert alarms.rings == [second]


@pytest.mark.parametrize("paused", [True, False])
async def test_what_is_so_already_stays_as_far_as_it_is(paused: bool) -> None:
    database = Database(paused=paused)
    assert await recurrences(database, Alarms()).pause("t", "r", paused) == database.row
    assert database.written == []


async def test_what_is_changed_at_the_same_time_is_not_overwritten() -> None:
    alarms = Alarms()
    with pytest.raises(NotNow):
        await recurrences(Database(changes=False, paused=True), alarms).pause("t", "r", False)
    assert alarms.rings == []


async def test_what_cannot_be_counted_any_more_can_be_paused() -> None:
    database = Database()
    database.row["data"]["rule"] = "FREQ=SECONDLY"
    await recurrences(database, Alarms()).pause("t", "r", True)
    assert len(database.written) == 1
    database.row["data"]["paused"] = True
    with pytest.raises(ValueError, match="a minute apart"):
        await recurrences(database, Alarms()).pause("t", "r", False)


# Five million minutes from the year 1900 on, each of which has to be counted.
COUNTED = {"rule": "FREQ=MINUTELY;COUNT=5000000", "start": "1900-01-01T00:00:00Z"}


async def test_what_must_be_counted_from_its_start_goes_on_only_if_that_takes_no_long() -> None:
    """A rule may have been stored when it needed no counting, or its start may by now be too long ago."""
    database = Database(paused=True, **COUNTED)
    with pytest.raises(ValueError, match="evaluated faster"):
        await recurrences(database, Alarms()).pause("t", "r", False)
    assert database.written == []


async def test_what_pauses_is_taken_only_if_it_could_go_on() -> None:
    database = Database()
    given = {"command": {"type": "task.create", "data": {}}, "paused": True}
    with pytest.raises(ValueError, match="evaluated faster"):
        await recurrences(database, Alarms()).put("t", "r", Recurrence.model_validate(given | COUNTED))
    assert database.written == []
    alarms = Alarms()
    daily = Recurrence.model_validate(given | {"rule": "FREQ=DAILY"})
    await recurrences(database, alarms).put("t", "r", daily)
    [(_tenant, _id, _data, following, _now)] = database.written
    assert following is None
    assert alarms.rings == []


async def test_a_command_that_no_event_could_hold_is_not_taken() -> None:
    """Each occurrence would be refused, and a page with it may exceed what a sidecar answers with."""
    database, alarms = Database(), Alarms()
    command = {"type": "task.create", "data": {"title": "x" * MAX_EVENT_BYTES}}
    large = Recurrence.model_validate({"rule": "FREQ=DAILY", "command": command})
    with pytest.raises(AppendTooLarge, match="one event may take"):
        await recurrences(database, alarms).put("t", "r", large)
    assert (database.written, alarms.rings) == ([], [])


class Commands:
    """Gives the answers in turn; `keys` records the idempotency keys."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.keys: list[str] = []

    async def invoke(self, *_: str, json: Any, headers: dict[str, str], **__: float) -> Answer:  # noqa: ARG002
        self.keys.append(headers["idempotency-key"])
        return self.answers.pop(0)


async def test_an_occurrence_that_others_were_faster_than_is_sent_again_under_its_key() -> None:
    """The command expects no version, so the conflict only means that nothing was changed."""
    commands = Commands(
        Answer(409, {"type": "urn:annals:problem:conflict", "detail": "it is at another version"}),
        Answer(200, {"id": "7"}),
    )
    yesterday = datetime.now(UTC) - timedelta(days=1)
    database = Database(start=yesterday, rule="FREQ=DAILY;COUNT=2")
    database.row["last"] = yesterday.isoformat()
    recurs = Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms()))
    with pytest.raises(NotNow):
        await recurs.fire("t", "r")
    assert database.written == []
    await recurs.fire("t", "r")
    assert len(commands.keys) == 2
    assert len(set(commands.keys)) == 1
    [(*_, following, counted, refused)] = database.written
    assert (following, counted, refused) == (None, "1", None)


class Takes:
    """Accepts every command."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def invoke(self, *_: str, json: Any, headers: dict[str, str], **__: float) -> Answer:  # noqa: ARG002
        self.keys.append(headers["idempotency-key"])
        return Answer(200, {"id": "7"})


async def test_of_very_many_that_were_missed_some_are_sent_and_the_next_is_due_at_once() -> None:
    began = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(weeks=3)
    database, commands, alarms = (
        Database(start=began, rule="FREQ=MINUTELY", catch_up="all"),
        Takes(),
        Alarms(),
    )
    database.row["last"] = began.isoformat()
    recurs = Recurrences(cast("Any", database), cast("Any", commands), cast("Any", alarms))
    await recurs.fire("t", "r")
    [(*_, last, following, counted, refused)] = database.written
    assert (counted, refused) == (str(len(commands.keys)), None)
    assert 0 < len(commands.keys) < 1_000
    reached = began + timedelta(minutes=len(commands.keys))
    assert last == reached.isoformat()
    assert following == (reached + timedelta(minutes=1)).isoformat()
    assert alarms.rings == [reached + timedelta(minutes=1)]
    assert commands.keys[-1] == f"recurrence:r:{last}"


class Heard(Commands):
    def __init__(self, *answers: Answer) -> None:
        super().__init__(*answers)
        self.headers: list[dict[str, str]] = []

    async def invoke(self, *_: str, json: Any, headers: dict[str, str], **__: float) -> Answer:
        self.headers.append(headers)
        return await super().invoke(json=json, headers=headers)


def due(**given: Any) -> Database:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    database = Database(start=yesterday, rule="FREQ=DAILY;COUNT=2", **given)
    database.row["last"] = yesterday.isoformat()
    return database


async def test_an_alarm_that_rings_while_it_pauses_sends_nothing() -> None:
    database, commands = due(paused=True), Heard(Answer(200, {"id": "7"}))
    database.row["next"] = None
    await Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms())).fire("acme", "r")
    assert commands.headers == []
    assert database.written == []


async def test_a_command_is_sent_for_its_tenant_in_the_name_of_who_set_it_up() -> None:
    database, commands = due(user="grace"), Heard(Answer(200, {"id": "7"}))
    await Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms())).fire("acme", "r")
    [headers] = commands.headers
    assert (headers["x-tenant-id"], headers["x-user-id"]) == ("acme", "grace")


@pytest.mark.parametrize("data", [{"id": "stand-up"}, {}], ids=["own id", "made up"])
async def test_that_what_it_would_make_exists_is_said(data: dict[str, str]) -> None:
    """Whoever sees the recurrence can tell the id of its next task, and may have taken it."""
    exists = {"type": "urn:annals:problem:rule", "rule": "task.exists", "detail": "there is a task stand-up"}
    database = due(command={"type": "task.create", "data": data})
    commands = Commands(Answer(422, exists))
    await Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms())).fire("acme", "r")
    [(*_, refused)] = database.written
    assert refused == "there is a task stand-up"


async def test_a_refusal_is_said_although_the_command_of_a_later_occurrence_was_taken() -> None:
    began = datetime.now(UTC) - timedelta(days=2)
    database = Database(start=began, rule="FREQ=DAILY;COUNT=3", catch_up="all")
    database.row["last"] = began.isoformat()
    no = {"type": "urn:annals:problem:rule", "rule": "task.closed", "detail": "not on this day"}
    commands = Commands(Answer(422, no), Answer(200, {}))
    await Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms())).fire("acme", "r")
    [(*_, counted, refused)] = database.written
    assert (counted, refused) == ("2", "not on this day")


async def test_what_is_made_anew_has_an_id_of_its_occurrence_however_often_that_is_sent() -> None:
    """The id is the same even if the command is repeated after its key was forgotten."""

    class Keeps:
        def __init__(self) -> None:
            self.ids: list[str] = []

        async def invoke(self, *_: str, json: Any, headers: dict[str, str], **__: float) -> Answer:  # noqa: ARG002
            self.ids.append(json["id"])
            return Answer(200, {"id": json["id"]})

    began, commands = datetime.now(UTC) - timedelta(days=2), Keeps()
    database = Database(start=began, rule="FREQ=DAILY;COUNT=3", catch_up="all")
    database.row["last"] = began.isoformat()
    recurs = Recurrences(cast("Any", database), cast("Any", commands), cast("Any", Alarms()))
    for tenant in ("acme", "acme", "other"):
        await recurs.fire(tenant, "r")
    first, again, of_another = commands.ids[:2], commands.ids[2:4], commands.ids[4:]
    assert first == again
    assert len({*first, *of_another}) == 4


async def test_what_has_become_too_long_to_count_stands_still_and_says_so() -> None:
    database, alarms = Database(**COUNTED), Alarms()
    recurs = Recurrences(cast("Any", database), cast("Any", Commands()), cast("Any", alarms))
    await recurs.fire("t", "r")
    [(_tenant, _id, found_by, _now, following, counted, why)] = database.written
    assert (found_by, following, counted) == (SET_UP, None, "0")
    assert "evaluated faster" in (why or "")
    assert alarms.rings == []


async def test_an_occurrence_that_expects_a_version_that_is_over_is_refused_and_the_next_comes() -> None:
    command = {"type": "task.update", "data": {"id": "t1", "title": "x", "expected_version": 1}}
    database, alarms = due(command=command), Alarms()
    database.row["data"]["rule"] = "FREQ=DAILY"
    commands = Heard(Answer(409, {"type": "urn:annals:problem:conflict", "detail": "it is at version 2"}))
    await Recurrences(cast("Any", database), cast("Any", commands), cast("Any", alarms)).fire("acme", "r")
    [(*_, following, counted, refused)] = database.written
    assert (counted, refused) == ("1", "it is at version 2")
    assert [alarm.isoformat() for alarm in alarms.rings] == [following]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Answer(404, {"type": "urn:annals:problem:unknown-command", "detail": "no such command"}),
            "no such command",
        ),
        (
            Answer(403, {"errorCode": "ERR_DIRECT_INVOKE", "message": "access denied by policy"}),
            "access denied by policy",
        ),
        (Answer(401, {"errorCode": "ERR_UNAUTHORIZED", "message": "invalid api token"}), None),
    ],
)
async def test_what_is_not_let_in_now_is_sent_again_and_what_is_not_allowed_is_not(
    answer: Answer, said: str | None
) -> None:
    database = due()
    recurs = Recurrences(cast("Any", database), cast("Any", Heard(answer)), cast("Any", Alarms()))
    if said is None:
        with pytest.raises(NotNow):
            await recurs.fire("acme", "r")
        assert database.written == []
    else:
        await recurs.fire("acme", "r")
        [(*_, refused)] = database.written
        assert refused == said


async def test_a_command_service_that_is_silent_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annals_notification.recurrences._COMMAND_SECONDS", 0.01)
    database = Database(start="2020-01-01T09:00:00Z")
    database.row["last"] = "2020-01-01T00:00:00+00:00"
    async with sidecar(None) as silent:
        recurs = Recurrences(cast("Any", database), silent, cast("Any", Alarms()))
        with pytest.raises(NotNow, match=r"command did not answer within 0\.01 s"):
            await recurs.fire("acme", "r")
