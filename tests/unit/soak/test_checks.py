"""The soak's checker, on made-up data: it accepts what is right and finds each kind of violation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from soak.checks import _chained, _instance, proved_from, violations
from soak.evidence import Evidence
from soak.folds import row_of, state_of
from soak.load import Answer, Ledger, Told

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
AT = (NOW - timedelta(minutes=5)).isoformat()
DUE = NOW - timedelta(minutes=2)
MEMBER, SAGA = "m-1", "hand-1"
RELEASE = "capacity-release-task-b@3"
STEPS = ["reserve-capacity", "assign-task", "notify", "await-answer", "accept-task"]


class Made:
    """A small world in which everything is right."""

    def __init__(self) -> None:
        self.evidence, self.ledger = Evidence(), Ledger()
        self._tasks()
        self._saga()
        self._release()
        self._recurrence()
        self.settle()

    def add(self, lane: int, name: str, kind: str, data: dict[str, Any], cause: str) -> dict[str, Any]:
        """Add an event, in a commit of its own."""
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
        event["hash"] = _chained(event, stream[len(stream)]["hash"] if stream else "")
        stream[event["version"]] = event
        log[event["seq"]] = {
            "tenant": tenant,
            "stream": name,
            "first": event["version"],
            "last": event["version"],
        }
        return event

    def command(self, kind: str, said: str, name: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Add an acknowledged command and its event."""
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

    def notice(self, event_id: str, kind: str, user: str, data: dict[str, Any], at: datetime = DUE) -> None:
        """Add a delivery to an inbox."""
        row = {"tenant": "acme", "id": f"d-{event_id}-{user}", "user_id": user, "kind": kind, "data": data}
        self.evidence.deliveries.append(
            row | {"event_id": event_id, "status": "sent", "created_at": at.isoformat()}
        )
        self.evidence.inbox.append(copy.deepcopy(row))

    def remind(self, user: str, due: datetime, before: str = "due", at: datetime = DUE) -> None:
        """Add a reminder of the first task."""
        data = {"task_id": "a", "before": before, "due": due.isoformat(), "title": "acme a"}
        self.notice(f"reminder:a:{before}:{due.isoformat()}", "reminder.due", user, data, at)

    def _tasks(self) -> None:
        defaults = {"description": None, "due": None, "priority": "normal", "tags": []}
        named = {"title": "acme a", "due": DUE.isoformat(), "assignee": "acme-ada"}
        event = self.command("task.create", "task.created", "task-a", defaults | named)
        self.remind("acme-ada", DUE)
        says = {"assignee": "acme-ada", "previous": None, "stream": "task-a"}
        self.notice(event["event_id"], "task.assigned", "acme-ada", says)
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
        """Add an assignment, with its notice to the assignee."""
        event = self.command("task.assign", "task.assigned", task, {"assignee": user}, previous=None)
        self.notice(event["event_id"], "task.assigned", user, event["data"] | {"stream": task})

    def begin(self, saga_id: str, kind: str, steps: list[str], **given: Any) -> None:
        """Add the start of a saga whose workflow has ended by now."""
        began: dict[str, Any] = dict.fromkeys(("business_key", "user", "correlation_id"))
        began |= {"saga_type": kind, "saga_version": 1, "steps": steps, "started_at": AT}
        began |= {"parent": given.pop("parent", None), "input": given}
        self.add(48, f"saga-{saga_id}", "saga.started", began, saga_id)
        self.evidence.workflows[_instance("acme", saga_id, 0)] = "completed"

    def step(self, saga_id: str, step: str, *, kind: str = "completed", result: Any = None) -> None:
        """Add a successful step of a saga."""
        data = {"step": step, "attempt": 1, "result": result}
        self.add(48, f"saga-{saga_id}", f"saga.step_{kind}", data, saga_id)

    def hand_over(self, saga_id: str, task: str, member: str, **given: Any) -> str:
        """Add a hand-over with its notice to the member; return the prefix of its commands' keys."""
        known = {"task_id": task, "assignee": member, "deadline": "PT8S"}
        self.begin(saga_id, "task-handover", STEPS, **known, **given)
        for step in STEPS[:3]:
            self.step(saga_id, step)
        told = {"user": member, "task_id": task, "saga_id": saga_id, "kind": "handover_requested"}
        notice = str(uuid5(NAMESPACE_URL, f"annals:acme/saga:{saga_id}/notify"))
        self.notice(notice, "notification.requested", member, told)
        return f"saga:{saga_id}"

    def accept(self, saga_id: str) -> None:
        """Have the member accept, which ends the saga."""
        answer = {"step": "await-answer", "event": "accept", "refused": False}
        self.add(48, f"saga-{saga_id}", "saga.resumed", answer, saga_id)
        self.step(saga_id, "accept-task")
        self.add(48, f"saga-{saga_id}", "saga.completed", {"output": None}, saga_id)

    def reserving(self) -> dict[str, Any]:
        """Return what the saga recorded about its first step."""
        history = self.evidence.streams["acme", f"saga-{SAGA}"].values()
        return next(one["data"] for one in history if one["data"].get("step") == "reserve-capacity")

    def _saga(self) -> None:
        once = self.hand_over(SAGA, "c", MEMBER)
        reserved = {"task_id": "c", "reserved": 1}
        event = self.add(0, f"member-{MEMBER}", "member.reserved", reserved, f"{once}/reserve-capacity")
        self.reserving()["result"] = {
            "stream": f"member-{MEMBER}",
            "version": event["version"],
            "position": f"{event['lane']}-{event['seq']}",
        }
        assigned = {"assignee": MEMBER, "previous": None}
        event = self.add(0, "task-c", "task.assigned", assigned, f"{once}/assign-task")
        self.notice(event["event_id"], "task.assigned", MEMBER, assigned | {"stream": "task-c"})
        self.accept(SAGA)
        self.add(0, "task-c", "task.accepted", {"assignee": MEMBER}, f"{once}/accept-task")
        reminder = str(uuid5(NAMESPACE_URL, f"annals:reminder:acme/{SAGA}"))
        self.evidence.held.append({"tenant": "acme", "id": reminder, "due": AT, "published_at": AT})
        told = {"user": MEMBER, "task_id": "c", "saga_id": SAGA, "kind": "handover_reminder"}
        self.notice(reminder, "notification.requested", MEMBER, told)
        answer = Answer(202, {"id": SAGA}, 0.0, 1.0)
        self.ledger.sagas.append(Told("acme", "task-handover", {}, SAGA, answer))

    def _release(self) -> None:
        self.begin(RELEASE, "capacity-release", ["release-previous", "release"])
        self.step(RELEASE, "release-previous", kind="skipped")
        self.step(RELEASE, "release")
        self.add(48, f"saga-{RELEASE}", "saga.completed", {"output": None}, RELEASE)

    def _recurrence(self) -> None:
        start = NOW - timedelta(minutes=3)
        for minute in (1, 2):
            self.recur((start + timedelta(minutes=minute)).isoformat())
        row = {"tenant": "acme", "id": "r", "last": (NOW - timedelta(seconds=30)).isoformat()}
        self.evidence.recurrences.append(row | {"next": NOW.isoformat()})
        answer = Answer(201, {"last": start.isoformat()}, 0.0, 1.0)
        asked = {"start": start.isoformat(), "command": {"data": {"title": "acme recurs"}}}
        self.ledger.recurrences.append(Told("acme", "recurrence", asked, "r", answer))

    def recur(self, moment: str, title: str = "acme recurs") -> None:
        """Add an occurrence of the recurrence."""
        data: dict[str, Any] = {"description": None, "due": None, "priority": "normal", "tags": []}
        data |= {"title": title, "assignee": None}
        number = sum(name.startswith("task-r") for _, name in self.evidence.streams) + 1
        self.add(0, f"task-r{number}", "task.created", data, f"recurrence:r:{moment}")

    def settle(self) -> None:
        """Chain, publish and project everything, as the services would."""
        evidence = self.evidence
        evidence.messages, evidence.index = [], []
        evidence.read_models = {name: [] for name in evidence.read_models}
        for (tenant, name), events in evidence.streams.items():
            before = ""
            for event in events.values():
                before = event["hash"] = _chained(event, before)
            state = state_of(name.partition("-")[0], events.values())
            if "reserved" in state:
                state["reserved"] = dict.fromkeys(map(str, range(state["reserved"])))
            if "steps" in state:
                state["steps"] = {step: {"status": status} for step, status in state["steps"].items()}
            head = {"version": max(events), "state": state, "hash": before}
            evidence.heads[tenant, name] = copy.deepcopy(head)
        models = {"task": "tasks", "member": "members", "saga": "sagas"}
        for (tenant, name), events in evidence.streams.items():
            row = row_of(events.values())
            if row is not None:
                evidence.read_models[models[name.partition("-")[0]]].append(copy.deepcopy(row))
            for event in events.values():
                topic = "saga-events" if name.startswith("saga-") else "domain-events"
                evidence.messages.append(
                    {"topic": topic, "id": event["event_id"], "data": copy.deepcopy(event)}
                )
                entry = {"tenant": tenant, "stream": name, "time": event["timestamp"]}
                evidence.index.append(event | entry)

    def kinds(self) -> set[str]:
        """Return the kinds of all violations."""
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


def _answer_passed_over(made: Made) -> None:
    waits = {"step": "answer", "events": ["accept", "decline"], "deadline": AT}
    made.add(48, f"saga-{SAGA}", "saga.waiting", waits, SAGA)
    made.add(48, f"saga-{SAGA}", "saga.event_raised", {"event": "decline", "number": 1}, SAGA)
    made.add(48, f"saga-{SAGA}", "saga.resumed", {"step": "answer", "event": None, "refused": False}, SAGA)


def _step_says_what_another_did(made: Made) -> None:
    registered = _event(made, f"member-{MEMBER}", 1)
    other = {"version": 1, "position": f"{registered['lane']}-{registered['seq']}"}
    made.reserving()["result"] |= other


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


def _reminded_another(made: Made) -> None:
    made.remind("acme-eve", DUE)


def _reminded_who_had_it_before(made: Made) -> None:
    made.assign("task-a", "acme-eve")
    made.remind("acme-eve", DUE)


def _who_has_it_now_not_reminded(made: Made) -> None:
    made.assign("task-a", "acme-eve")


def _reminded_of_what_nobody_has(made: Made) -> None:
    made.command("task.unassign", "task.unassigned", "task-a", {}, assignee="acme-ada", frees=[])


def _reminded_too_early(before: str) -> Callable[[Made], None]:
    """A reminder that came an hour early."""

    def tamper(made: Made) -> None:
        due = NOW + timedelta(hours={"24h": 25, "1h": 2, "due": 1}[before])
        made.command("task.set_due_date", "task.due_date_set", "task-a", {"due": due.isoformat()})
        for rows in (made.evidence.deliveries, made.evidence.inbox):
            rows[:] = [row for row in rows if row["kind"] != "reminder.due"]
        made.remind("acme-ada", due, before, NOW)

    return tamper


def _reminder_of_another_title(made: Made) -> None:
    for row in (made.evidence.deliveries[0], made.evidence.inbox[0]):
        row["data"]["title"] = "acme other"


def _held_too_briefly(made: Made) -> None:
    due = (NOW + timedelta(hours=5)).isoformat()
    says = {"user": "acme-ada", "kind": "soak"}
    data = {"data": says, "delay_until": due}
    made.ledger.notices.append(Told("acme", "events", data, "held", Answer(202, {}, 0.0, 1.0)))
    made.notice("held", "notification.requested", "acme-ada", says)


def _reminded_before_half_of_the_time(made: Made) -> None:
    row = next(row for row in made.evidence.deliveries if row["data"].get("kind") == "handover_reminder")
    row["created_at"] = (datetime.fromisoformat(AT) + timedelta(seconds=3)).isoformat()


def _notice(of: str, **changes: Any) -> Callable[[Made], None]:
    def tamper(made: Made) -> None:
        for rows in (made.evidence.deliveries, made.evidence.inbox):
            next(row for row in rows if row["kind"] == of).update(changes)

    return tamper


def _other_in_the_inbox(made: Made) -> None:
    made.evidence.inbox[-1]["data"]["task_id"] = "x"


def _recurs(moment: timedelta, zone: str = "+00:00", title: str = "acme recurs") -> Callable[[Made], None]:
    """An occurrence `moment` after the start, written with this offset."""
    text = (NOW - timedelta(minutes=3) + moment).isoformat().replace("+00:00", zone)
    return lambda made: made.recur(text, title)


def _recurs_otherwise(made: Made) -> None:
    _event(made, "task-r1", 1)["data"]["title"] = "acme other"


def _of_no_saga(made: Made) -> None:
    data = {"assignee": "acme-eve", "previous": None}
    event = made.add(0, "task-a", "task.assigned", data, "saga:nobody/assign-task")
    made.notice(event["event_id"], "task.assigned", "acme-eve", data | {"stream": "task-a"})


def _of_no_step(made: Made) -> None:
    made.add(0, "task-c", "task.accepted", {"assignee": MEMBER}, f"saga:{SAGA}/no-such-step")


def _again(made: Made) -> None:
    """Two events by one command, in one commit."""
    event = copy.deepcopy(_event(made, "task-c", 3)) | {"version": 4, "event_id": "task-c@4"}
    made.evidence.streams["acme", "task-c"][4] = event
    made.evidence.lanes[0][event["seq"]]["last"] = 4


def _not_taken_back(made: Made) -> None:
    made.hand_over("hand-2", "a", "m-9")
    made.step("hand-2", "reserve-capacity", kind="compensated")
    made.step("hand-2", "assign-task", kind="compensated")
    made.add(48, "saga-hand-2", "saga.compensating", {"reason": "declined"}, "hand-2")
    made.add(48, "saga-hand-2", "saga.compensated", {"reason": "declined"}, "hand-2")


def _completed_with(*steps: tuple[str, str]) -> Callable[[Made], None]:
    """A saga of two steps that completed with only these recorded."""

    def tamper(made: Made) -> None:
        made.begin("short", "capacity-release", ["previous", "release"])
        for step, kind in steps:
            made.step("short", step, kind=kind)
        made.add(48, "saga-short", "saga.completed", {"output": None}, "short")

    return tamper


def _saga_says(kind: str, **data: Any) -> Callable[[Made], None]:
    return lambda made: made.add(48, f"saga-{SAGA}", kind, data, SAGA) and None


def _begun_again(made: Made) -> None:
    made.add(48, f"saga-{SAGA}", "saga.started", _event(made, f"saga-{SAGA}", 1)["data"], SAGA)


def _offboarding(tasks: int, children: int) -> Callable[[Made], None]:
    """An off-boarding that found one task but reports `tasks` and handed over `children`."""

    def tamper(made: Made) -> None:
        made.begin("off", "member-offboarding", ["find-open-tasks", "hand-over", "find-rest"])
        for step, result in (("find-open-tasks", ["b"]), ("hand-over", {}), ("find-rest", [])):
            made.step("off", step, result=result)
        output = {"tasks": tasks, "handed_over": tasks, "not_handed_over": [], "still_assigned": []}
        made.add(48, "saga-off", "saga.completed", {"output": output}, "off")
        for place in range(children):
            child = str(uuid5(NAMESPACE_URL, f"annals:saga:off/hand-over/{place}"))
            once = made.hand_over(child, "b", "m-9", parent="off")
            made.accept(child)
            for step in ("reserve-capacity", "assign-task", "accept-task"):
                made.add(0, "task-b", "task.accepted", {"assignee": "m-9"}, f"{once}/{step}")

    return tamper


def _set_otherwise(**stored: Any) -> Callable[[Made], None]:
    """A command that stored something else than was sent."""
    kind = "task.due_date_set" if "due" in stored else "task.updated"
    sent: dict[str, Any] = {"id": "c", "tags": ["x"], "description": "d"}
    if "due" in stored:
        sent = {"id": "c", "due": (NOW + timedelta(days=9)).isoformat()}

    def tamper(made: Made) -> None:
        of = "task.set_due_date" if "due" in stored else "task.update"
        event = made.command(of, kind, "task-c", sent)
        event["data"] = stored if "due" in stored else {"changes": stored}

    return tamper


def _head_says(**changes: Any) -> Callable[[Made], None]:
    return lambda made: made.evidence.heads["acme", "task-b"].update(changes)


def _other_hash(made: Made) -> None:
    for event in made.evidence.streams["acme", "task-b"].values():
        event["hash"] = made.evidence.heads["acme", "task-b"]["hash"] = "nonsense"


def _on_the_other_topic(made: Made) -> None:
    made.evidence.messages[0]["topic"] = "saga-events"


def _published_again_otherwise(made: Made) -> None:
    again = copy.deepcopy(made.evidence.messages[0])
    again["data"]["data"]["title"] = "acme other"
    made.evidence.messages.append(again)


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
    (_answer_passed_over, "lost"),
    (_saga_never_began, "half saga"),
    (_workflow, "half saga"),
    (_orphan, "half saga"),
    (_step_says_what_another_did, "half saga"),
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
    (_who_has_it_now_not_reminded, "reminder lost"),
    (_begun_again, "doubled"),
    (_saga_says("saga.compensated", reason="x"), "doubled"),
    (_head_says(state={"nonsense": 1}), "wrong head"),
    (_head_says(state=None), "wrong head"),
    (_head_says(hash="nonsense"), "wrong head"),
    (_other_hash, "broken chain"),
    (_on_the_other_topic, "published differently"),
    (_published_again_otherwise, "published differently"),
    (_seen_by_a_caller, "answered differently"),
]
ALONE: list[tuple[Callable[[Made], None], str]] = [
    (_again, "doubled"),
    (_set_otherwise(tags=["x"], description="other"), "answered wrongly"),
    (_set_otherwise(tags=["x"]), "answered wrongly"),
    (_set_otherwise(due=(NOW + timedelta(days=300)).isoformat()), "answered wrongly"),
    (_of_no_saga, "unasked"),
    (_of_no_step, "unasked"),
    (_completed_with(("release", "completed")), "half saga"),
    (_completed_with(("previous", "skipped"), ("release", "started")), "half saga"),
    (
        _completed_with(("previous", "skipped"), ("release", "completed"), ("release", "compensated")),
        "half saga",
    ),
    (_not_taken_back, "half saga"),
    (_saga_says("saga.completed", output=None), "doubled"),
    (_offboarding(tasks=1, children=0), "half saga"),
    (_offboarding(tasks=0, children=1), "half saga"),
    (_reminded_another, "reminder wrong"),
    (_reminded_who_had_it_before, "reminder wrong"),
    (_reminded_of_what_nobody_has, "reminder wrong"),
    *((_reminded_too_early(before), "reminder wrong") for before in ("24h", "1h", "due")),
    (_reminder_of_another_title, "reminder wrong"),
    (_held_too_briefly, "notice wrong"),
    (_reminded_before_half_of_the_time, "notice wrong"),
    (_notice("task.assigned", kind="task.completed"), "notice wrong"),
    (_notice("task.assigned", data={"assignee": "acme-bob", "stream": "task-x"}), "notice wrong"),
    (_notice("notification.requested", data={"user": MEMBER}), "notice wrong"),
    (_other_in_the_inbox, "notice wrong"),
    (_recurs(timedelta(minutes=1, seconds=30)), "recurrence wrong"),
    (_recurs(timedelta(minutes=1), "Z"), "recurrence wrong"),
    (_recurs(timedelta(minutes=9)), "recurrence wrong"),
    (_recurs_otherwise, "recurrence wrong"),
]
"""Errors that the rest of the suite follows, so that no other kind of violation shows."""


@pytest.mark.parametrize(("tamper", "kind"), TAMPERED)
def test_what_is_wrong_is_seen(tamper: Callable[[Made], None], kind: str) -> None:
    made = Made()
    tamper(made)
    assert kind in made.kinds()


@pytest.mark.parametrize(("tamper", "kind"), ALONE)
def test_what_is_wrong_is_seen_though_all_else_follows_it(tamper: Callable[[Made], None], kind: str) -> None:
    made = Made()
    tamper(made)
    made.settle()
    assert made.kinds() == {kind}


def test_an_offboarding_that_says_what_it_did_is_accepted() -> None:
    made = Made()
    _offboarding(tasks=1, children=1)(made)
    made.settle()
    assert violations(made.evidence, made.ledger, NOW) == []


@pytest.mark.parametrize(("kind", "field"), [("task.set_due_date", "due"), ("events", "delay_until")])
def test_what_was_set_to_come_soon_is_waited_for(kind: str, field: str) -> None:
    made = Made()
    assert proved_from(made.ledger, NOW) <= NOW
    for hours in (0, 25):
        coming = {field: (NOW + timedelta(hours=hours, seconds=25)).isoformat()}
        if kind == "events":
            made.ledger.notices.append(Told("acme", kind, coming, "later", Answer(202, {}, 0.0, 1.0)))
        else:
            made.command(kind, "task.due_date_set", "task-a", coming)
    assert timedelta(seconds=25) < proved_from(made.ledger, NOW) - NOW < timedelta(minutes=2)
