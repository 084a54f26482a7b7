"""What must hold of a suite that has come to rest, whatever was done to it. Pure.

Each check gives all that it finds wrong; none shares code with the services.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from soak.evidence import Evidence, Stream
from soak.folds import row_of
from soak.load import NAMELESS, TENANTS, Ledger, Told

_SAGA_ENDS = ("saga.completed", "saga.compensated")
# What of a saga may be recorded again, and what tells apart all else.
_AS_OFTEN_AS_ASKED = ("saga.suspended", "saga.continued", "saga.failed", "saga.terminated")
_ONCE = ("step", "attempt", "compensation", "number", "run")
_MODELS = {"task": "tasks", "member": "members", "saga": "sagas"}
_SLACK = timedelta(seconds=20)
"""What is due has been seen to so long after, at rest."""
_BEFORE = {"24h": timedelta(hours=24), "1h": timedelta(hours=1), "due": timedelta(0)}
_SAID = {
    "task.create": "task.created",
    "task.update": "task.updated",
    "task.assign": "task.assigned",
    "task.unassign": "task.unassigned",
    "task.complete": "task.completed",
    "task.reopen": "task.reopened",
    "task.delete": "task.deleted",
    "task.set_due_date": "task.due_date_set",
    "member.register": "member.registered",
    "member.set_capacity": "member.capacity_set",
    "member.leave": "member.left",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    kind: str
    text: str


def violations(evidence: Evidence, ledger: Ledger, now: datetime) -> list[Violation]:
    """All that is wrong."""
    found = [Violation(kind, text) for kind, text in ledger.wrong]
    for check in (commands, streams, topics, read_models, sagas, capacity, tenants, consumers):
        found += check(evidence, ledger)
    for timed in (reminders, recurrences, notices):
        found += timed(evidence, ledger, now)
    return found


def commands(evidence: Evidence, ledger: Ledger) -> Iterator[Violation]:
    """What was acknowledged is there once, as the answer says; what was refused is not there."""
    effects = _effects(evidence)
    for (tenant, key), commits in effects.items():
        if len(commits) > 1:
            yield Violation("doubled", f"{tenant} {key} took effect {len(commits)} times: {commits}")
    known = {(told.tenant, told.key) for told in ledger.commands}
    for (tenant, key), commits in effects.items():
        if (tenant, key) not in known and not key.startswith(("saga:", "recurrence:")):
            yield Violation("unasked", f"nobody sent {key}, by which {tenant} has {commits}")
    for told in ledger.commands:
        stored = effects.get((told.tenant, told.key), [])
        what = f"{told.kind} {told.key}"
        if not told.answer.done:
            # Refused at once; what had no answer before may have taken effect all the same.
            if stored and told.answer.tries == 1:
                text = f"{what} was answered {told.answer.status}, and is at {stored}"
                yield Violation("refused and done", text)
            continue
        if not stored:
            yield Violation("lost", f"{what} was acknowledged at {told.answer.body['position']}")
            continue
        yield from _as_answered(evidence, told, what)


def _effects(evidence: Evidence) -> dict[tuple[str, str], list[str]]:
    """Tenant and key of a command to the commits that it made."""
    commits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (tenant, name), events in evidence.streams.items():
        if not name.startswith("saga-"):
            for event in events.values():
                commits[tenant, event["causation_id"]].add(f"{event['lane']}-{event['seq']}")
    return {key: sorted(positions) for key, positions in commits.items()}


def _as_answered(evidence: Evidence, told: Told, what: str) -> Iterator[Violation]:
    body = told.answer.body
    event = evidence.streams.get((told.tenant, body["stream"]), {}).get(body["version"])
    if event is None or event["causation_id"] != told.key:
        text = f"{what} was answered {body}; there is {event and event['causation_id']}"
        yield Violation("answered wrongly", text)
        return
    given = {name: told.data[name] for name in ("title", "assignee", "capacity") if name in told.data}
    holds = event["data"].get("changes", event["data"])
    said = (f"{event['lane']}-{event['seq']}", event["aggregate_id"], event["event_type"])
    if said != (body["position"], body["id"], _SAID[told.kind]) or any(
        holds.get(name) != value for name, value in given.items()
    ):
        yield Violation(
            "answered wrongly", f"{what} with {given} was answered {body}; there is {said} {holds}"
        )
    outcome = evidence.outcomes.get((told.tenant, told.key), {})
    names = ("stream", "version", "position")
    if [outcome.get(name) for name in names] != [body[name] for name in names]:
        yield Violation("answered wrongly", f"{what} was answered {body}; its outcome is kept as {outcome}")


def streams(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Streams and lanes have no holes, and say the same."""
    stored: dict[tuple[Stream, int], str] = {}
    for stream, events in evidence.streams.items():
        if sorted(events) != list(range(1, len(events) + 1)):
            yield Violation("hole in a stream", f"{_name(stream)} has {sorted(events)}")
        head = evidence.heads.get(stream, {}).get("version")
        if head != max(events):
            yield Violation("wrong head", f"{_name(stream)} ends at {max(events)}; its head says {head}")
        for version, event in events.items():
            stored[stream, version] = f"{event['lane']}-{event['seq']}"
            named = f"{event['aggregate_type']}-{event['aggregate_id']}"
            if (event["tenant_id"], named, event["version"]) != (*stream, version):
                yield Violation("misplaced", f"{_name(stream)}@{version} holds {event['event_id']}")
    logged: dict[tuple[Stream, int], str] = {}
    for lane, commits in evidence.lanes.items():
        if sorted(commits) != list(range(1, len(commits) + 1)):
            missing = sorted(set(range(1, max(commits) + 1)) - commits.keys())
            yield Violation("hole in a lane", f"lane {lane} lacks {missing}")
        for seq, commit in commits.items():
            for version in range(commit["first"], commit["last"] + 1):
                logged[(commit["tenant"], commit["stream"]), version] = f"{lane}-{seq}"
    for place in stored.keys() | logged.keys():
        if stored.get(place) != logged.get(place):
            (stream, version), there = place, stored.get(place)
            text = f"{_name(stream)}@{version} is at {there}; the log has it at {logged.get(place)}"
            yield Violation("log differs", text)


def topics(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Every stored event was published as it is, each stream's in its order, and nothing else."""
    stored = {event["event_id"]: event for events in evidence.streams.values() for event in events.values()}
    came: dict[Stream, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for message in evidence.messages:
        event = stored.get(str(message.get("id")))
        if event is None:
            if "hostile" not in str(message):
                yield Violation("published, not stored", str(message)[:300])
        elif message["id"] not in seen:
            seen.add(message["id"])
            came[_stream(event)].append(event["version"])
            if message["data"] != event:
                yield Violation("published differently", f"{event['event_id']} is not what is stored")
    for stream, events in evidence.streams.items():
        lacking = sorted(set(events) - set(came[stream]))
        if lacking:
            yield Violation("unpublished", f"{_name(stream)} lacks {lacking} of {len(events)}")
        if came[stream] != sorted(came[stream]):
            yield Violation("reordered", f"{_name(stream)} was published as {came[stream]}")


def read_models(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Read models hold a fold of the store, and the index every event."""
    wanted: dict[str, dict[Stream, dict[str, Any]]] = {name: {} for name in _MODELS.values()}
    for (tenant, name), events in evidence.streams.items():
        kind, _, row_id = name.partition("-")
        row = row_of(events[version] for version in sorted(events)) if kind in _MODELS else None
        if row is not None:
            wanted[_MODELS[kind]][tenant, row_id] = row
    for model, rows in wanted.items():
        there = {(row["tenant"], row["id"]): row for row in evidence.read_models[model]}
        yield from _compared(model, rows, there)
    columns = {"tenant": "tenant_id", "time": "timestamp"}
    columns |= {name: name for name in ("version", "lane", "seq", "event_id", "event_type", "correlation_id")}
    columns |= {name: name for name in ("causation_id", "user_id", "session_id", "source", "client")}
    yield from _compared(
        "event_index",
        {
            (tenant, f"{name}@{version}"): {column: event[field] for column, field in columns.items()}
            for (tenant, name), events in evidence.streams.items()
            for version, event in events.items()
        },
        {(row["tenant"], f"{row['stream']}@{row['version']}"): row for row in evidence.index},
    )


def _compared(
    model: str, wanted: Mapping[Stream, Mapping[str, Any]], there: Mapping[Stream, Mapping[str, Any]]
) -> Iterator[Violation]:
    for key in wanted.keys() - there.keys():
        yield Violation("stale read model", f"{model} lacks {_name(key)}")
    for key in there.keys() - wanted.keys():
        yield Violation("stale read model", f"{model} has {_name(key)}, which is not in the store")
    for key in wanted.keys() & there.keys():
        differing = {
            column: (there[key].get(column), value)
            for column, value in wanted[key].items()
            if _plain(there[key].get(column)) != _plain(value)
        }
        if differing:
            yield Violation("stale read model", f"{model} {_name(key)}: there, and wanted: {differing}")


def sagas(evidence: Evidence, ledger: Ledger) -> Iterator[Violation]:
    """Every saga that was started or had to start has ended, and did each thing once."""
    effects = _effects(evidence)
    for stream in _started(evidence, ledger) - evidence.streams.keys():
        yield Violation("half saga", f"{_name(stream)} was to start, and has no stream")
    for told in ledger.sagas:
        at_once = not told.answer.done and told.answer.tries == 1
        if at_once and (told.tenant, f"saga-{told.key}") in evidence.streams:
            yield Violation("refused and done", f"saga {told.key} was answered {told.answer.status}")
    instances: dict[str, str] = {}
    replaced: set[str] = set()
    for (tenant, name), events in evidence.streams.items():
        if not name.startswith("saga-"):
            continue
        saga, ordered = f"{tenant}/{name}", [events[version] for version in sorted(events)]
        if ordered[-1]["event_type"] not in _SAGA_ENDS:
            yield Violation(
                "half saga", f"{saga} stands at {ordered[-1]['event_type']}: {ordered[-1]['data']}"
            )
        recorded = Counter(
            (event["event_type"], *(event["data"].get(name) for name in _ONCE))
            for event in ordered
            if event["event_type"] not in _AS_OFTEN_AS_ASKED
        )
        for what, count in recorded.items():
            if count > 1:
                yield Violation("doubled", f"{saga} recorded {what} {count} times")
        runs = [event["data"]["run"] for event in ordered if event["event_type"] == "saga.restarted"]
        last = max(runs, default=0)
        instances[_instance(tenant, name.removeprefix("saga-"), last)] = saga
        replaced |= {_instance(tenant, name.removeprefix("saga-"), run) for run in {0, *runs} - {last}}
        yield from _handed_over(effects, tenant, name.removeprefix("saga-"), ordered)
    for instance, saga in instances.items():
        state = evidence.workflows.get(instance)
        if state != "completed":
            yield Violation("half saga", f"the workflow of {saga} stands at {state}")
    for instance in replaced & evidence.workflows.keys():
        if evidence.workflows[instance] not in ("completed", "terminated"):
            yield Violation("half saga", f"workflow {instance} was replaced, and still runs")
    for instance in evidence.workflows.keys() - instances.keys() - replaced:
        yield Violation("half saga", f"workflow {instance} belongs to no saga")


def _started(evidence: Evidence, ledger: Ledger) -> set[Stream]:
    """The streams of the sagas that callers were told of, and of those that events start."""
    started = {(told.tenant, f"saga-{told.answer.body['id']}") for told in ledger.sagas if told.answer.done}
    for (tenant, _), events in evidence.streams.items():
        for event in events.values():
            if event["data"].get("frees"):
                started.add((tenant, f"saga-capacity-release-{event['event_id']}"))
            if event["event_type"] == "member.left":
                started.add((tenant, f"saga-member-offboarding-{event['event_id']}"))
    return started


def _instance(tenant: str, saga_id: str, run: int) -> str:
    return f"{saga_id[:30]}-{hashlib.sha256(f'{tenant}/{saga_id}/{run}'.encode()).hexdigest()[:32]}"


def _handed_over(
    effects: Mapping[tuple[str, str], list[str]], tenant: str, saga_id: str, events: list[dict[str, Any]]
) -> Iterator[Violation]:
    """A hand-over that completed did what it says; `capacity` sees to those that did not."""
    if events[0]["event_type"] != "saga.started" or events[0]["data"]["saga_type"] != "task-handover":
        return
    if events[-1]["event_type"] == "saga.completed":
        for step in ("reserve-capacity", "assign-task", "accept-task"):
            if (tenant, f"saga:{saga_id}/{step}") not in effects:
                yield Violation("half saga", f"{tenant}/{saga_id} completed, and its {step} did nothing")


def capacity(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """The places that are taken with members are those of their open tasks, and never too many."""
    open_tasks: dict[Stream, set[str]] = defaultdict(set)
    for (tenant, name), events in evidence.streams.items():
        if name.startswith("task-"):
            row = row_of(events[version] for version in sorted(events))
            if row is not None and row["status"] == "todo" and row["assignee"]:
                open_tasks[tenant, row["assignee"]].add(row["id"])
    for (tenant, name), events in evidence.streams.items():
        if not name.startswith("member-"):
            continue
        taken: set[str] = set()
        limit = 0
        for version in sorted(events):
            kind, data = events[version]["event_type"], events[version]["data"]
            limit = data.get("capacity", limit)
            if kind == "member.reserved":
                if data["task_id"] in taken or len(taken) >= limit:
                    text = f"{tenant}/{name}@{version} takes {data['task_id']} over {len(taken)} of {limit}"
                    yield Violation("capacity", text)
                taken.add(data["task_id"])
            elif kind == "member.released":
                if data["task_id"] not in taken:
                    yield Violation("capacity", f"{tenant}/{name}@{version} releases what was not taken")
                taken.discard(data["task_id"])
            else:
                continue
            if data["reserved"] != len(taken):
                yield Violation(
                    "capacity", f"{tenant}/{name}@{version} counts {data['reserved']}, not {len(taken)}"
                )
        held = open_tasks[tenant, name.removeprefix("member-")]
        if taken != held:
            text = f"{tenant}/{name} has places for {sorted(taken - held)} that it does not hold, none for"
            yield Violation("half saga", f"{text} {sorted(held - taken)}")


def tenants(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Keys, titles and users name their tenant: none turns up with another."""
    for (tenant, name), events in evidence.streams.items():
        for event in events.values():
            key = str(event["causation_id"])
            title = str(event["data"].get("title", f"{tenant} "))
            foreign = key.partition(":")[0] in set(TENANTS) - {tenant}
            if foreign or not title.startswith(f"{tenant} "):
                yield Violation("other tenant", f"{tenant}/{name}@{event['version']}: {key} {title!r}")
    for row in (*evidence.deliveries, *evidence.inbox):
        if row["user_id"].startswith(tuple(f"{one}-" for one in TENANTS if one != row["tenant"])):
            yield Violation("other tenant", f"{row['user_id']} is told of {row['id']} of {row['tenant']}")


def consumers(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Nobody is stuck: nothing is parked but what nobody can read, and the broker waits for nobody."""
    for letter in evidence.letters:
        if letter["kind"] == "event" or ("hostile" not in letter["raw"] and letter["raw"] not in NAMELESS):
            text = f"{letter['consumer']}: {letter['stream']}@{letter['version']} {letter['reason']}"
            yield Violation("parked", f"{text} {letter['raw'][:200]}")
    for name, count in evidence.waiting.items():
        if count:
            yield Violation("stuck", f"{name} has {count} messages not done with")


# --- what comes at a time ---


@dataclass(slots=True)
class _Due:
    """A due date that a task had, from when to when by its callers' clocks."""

    due: datetime
    set_by: float
    moved_from: float | None = None
    moved_by: float | None = None


def reminders(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Each reminder that was to come came once; none came of what was moved or done before."""
    fired: Counter[tuple[str, str, str, datetime, str]] = Counter()
    for row in evidence.deliveries:
        if row["kind"] == "reminder.due":
            data = row["data"]
            due = datetime.fromisoformat(data["due"]).astimezone(UTC)
            fired[row["tenant"], data["task_id"], data["before"], due, row["user_id"]] += 1
    for place, count in fired.items():
        if count > 1:
            yield Violation("reminder doubled", f"{place} came {count} times")
    came = {place[:4] for place in fired}
    wanted: set[tuple[str, str, str, datetime]] = set()
    allowed: set[tuple[str, str, str, datetime]] = set()
    for (tenant, task), spans in _due_dates(ledger).items():
        for span in spans:
            for kind, before in _BEFORE.items():
                place = (tenant, task, kind, span.due)
                fires = (span.due - before).timestamp()
                if span.moved_by is None or span.moved_by > fires:
                    allowed.add(place)
                    stays = span.moved_from is None
                    if stays and span.set_by < fires < (now - _SLACK).timestamp():
                        wanted.add(place)
    for place in sorted(wanted - came):
        yield Violation("reminder lost", f"{place} never came")
    for place in sorted(came - allowed):
        yield Violation("reminder wrong", f"{place} came of what was moved or done before")
    for row in evidence.reminders:
        if row["status"] == "scheduled" and _moment(row["fires"]) < now - _SLACK:
            yield Violation("reminder lost", f"{row['tenant']} {row['id']} still waits for {row['fires']}")


def _due_dates(ledger: Ledger) -> dict[tuple[str, str], list[_Due]]:
    """The due dates of each task that has an assignee, in the order of its versions."""
    changes: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for told in ledger.commands:
        if told.answer.done and told.kind.startswith("task."):
            changes[told.tenant, told.answer.body["id"]].append(told)
    found: dict[tuple[str, str], list[_Due]] = {}
    for task, tolds in changes.items():
        tolds.sort(key=lambda told: told.answer.body["version"])
        if tolds[0].kind != "task.create" or not (tolds[0].data.get("due") and tolds[0].data.get("assignee")):
            continue
        spans: list[_Due] = []
        due: str | None = None
        for told in tolds:
            if told.kind not in (
                *("task.create", "task.set_due_date", "task.complete", "task.reopen", "task.delete"),
            ):
                continue
            if spans and spans[-1].moved_by is None:
                spans[-1].moved_from, spans[-1].moved_by = told.answer.sent, told.answer.told
            if told.kind in ("task.create", "task.set_due_date"):
                due = told.data["due"]
            if due and told.kind in ("task.create", "task.set_due_date", "task.reopen"):
                spans.append(_Due(datetime.fromisoformat(due).astimezone(UTC), told.answer.told))
        found[task] = spans
    return found


def recurrences(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Each occurrence of what recurs every minute took effect, once."""
    effects = _effects(evidence)
    rows = {(row["tenant"], row["id"]): row for row in evidence.recurrences}
    for told in ledger.recurrences:
        row = rows.get((told.tenant, told.key))
        if row is None:
            yield Violation("recurrence lost", f"{told.tenant} {told.key} recurs no more")
            continue
        if _moment(row["next"]) < now - _SLACK:
            yield Violation("recurrence lost", f"{told.tenant} {told.key} still waits for {row['next']}")
        first, last = _moment(told.answer.body["last"]), _moment(row["last"])
        one = datetime.fromisoformat(told.data["start"]).astimezone(UTC)
        while one <= last:
            if one > first and (told.tenant, f"recurrence:{told.key}:{one.isoformat()}") not in effects:
                yield Violation("recurrence lost", f"{told.tenant} {told.key} of {one}")
            one += timedelta(minutes=1)


def notices(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Whoever is to be told of something is, once, and nobody of anything else."""
    told = Counter((row["tenant"], row["event_id"], row["user_id"]) for row in evidence.deliveries)
    wanted, allowed = _to_be_told(evidence, ledger, now)
    for place in sorted(wanted - told.keys()):
        yield Violation("notice lost", f"{place} is in no delivery")
    for place, count in told.items():
        if count > 1:
            yield Violation("notice doubled", f"{place} is delivered {count} times")
        if place not in wanted | allowed and not place[1].startswith("reminder:"):
            yield Violation("notice out of nowhere", str(place))
    shown = Counter((row["tenant"], row["user_id"], row["id"]) for row in evidence.inbox)
    for row in evidence.deliveries:
        if row["status"] != "sent" or shown[row["tenant"], row["user_id"], row["id"]] != 1:
            yield Violation(
                "notice lost", f"delivery {row['id']} is {row['status']} and not in the inbox once"
            )
    for row in evidence.held:
        if row["published_at"] is None and _moment(row["due"]) < now - _SLACK:
            yield Violation("notice lost", f"{row['tenant']} {row['id']} still waits for {row['due']}")


_Notice = tuple[str, str, str]


def _to_be_told(evidence: Evidence, ledger: Ledger, now: datetime) -> tuple[set[_Notice], set[_Notice]]:
    """Tenant, event and user of what must be delivered, and of what may be."""
    wanted: set[_Notice] = set()
    allowed: set[_Notice] = set()
    for notice in ledger.notices:
        due = notice.data.get("delay_until")
        passed = due is None or _moment(due) < now - _SLACK
        place = (notice.tenant, notice.key, notice.data["data"]["user"])
        (wanted if passed and notice.answer.done else allowed).add(place)
    for (tenant, name), events in evidence.streams.items():
        for event in events.values():
            if event["event_type"] == "task.assigned":
                users = {event["data"][field] for field in ("assignee", "previous")} - {None}
                since = _moment(event["timestamp"]) >= evidence.since
                (wanted if since else allowed).update((tenant, event["event_id"], user) for user in users)
        began = events[min(events)]
        if began["event_type"] != "saga.started" or began["data"]["saga_type"] != "task-handover":
            continue
        user, saga_id = began["data"]["input"]["assignee"], name.removeprefix("saga-")
        for event in events.values():
            step, done = event["data"].get("step"), event["event_type"]
            if step == "notify" and done in ("saga.step_completed", "saga.step_compensated"):
                undo = "" if done == "saga.step_completed" else "/undo"
                # By a clock that was set back, all of it was before there was anybody to tell it.
                told = [one["timestamp"] for one in events.values() if one["data"].get("step") == step]
                since = min(map(_moment, told)) >= evidence.since
                place = (tenant, _published_id(tenant, f"saga:{saga_id}/notify{undo}"), user)
                (wanted if since else allowed).add(place)
        for undo in ("", "/undo"):
            allowed.add((tenant, _published_id(tenant, f"saga:{saga_id}/notify{undo}"), user))
        # Half-way to the deadline they are reminded; once they have answered that is called off.
        allowed.add((tenant, str(uuid5(NAMESPACE_URL, f"annals:reminder:{tenant}/{saga_id}")), user))
    return wanted, allowed


def _published_id(tenant: str, once: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"annals:{tenant}/{once}"))


# --- how things are named and compared ---


def _name(stream: Stream) -> str:
    return "/".join(stream)


def _stream(event: Mapping[str, Any]) -> Stream:
    return event["tenant_id"], f"{event['aggregate_type']}-{event['aggregate_id']}"


_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@lru_cache(maxsize=100_000)
def _text(text: str) -> object:
    return _moment(text) if _DATE.match(text) else text


def _plain(value: Any) -> Any:
    """A value such that two ways to write one moment are equal."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
