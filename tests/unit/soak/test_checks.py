"""The soak's checker, on made-up data: it accepts what is right, and sees each kind of what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from soak.checks import _instance, violations
from soak.evidence import Evidence
from soak.folds import row_of
from soak.load import Answer, Ledger, Told

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
AT = (NOW - timedelta(minutes=5)).isoformat()
DUE = NOW - timedelta(minutes=2)
MEMBER, SAGA = "m-1", "hand-1"
RELEASE = "capacity-release-task-b@3"


class Made:
    """A small world in which everything is right."""

    def __init__(self) -> None:
        self.evidence, self.ledger = Evidence(), Ledger()
        self._tasks()
        self._saga()
        self._release()
        self._recurrence()
        self._settle()

    def add(self, lane: int, name: str, kind: str, data: dict[str, Any], cause: str) -> dict[str, Any]:
        """One event more, in a commit of its own."""
        tenant = "acme"
        stream = self.evidence.streams.setdefault((tenant, name), {})
        log = self.evidence.lanes.setdefault(lane, {})
        kind_of, _, row_id = name.partition("-")
        event = {
            "event_id": f"{name}@{len(stream) + 1}",
            "event_type": kind,
            "timestamp": AT,
            "tenant_id": tenant,
            "aggregate_type": kind_of,
            "aggregate_id": row_id,
            "version": len(stream) + 1,
            "lane": lane,
            "seq": len(log) + 1,
            "causation_id": cause,
            "correlation_id": "c",
            "user_id": None,
            "session_id": None,
            "source": "made",
            "client": None,
            "data": data,
        }
        stream[event["version"]] = event
        self.evidence.heads[tenant, name] = {"version": event["version"]}
        log[event["seq"]] = {
            "tenant": tenant,
            "stream": name,
            "first": event["version"],
            "last": event["version"],
        }
        return event

    def command(self, kind: str, said: str, name: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        """A command that was acknowledged, and its event."""
        key = f"acme:{len(self.ledger.commands)}"
        event = self.add(0, name, said, data | more, key)
        body = {
            "id": event["aggregate_id"],
            "stream": name,
            "version": event["version"],
            "position": f"0-{event['seq']}",
        }
        self.evidence.outcomes["acme", key] = dict(body)
        then = (NOW - timedelta(minutes=4)).timestamp()
        self.ledger.commands.append(Told("acme", kind, data, key, Answer(200, body, then, then + 1)))
        return event

    def notice(self, event_id: str, kind: str, user: str, data: dict[str, Any]) -> None:
        """A delivery to an inbox."""
        row = {"tenant": "acme", "id": f"d-{event_id}-{user}", "user_id": user}
        self.evidence.deliveries.append(
            row | {"event_id": event_id, "kind": kind, "data": data, "status": "sent"}
        )
        self.evidence.inbox.append(row)

    def _tasks(self) -> None:
        defaults = {"description": None, "due": None, "priority": "normal", "tags": []}
        named = {"title": "acme a", "due": DUE.isoformat(), "assignee": "acme-ada"}
        self.command("task.create", "task.created", "task-a", defaults | named)
        told = {"task_id": "a", "before": "due", "due": DUE.isoformat()}
        self.notice(f"reminder:a:due:{DUE.isoformat()}", "reminder.due", "acme-ada", told)
        self.command(
            "task.create", "task.created", "task-b", defaults | {"title": "acme b", "assignee": None}
        )
        self.assign("task-b", "acme-bob")
        self.command("task.complete", "task.completed", "task-b", {}, assignee="acme-bob", frees=["acme-bob"])
        self.command(
            "task.create", "task.created", "task-c", defaults | {"title": "acme c", "assignee": None}
        )
        self.command(
            "member.register", "member.registered", f"member-{MEMBER}", {"name": "token", "capacity": 1}
        )
        refused = Answer(422, {}, 0.0, 1.0)
        self.ledger.commands.append(Told("acme", "task.complete", {"id": "b"}, "acme:refused", refused))

    def assign(self, task: str, user: str) -> None:
        """An assignment, of which the assignee is told."""
        event = self.command("task.assign", "task.assigned", task, {"assignee": user}, previous=None)
        self.notice(event["event_id"], "task.assigned", user, {})

    def _saga(self) -> None:
        name, once = f"saga-{SAGA}", f"saga:{SAGA}"
        steps = ["reserve-capacity", "assign-task", "notify", "accept-task"]
        began: dict[str, Any] = dict.fromkeys(("business_key", "parent", "user", "correlation_id"))
        began |= {"saga_type": "task-handover", "saga_version": 1, "steps": steps}
        self.add(48, name, "saga.started", began | {"input": {"task_id": "c", "assignee": MEMBER}}, SAGA)
        reserved = {"task_id": "c", "reserved": 1}
        self.add(0, f"member-{MEMBER}", "member.reserved", reserved, f"{once}/reserve-capacity")
        assigned = {"assignee": MEMBER, "previous": None}
        event = self.add(0, "task-c", "task.assigned", assigned, f"{once}/assign-task")
        self.notice(event["event_id"], "task.assigned", MEMBER, {})
        for step in steps:
            tried = {"step": step, "attempt": 1, "result": None}
            self.add(48, name, "saga.step_completed", tried, SAGA)
        self.add(0, "task-c", "task.accepted", {"assignee": MEMBER}, f"{once}/accept-task")
        self.notice(
            str(uuid5(NAMESPACE_URL, f"annals:acme/{once}/notify")), "notification.requested", MEMBER, {}
        )
        reminder = str(uuid5(NAMESPACE_URL, f"annals:reminder:acme/{SAGA}"))
        self.evidence.held.append({"tenant": "acme", "id": reminder, "due": AT, "published_at": AT})
        self.notice(reminder, "notification.requested", MEMBER, {})
        self.add(48, name, "saga.completed", {"output": None}, SAGA)
        self.evidence.workflows[_instance("acme", SAGA, 0)] = "completed"
        answer = Answer(202, {"id": SAGA}, 0.0, 1.0)
        self.ledger.sagas.append(Told("acme", "task-handover", {}, SAGA, answer))

    def _release(self) -> None:
        began: dict[str, Any] = dict.fromkeys(("business_key", "parent", "user", "correlation_id"))
        began |= {"saga_type": "capacity-release", "saga_version": 1, "steps": ["release"], "input": {}}
        self.add(48, f"saga-{RELEASE}", "saga.started", began, RELEASE)
        self.add(48, f"saga-{RELEASE}", "saga.completed", {"output": None}, RELEASE)
        self.evidence.workflows[_instance("acme", RELEASE, 0)] = "completed"

    def _recurrence(self) -> None:
        start = NOW - timedelta(minutes=3)
        data = {"title": "acme recurs", "description": None, "due": None, "priority": "normal"}
        for minute in (1, 2):
            key = f"recurrence:r:{(start + timedelta(minutes=minute)).isoformat()}"
            more = {"tags": [], "assignee": None}
            self.add(0, f"task-r{minute}", "task.created", data | more, key)
        row = {"tenant": "acme", "id": "r", "last": (NOW - timedelta(seconds=30)).isoformat()}
        self.evidence.recurrences.append(row | {"next": NOW.isoformat()})
        answer = Answer(201, {"last": start.isoformat()}, 0.0, 1.0)
        self.ledger.recurrences.append(Told("acme", "recurrence", {"start": start.isoformat()}, "r", answer))

    def _settle(self) -> None:
        """Publish and project all there is."""
        evidence = self.evidence
        models = {"task": "tasks", "member": "members", "saga": "sagas"}
        for (tenant, name), events in evidence.streams.items():
            row = row_of(events.values())
            if row is not None:
                evidence.read_models[models[name.partition("-")[0]]].append(copy.deepcopy(row))
            for event in events.values():
                evidence.messages.append(
                    {"topic": "t", "id": event["event_id"], "data": copy.deepcopy(event)}
                )
                entry = {"tenant": tenant, "stream": name, "time": event["timestamp"]}
                evidence.index.append(event | entry)

    def kinds(self) -> set[str]:
        """The kinds of what is wrong."""
        return {one.kind for one in violations(self.evidence, self.ledger, NOW)}


def test_what_is_right_is_accepted() -> None:
    made = Made()
    assert violations(made.evidence, made.ledger, NOW) == []


def _without(stream: str, version: int) -> Callable[[Made], None]:
    return lambda made: made.evidence.streams["acme", stream].pop(version) and None


def _event(made: Made, stream: str, version: int) -> dict[str, Any]:
    return made.evidence.streams["acme", stream][version]


def _doubled(made: Made) -> None:
    made.add(0, "task-b", "task.completed", {"assignee": None}, _event(made, "task-b", 3)["causation_id"])


def _refused_and_done(made: Made) -> None:
    made.add(0, "task-b", "task.completed", {"assignee": None}, "acme:refused")


def _unasked(made: Made) -> None:
    made.add(0, "task-b", "task.completed", {"assignee": None}, "acme:nobody")


def _answered_wrongly(made: Made) -> None:
    made.ledger.commands[0].answer.body["version"] = 7


def _outcome_lost(made: Made) -> None:
    made.evidence.outcomes.clear()


def _other_data(made: Made) -> None:
    _event(made, "task-b", 2)["data"]["assignee"] = "acme-eve"


def _head(made: Made) -> None:
    made.evidence.heads["acme", "task-b"]["version"] = 2


def _lane(made: Made) -> None:
    made.evidence.lanes[0].pop(2)


def _log(made: Made) -> None:
    made.evidence.lanes[0][2]["last"] = 9


def _misplaced(made: Made) -> None:
    _event(made, "task-b", 1)["tenant_id"] = "default"


def _unpublished(made: Made) -> None:
    made.evidence.messages.pop(0)


def _reordered(made: Made) -> None:
    first = next(one for one in made.evidence.messages if one["id"] == "task-b@1")
    made.evidence.messages.remove(first)
    made.evidence.messages.append(first)


def _published_differently(made: Made) -> None:
    made.evidence.messages[0]["data"]["data"]["title"] = "acme other"


def _phantom(made: Made) -> None:
    made.evidence.messages.append({"topic": "t", "id": "nobody stored this", "data": {}})


def _column(model: str, column: str, value: Any) -> Callable[[Made], None]:
    return lambda made: made.evidence.read_models[model][0].update({column: value})


def _row_lost(made: Made) -> None:
    made.evidence.read_models["tasks"].pop()


def _row_left(made: Made) -> None:
    made.evidence.read_models["tasks"].append({"tenant": "acme", "id": "never was"})


def _not_indexed(made: Made) -> None:
    made.evidence.index.pop()


def _half_saga(made: Made) -> None:
    events = made.evidence.streams["acme", f"saga-{SAGA}"]
    del events[max(events)]


def _saga_never_began(made: Made) -> None:
    del made.evidence.streams["acme", f"saga-{RELEASE}"]


def _workflow(made: Made) -> None:
    made.evidence.workflows[_instance("acme", SAGA, 0)] = "failed"


def _orphan(made: Made) -> None:
    made.evidence.workflows["nobody's"] = "completed"


def _step_twice(made: Made) -> None:
    data = {"step": "notify", "attempt": 1, "result": None}
    made.add(48, f"saga-{SAGA}", "saga.step_completed", data, SAGA)


def _wait_twice(made: Made) -> None:
    for _ in range(2):
        made.add(
            48, f"saga-{SAGA}", "saga.resumed", {"step": "answer", "event": None, "refused": False}, SAGA
        )


def _place_kept(made: Made) -> None:
    made.add(0, "task-c", "task.completed", {"assignee": None}, f"saga:{SAGA}/x")


def _over_capacity(made: Made) -> None:
    data = {"task_id": "d", "reserved": 2}
    made.add(0, f"member-{MEMBER}", "member.reserved", data, f"saga:{SAGA}/y")


def _other_title(made: Made) -> None:
    _event(made, "task-c", 1)["data"]["title"] = "default c"


def _other_user(made: Made) -> None:
    made.evidence.deliveries[0]["tenant"] = "default"


def _parked(made: Made) -> None:
    letter = {
        "kind": "event",
        "consumer": "tasks",
        "stream": "task-a",
        "version": 1,
        "reason": "x",
        "raw": "",
    }
    made.evidence.letters.append(letter)


def _stuck(made: Made) -> None:
    made.evidence.waiting["projector-domain-events"] = 3


def _told_of(kind: str) -> Callable[[Made], None]:
    def tamper(made: Made) -> None:
        made.evidence.deliveries[:] = [row for row in made.evidence.deliveries if row["kind"] != kind]

    return tamper


def _twice(kind: str) -> Callable[[Made], None]:
    def tamper(made: Made) -> None:
        row = next(row for row in made.evidence.deliveries if row["kind"] == kind)
        made.evidence.deliveries.append(row | {"id": "again"})

    return tamper


def _reminded_of_what_is_done(made: Made) -> None:
    done = made.ledger.commands[0]
    body = done.answer.body | {"version": 2}
    early = (DUE - timedelta(seconds=30)).timestamp()
    answer = Answer(200, body, early - 1, early)
    made.ledger.commands.append(Told("acme", "task.complete", {"id": "a"}, "acme:done", answer))


def _still_scheduled(made: Made) -> None:
    row = {"tenant": "acme", "id": "a:due", "status": "scheduled", "fires": DUE.isoformat()}
    made.evidence.reminders.append(row)


def _occurrence(made: Made) -> None:
    event = _event(made, "task-r1", 1)
    event["causation_id"] = event["causation_id"].replace(":r:", ":another:")


def _occurrence_waits(made: Made) -> None:
    made.evidence.recurrences[0]["next"] = AT


def _held(made: Made) -> None:
    made.evidence.held[0]["published_at"] = None


def _not_in_the_inbox(made: Made) -> None:
    made.evidence.inbox.pop()


def _from_nowhere(made: Made) -> None:
    made.notice("nobody's event", "task.assigned", "acme-ada", {})


def _seen_by_a_caller(made: Made) -> None:
    made.ledger.wrong.append(("answered differently", "x"))


TAMPERED: list[tuple[Callable[[Made], None], str]] = [
    (_without("task-b", 3), "lost"),
    (_doubled, "doubled"),
    (_step_twice, "doubled"),
    (_wait_twice, "doubled"),
    (_refused_and_done, "refused and done"),
    (_unasked, "unasked"),
    (_answered_wrongly, "answered wrongly"),
    (_outcome_lost, "answered wrongly"),
    (_other_data, "answered wrongly"),
    (_without("task-b", 2), "hole in a stream"),
    (_head, "wrong head"),
    (_lane, "hole in a lane"),
    (_log, "log differs"),
    (_misplaced, "misplaced"),
    (_unpublished, "unpublished"),
    (_reordered, "reordered"),
    (_published_differently, "published differently"),
    (_phantom, "published, not stored"),
    (_row_lost, "stale read model"),
    (_row_left, "stale read model"),
    (_not_indexed, "stale read model"),
    *((_column("tasks", name, "x"), "stale read model") for name in ("title", "due", "tags", "updated_at")),
    *((_column("members", name, 9), "stale read model") for name in ("capacity", "reserved", "version")),
    *((_column("sagas", name, None), "stale read model") for name in ("status", "steps", "ended_at")),
    (_half_saga, "half saga"),
    (_saga_never_began, "half saga"),
    (_workflow, "half saga"),
    (_orphan, "half saga"),
    (_place_kept, "half saga"),
    (_over_capacity, "capacity"),
    (_other_title, "other tenant"),
    (_other_user, "other tenant"),
    (_parked, "parked"),
    (_stuck, "stuck"),
    (_told_of("reminder.due"), "reminder lost"),
    (_still_scheduled, "reminder lost"),
    (_twice("reminder.due"), "reminder doubled"),
    (_reminded_of_what_is_done, "reminder wrong"),
    (_occurrence, "recurrence lost"),
    (_occurrence_waits, "recurrence lost"),
    (_told_of("task.assigned"), "notice lost"),
    (_told_of("notification.requested"), "notice lost"),
    (_held, "notice lost"),
    (_not_in_the_inbox, "notice lost"),
    (_twice("task.assigned"), "notice doubled"),
    (_from_nowhere, "notice out of nowhere"),
    (_seen_by_a_caller, "answered differently"),
]


@pytest.mark.parametrize(("tamper", "kind"), TAMPERED)
def test_what_is_wrong_is_seen(tamper: Callable[[Made], None], kind: str) -> None:
    made = Made()
    tamper(made)
    assert kind in made.kinds()
