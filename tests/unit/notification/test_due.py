"""Alarms are set when their time is near, and not sooner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import pytest
from structlog.testing import capture_logs

from annals.dapr import DaprSidecar, Jobs, SidecarUnavailable
from annals.testing.fake import FakeDapr, FakeSidecar, VirtualClock
from annals.web.background import background
from annals_notification.due import AHEAD, Alarms, Due, NotNow, Row
from conftest import until

_PAGE = 2


class Rows:
    """A kind of row with its table in memory."""

    name = "row"

    def __init__(self, **rows: datetime) -> None:
        self.rows = rows
        self.now = datetime.now(UTC)

    async def fire(self, tenant: str, row_id: str) -> None:
        assert tenant == "default"
        if row_id.startswith("unreadable"):
            raise ValueError("no event")
        del self.rows[row_id]

    async def due(self, after: Row, ahead: timedelta) -> list[Row]:
        upto = self.now + ahead
        rows = sorted(Row(at, "default", row_id) for row_id, at in self.rows.items() if at <= upto)
        return [row for row in rows if row > after][:_PAGE]


@pytest.fixture
def dapr() -> FakeDapr:
    return FakeDapr(clock=VirtualClock())


@pytest.fixture
async def alarms(dapr: FakeDapr) -> AsyncIterator[Alarms]:
    async with FakeSidecar("notification", dapr=dapr) as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        yield Alarms(Jobs(client))
        await client.close()


async def test_what_is_far_off_has_no_job_yet(dapr: FakeDapr, alarms: Alarms) -> None:
    now = datetime.now(UTC)
    alarms.set("row", "default", "far", now + AHEAD + timedelta(minutes=1))
    alarms.set("row", "default", "near", now + AHEAD - timedelta(minutes=1))

    async def one() -> list[str]:
        return dapr.scheduler.names("notification")

    async with background(alarms.run(), "alarms"):
        (name,) = await until(one)
    job = dapr.scheduler.get("notification", name)
    assert job is not None
    assert b'"near"' in job.data.value


async def test_rows_of_one_name_in_two_tenants_have_an_alarm_each(dapr: FakeDapr, alarms: Alarms) -> None:
    for tenant in ("acme", "globex"):
        await alarms.set_near("row", Row(datetime.now(UTC) + AHEAD / 2, tenant, "same"))
    assert len(dapr.scheduler.names("notification")) == 2


async def test_a_job_is_answered_by_whether_it_was_done(alarms: Alarms) -> None:
    class Odd(Rows):
        async def fire(self, tenant: str, row_id: str) -> None:
            if row_id == "later":
                raise NotNow("the broker is away")
            await super().fire(tenant, row_id)

    due = Due(alarms, Odd(late=datetime.now(UTC)))

    async def answer(row_id: str, kind: str = "row") -> bool:
        return await due.ring({"kind": kind, "tenant": "default", "id": row_id})

    with capture_logs() as logs:
        assert not await answer("later"), "it is to be called for again"
        assert not await answer("unreadable")
    assert [(log["id"], log["tenant"]) for log in logs] == [("later", "default"), ("unreadable", "default")]
    assert await answer("late")
    assert await answer("late", kind="of a version to come"), "called for again it would be no other"


async def test_a_row_that_cannot_be_handled_holds_up_no_other(alarms: Alarms) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    kind = Rows(unreadable=past - timedelta(minutes=1), late=past)

    async def done() -> bool:
        return set(kind.rows) == {"unreadable"}

    async with background(Due(alarms, kind).run(), "due"):
        await until(done)


async def test_what_has_come_near_gets_its_job_and_what_is_overdue_is_done(
    dapr: FakeDapr, alarms: Alarms
) -> None:
    now = datetime.now(UTC)
    kind = Rows(late=now - timedelta(minutes=1), near=now + AHEAD / 2, far=now + 2 * AHEAD)

    async def alarmed() -> bool:
        return len(dapr.scheduler.names("notification")) == 1 and set(kind.rows) == {"near", "far"}

    async with background(Due(alarms, kind).run(), "due"):
        await until(alarmed)
    (name,) = dapr.scheduler.names("notification")
    job = dapr.scheduler.get("notification", name)
    assert job is not None
    assert b'"near"' in job.data.value


async def test_all_that_is_overdue_gets_its_turn_however_much_of_it_cannot_be_done(alarms: Alarms) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    stuck = {f"unreadable{number}": past - timedelta(minutes=1) for number in range(3 * _PAGE)}
    kind = Rows(**stuck, late=past, late_too=past)
    kind.rows |= {"just_now": kind.now, "soon": kind.now + timedelta(seconds=1)}

    async def done() -> bool:
        return set(kind.rows) == {*stuck, "just_now", "soon"}

    async with background(Due(alarms, kind).run(), "due"):
        await until(done)


async def test_a_kind_that_waits_keeps_no_other_waiting(alarms: Alarms) -> None:
    class Waiting(Rows):
        name = "waiting"

        async def fire(self, _tenant: str, _row_id: str) -> None:
            await asyncio.Event().wait()

    past = datetime.now(UTC) - timedelta(minutes=1)
    other = Rows(late=past)

    async def done() -> bool:
        return not other.rows

    async with background(Due(alarms, Waiting(late=past), other).run(), "due"):
        await until(done)


class Away:
    """The jobs of an unreachable scheduler: each call uses up its whole deadline until `back` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.back = asyncio.Event()

    async def schedule(self, _name: str, _due: datetime, data: dict[str, str]) -> None:
        self.asked.append(data["id"])
        await self.back.wait()


async def test_what_is_overdue_is_done_while_no_alarm_can_be_set() -> None:
    now = datetime.now(UTC)
    kind = Rows(late=now - timedelta(minutes=1), near=now + AHEAD / 2)

    async def done() -> bool:
        return set(kind.rows) == {"near"}

    async with background(Due(Alarms(cast("Any", Away())), kind).run(), "due"):
        await until(done)


async def test_who_wants_an_alarm_waits_for_none_and_there_is_an_end_to_how_many_wait() -> None:
    away = Away()
    alarms = Alarms(cast("Any", away))

    async def last() -> bool:
        alarms.set("row", "default", "last", datetime.now(UTC))
        return "last" in away.asked

    async with background(alarms.run(), "alarms"):
        with capture_logs() as logs:
            for number in range(20_000):
                alarms.set("row", "default", str(number), datetime.now(UTC))
        assert {log["tenant"] for log in logs} == {"default"}
        await asyncio.sleep(0)
        assert len(away.asked) <= 1
        away.back.set()
        await until(last)
    assert 100 < len(away.asked) < 20_000


async def test_a_pass_that_can_set_no_alarm_ends_and_the_next_goes_on_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("annals_notification.due.SWEEP_SECONDS", 0.01)
    now = datetime.now(UTC)
    asked: list[str] = []

    class Unsteady:
        async def schedule(self, _name: str, _due: datetime, data: dict[str, str]) -> None:
            asked.append(data["id"])
            if len(asked) in (2, 3):
                raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away")

    kind = Rows(**{name: now + AHEAD / 2 + timedelta(seconds=place) for place, name in enumerate("abcd")})

    async def all_set() -> bool:
        return len(asked) >= 6

    async with background(Due(Alarms(cast("Any", Unsteady())), kind).run(), "due"):
        await until(all_set)
    assert asked == ["a", "b", "b", "b", "c", "d"]
