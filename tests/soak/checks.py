"""What must hold of a suite that has come to rest, whatever was done to it. Pure.

Each check yields all violations that it finds; none shares code with the services.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from soak.evidence import Evidence, Stream
from soak.folds import held_in, row_of, state_of
from soak.load import NAMELESS, TENANTS, Ledger, Told

_SAGA_ENDS = ("saga.completed", "saga.compensated")
# The events of a saga that may be recorded repeatedly, and the fields that tell all its other events apart.
_AS_OFTEN_AS_ASKED = ("saga.suspended", "saga.continued", "saga.failed", "saga.terminated")
_ONCE = ("step", "attempt", "compensation", "number", "run")
_UNDOABLE = frozenset({"reserve-capacity", "assign-task", "schedule-reminder", "notify"})
"""The steps of sagas that have a compensation."""
_MODELS = {"task": "tasks", "member": "members", "saga": "sagas"}
_SLACK = timedelta(seconds=20)
"""At rest, everything due is handled within this time after its due moment."""
_SOON = timedelta(minutes=1)
"""The load sets things to come either within this time or hours later; the checks wait for the former."""
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
_PERSONAL = ("member.register", "name")
_Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    kind: str
    text: str


def violations(evidence: Evidence, ledger: Ledger, now: datetime) -> list[Violation]:
    """Return everything that is wrong."""
    found = [Violation(kind, text) for kind, text in ledger.wrong]
    for check in (commands, streams, topics, read_models, sagas, capacity, tenants, consumers):
        found += check(evidence, ledger)
    for timed in (reminders, recurrences, notices):
        found += timed(evidence, ledger, now)
    return found


def commands(evidence: Evidence, ledger: Ledger) -> Iterator[Violation]:
    """Check that an acknowledged command took effect once, as answered, and a refused one not at all."""
    effects = _effects(evidence)
    for (tenant, key), events in effects.items():
        if len(events) > 1:
            yield Violation("doubled", f"{tenant} {key} took effect {len(events)} times: {_places(events)}")
    known = {(told.tenant, told.key) for told in ledger.commands}
    for (tenant, key), events in effects.items():
        if _operation(tenant, events[0]) in ledger.operations:
            continue
        if (tenant, key) not in known and not key.startswith(("saga:", "recurrence:")):
            yield Violation("unasked", f"nobody sent {key}, by which {tenant} has {_places(events)}")
    for told in ledger.commands:
        stored = effects.get((told.tenant, told.key), [])
        what = f"{told.kind} {told.key}"
        if not told.answer.done:
            # Refused at its first try. A command with an unanswered earlier try may have taken effect all the
            # same.
            if stored and told.answer.tries == 1:
                text = f"{what} was answered {told.answer.status}, and is at {_places(stored)}"
                yield Violation("refused and done", text)
            continue
        if not stored:
            yield Violation("lost", f"{what} was acknowledged at {told.answer.body['position']}")
            continue
        yield from _as_answered(evidence, told, what)


def _effects(evidence: Evidence) -> dict[tuple[str, str], list[_Event]]:
    """Map the tenant and key of each command to the events that it made."""
    effects: dict[tuple[str, str], list[_Event]] = defaultdict(list)
    for (tenant, name), events in evidence.streams.items():
        if not name.startswith("saga-"):
            for event in events.values():
                effects[tenant, event["causation_id"]].append(event)
    return dict(effects)


def _places(events: list[_Event]) -> list[str]:
    return [f"{_name(_stream(event))}@{event['version']}" for event in events]


def _as_answered(evidence: Evidence, told: Told, what: str) -> Iterator[Violation]:
    body = told.answer.body
    event = evidence.streams.get((told.tenant, body["stream"]), {}).get(body["version"])
    if event is None or event["causation_id"] != told.key:
        text = f"{what} was answered {body}; there is {event and event['causation_id']}"
        yield Violation("answered wrongly", text)
        return
    # A member's name is personal data; its event holds a token instead.
    given = {name: value for name, value in told.data.items() if (told.kind, name) != _PERSONAL}
    holds = event["data"].get("changes", event["data"]) | {"id": event["aggregate_id"]}
    said = (f"{event['lane']}-{event['seq']}", event["aggregate_id"], event["event_type"])
    if said != (body["position"], body["id"], _SAID[told.kind]) or not _within(given, holds):
        yield Violation(
            "answered wrongly", f"{what} with {given} was answered {body}; there is {said} {holds}"
        )
    outcome = evidence.outcomes.get((told.tenant, told.key), {})
    names = ("stream", "version", "position")
    if [outcome.get(name) for name in names] != [body[name] for name in names]:
        yield Violation("answered wrongly", f"{what} was answered {body}; its outcome is kept as {outcome}")


def streams(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Check that streams and lanes have no holes and agree, and that heads are the folds of their streams."""
    stored: dict[tuple[Stream, int], str] = {}
    for stream, events in evidence.streams.items():
        if sorted(events) != list(range(1, len(events) + 1)):
            yield Violation("hole in a stream", f"{_name(stream)} has {sorted(events)}")
        yield from _headed(evidence, stream, [events[version] for version in sorted(events)])
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


def _headed(evidence: Evidence, stream: Stream, events: list[_Event]) -> Iterator[Violation]:
    head, before = evidence.heads.get(stream, {}), ""
    for event in events:
        if event["hash"] != _chained(event, before):
            yield Violation("broken chain", f"{_name(stream)}@{event['version']}")
        before = event["hash"]
    if (head.get("version"), head.get("hash")) != (events[-1]["version"], before):
        yield Violation("wrong head", f"{_name(stream)} ends at {events[-1]['version']}, {before}; {head}")
    kind, state = stream[1].partition("-")[0], head.get("state") or {}
    if kind in _MODELS:
        wanted, there = state_of(kind, events), held_in(kind, state)
        if not _within(wanted, there):
            yield Violation("wrong head", f"{_name(stream)} comes to {wanted}; its head has {there}")


def _chained(event: _Event, before: str) -> str:
    """Return the SHA-256 hash of the previous event's hash and this event's fields, sorted by name."""
    said = {name: value for name, value in event.items() if name != "hash"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


def topics(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Check that exactly the stored events were published, unchanged, and each stream's in order."""
    stored = {event["event_id"]: event for events in evidence.streams.values() for event in events.values()}
    came: dict[Stream, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for message in evidence.messages:
        event = stored.get(str(message.get("id")))
        if event is None:
            if "hostile" not in str(message):
                yield Violation("published, not stored", str(message)[:300])
            continue
        if message["id"] not in seen:
            seen.add(message["id"])
            came[_stream(event)].append(event["version"])
        topic = "saga-events" if event["aggregate_type"] == "saga" else "domain-events"
        if (message["topic"], message["data"]) != (topic, event):
            text = f"{event['event_id']} on {message['topic']} is not what is stored"
            yield Violation("published differently", text)
    for stream, events in evidence.streams.items():
        lacking = sorted(set(events) - set(came[stream]))
        if lacking:
            yield Violation("unpublished", f"{_name(stream)} lacks {lacking} of {len(events)}")
        if came[stream] != sorted(came[stream]):
            yield Violation("reordered", f"{_name(stream)} was published as {came[stream]}")


def read_models(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Check that read models equal a fold of the store and that the event index holds every event."""
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
    """Check that every saga that was or had to be started has ended, and did each thing once."""
    effects = _effects(evidence)
    for (tenant, key), done in effects.items():
        if key.startswith("saga:"):
            saga_id, step = key.removeprefix("saga:").removesuffix("/undo").rsplit("/", 1)
            events = evidence.streams.get((tenant, f"saga-{saga_id}"), {})
            if all(event["data"].get("step") != step for event in events.values()):
                yield Violation("unasked", f"no saga of {tenant} tried {key}, which did {_places(done)}")
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
        yield from _gone_through(saga, ordered)
        runs = [event["data"]["run"] for event in ordered if event["event_type"] == "saga.restarted"]
        last = max(runs, default=0)
        instances[_instance(tenant, name.removeprefix("saga-"), last)] = saga
        replaced |= {_instance(tenant, name.removeprefix("saga-"), run) for run in {0, *runs} - {last}}
        yield from _as_recorded(evidence, tenant, name.removeprefix("saga-"), ordered)
        yield from _handed_over(effects, tenant, name.removeprefix("saga-"), ordered)
        yield from _offboarded(evidence, tenant, name.removeprefix("saga-"), ordered)
    for instance, saga in instances.items():
        state = evidence.workflows.get(instance)
        if state != "completed":
            yield Violation("half saga", f"the workflow of {saga} stands at {state}")
    for instance in replaced & evidence.workflows.keys():
        if evidence.workflows[instance] not in ("completed", "terminated"):
            yield Violation("half saga", f"workflow {instance} was replaced, and still runs")
    for instance in evidence.workflows.keys() - instances.keys() - replaced:
        yield Violation("half saga", f"workflow {instance} belongs to no saga")


def _gone_through(saga: str, events: list[_Event]) -> Iterator[Violation]:
    """Check that a saga ended, recorded each thing once, and did or undid every step that its end implies."""
    end = events[-1]["event_type"]
    if end not in _SAGA_ENDS:
        yield Violation("half saga", f"{saga} stands at {end}: {events[-1]['data']}")
    recorded = Counter(
        (event["event_type"], *(event["data"].get(name) for name in _ONCE))
        for event in events
        if event["event_type"] not in _AS_OFTEN_AS_ASKED
    )
    for what, count in recorded.items():
        if count > 1:
            yield Violation("doubled", f"{saga} recorded {what} {count} times")
    if sum(event["event_type"] in _SAGA_ENDS for event in events) > 1:
        yield Violation("doubled", f"{saga} ended more than once")
    if events[0]["event_type"] != "saga.started":
        yield Violation("half saga", f"{saga} begins with {events[0]['event_type']}")
        return
    done = {event["data"].get("step") for event in events if _did(event)}
    skipped = {event["data"]["step"] for event in events if event["event_type"] == "saga.step_skipped"}
    back = {event["data"]["step"] for event in events if event["event_type"] == "saga.step_compensated"}
    if end == "saga.completed" and (left := set(events[0]["data"]["steps"]) - done - skipped | back):
        yield Violation("half saga", f"{saga} completed without {sorted(left)}")
    if end == "saga.compensated" and (left := done & _UNDOABLE - back):
        yield Violation("half saga", f"{saga} was taken back, but not its {sorted(left)}")
    yield from _answered(saga, events)


def _operation(tenant: str, event: _Event) -> tuple[str, str, str] | None:
    """Return the operation that an event records, as the ledger has it; None for other events."""
    if event["event_type"] != "operation.requested":
        return None
    return tenant, event["data"]["action"], event["data"]["target"]


def _answered(saga: str, events: list[_Event]) -> Iterator[Violation]:
    """Check that no step gave up waiting for an answer that had been recorded before."""
    waits: dict[str, list[str]] = {}
    raised: dict[int | None, str] = {}
    for event in events:
        kind, data = event["event_type"], event["data"]
        if kind == "saga.waiting":
            waits[data["step"]] = data["events"]
        if kind == "saga.event_raised":
            raised[data["number"]] = data["event"]
        if kind == "saga.resumed":
            raised.pop(data.get("number"), None)
            heard = {*raised.values()} & {*waits.get(data["step"], ())}
            if data["event"] is None and heard:
                yield Violation("lost", f"{saga}: {data['step']} gave up, and had {sorted(heard)}")


def _did(event: _Event) -> bool:
    """Return whether the event says that a step succeeded."""
    kind, data = event["event_type"], event["data"]
    answered = kind == "saga.resumed" and data["event"] is not None and not data["refused"]
    return kind == "saga.step_completed" or answered


def _started(evidence: Evidence, ledger: Ledger) -> set[Stream]:
    """Return the streams of the sagas that callers started, and of those that events must have started."""
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


def _as_recorded(evidence: Evidence, tenant: str, saga_id: str, events: list[_Event]) -> Iterator[Violation]:
    """Check that the store holds what each step says its command did, and that this step caused it."""
    for event in events:
        result = event["data"].get("result")
        if event["event_type"] == "saga.step_completed" and isinstance(result, dict) and "position" in result:
            step = event["data"]["step"]
            there = evidence.streams.get((tenant, result["stream"]), {}).get(result["version"])
            found = there and (f"{there['lane']}-{there['seq']}", there["causation_id"])
            if found != (result["position"], f"saga:{saga_id}/{step}"):
                text = f"{tenant}/{saga_id}: {step} says {result}; there is {found}"
                yield Violation("half saga", text)


def _handed_over(
    effects: Mapping[tuple[str, str], list[_Event]], tenant: str, saga_id: str, events: list[_Event]
) -> Iterator[Violation]:
    """Check that a completed hand-over did what it says. `capacity` checks those that did not complete."""
    if events[0]["event_type"] != "saga.started" or events[0]["data"]["saga_type"] != "task-handover":
        return
    if events[-1]["event_type"] == "saga.completed":
        results = {event["data"].get("step"): event["data"].get("result") for event in events if _did(event)}
        for step in ("reserve-capacity", "assign-task", "accept-task"):
            if (tenant, f"saga:{saga_id}/{step}") not in effects:
                text = (
                    f"{tenant}/{saga_id} completed, and its {step} did nothing, and says {results.get(step)}"
                )
                yield Violation("half saga", text)


def _offboarded(evidence: Evidence, tenant: str, saga_id: str, events: list[_Event]) -> Iterator[Violation]:
    """Check that each task an off-boarding found was handed over, or is reported as not handed over."""
    if (events[0]["data"].get("saga_type"), events[-1]["event_type"]) != (
        *("member-offboarding", "saga.completed"),
    ):
        return
    results = {event["data"].get("step"): event["data"].get("result") for event in events if _did(event)}
    found, output = results.get("find-open-tasks") or [], events[-1]["data"]["output"]
    refused = {one["id"] for one in output["not_handed_over"]}
    for place, task in enumerate(found):
        child = str(uuid5(NAMESPACE_URL, f"annals:saga:{saga_id}/hand-over/{place}"))
        history = evidence.streams.get((tenant, f"saga-{child}"), {})
        began = history[min(history)]["data"] if history else {}
        if child not in refused and (began.get("input", {}).get("task_id"), began.get("parent")) != (
            *(task, saga_id),
        ):
            yield Violation("half saga", f"{tenant}/{saga_id} found {task}, and did not hand it over")
    ended = output["handed_over"] + len(output["not_handed_over"])
    if not len(found) == output["tasks"] == ended:
        yield Violation("half saga", f"{tenant}/{saga_id} found {found}, and says {output}")


def capacity(evidence: Evidence, _: Ledger) -> Iterator[Violation]:
    """Check that members have places reserved for exactly their open tasks, and never above their limit."""
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
    """Check that no key, title or user turns up with another tenant; each of them names its own."""
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
    """Check that only hostile messages are parked, and that no message still waits at the broker."""
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
    """A due date of an open, assigned task, with bounds by the callers' clocks.

    It was in force at `set_by` at the latest; it changed between `moved_from` and `moved_by`, if at all.
    """

    due: datetime
    user: str
    title: str
    set_by: float
    moved_from: float | None = None
    moved_by: float | None = None


def proved_from(ledger: Ledger, now: datetime) -> datetime:
    """Return the time from which everything that was scheduled to come soon must have come."""
    times = [
        span.due - before
        for spans in _due_dates(ledger).values()
        for span in spans
        for before in _BEFORE.values()
    ]
    times += [_moment(notice.data["delay_until"]) for notice in ledger.notices if _is_late(notice)]
    return max((time for time in times if time < now + _SOON), default=now) + _SLACK


def _is_late(notice: Told) -> bool:
    return notice.data.get("delay_until") is not None


_Reminder = tuple[str, str, str, datetime, str]


def reminders(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Check that each due reminder came once, in time, to the task's assignee, and that no other came."""
    came: dict[_Reminder, list[dict[str, Any]]] = defaultdict(list)
    for row in evidence.deliveries:
        if row["kind"] == "reminder.due":
            data = row["data"]
            came[row["tenant"], data["task_id"], data["before"], _moment(data["due"]), row["user_id"]].append(
                row
            )
    wanted: set[_Reminder] = set()
    titles: dict[_Reminder, str] = {}
    for (tenant, task), spans in _due_dates(ledger).items():
        for span in spans:
            for kind, before in _BEFORE.items():
                place = (tenant, task, kind, span.due, span.user)
                fires = (span.due - before).timestamp()
                if span.moved_by is None or span.moved_by > fires:
                    titles[place] = span.title
                    stays = span.moved_from is None
                    if stays and span.set_by < fires < (now - _SLACK).timestamp():
                        wanted.add(place)
    for place in sorted(wanted - came.keys()):
        yield Violation("reminder lost", f"{place} never came")
    for place in sorted(came.keys() - titles.keys()):
        yield Violation("reminder wrong", f"{place} came of what was moved or done before")
    for place, rows in came.items():
        if len(rows) > 1:
            yield Violation("reminder doubled", f"{place} came {len(rows)} times")
        for row in rows:
            if _moment(row["created_at"]) < place[3] - _BEFORE[place[2]]:
                yield Violation("reminder wrong", f"{place} came at {row['created_at']} already")
            if row["data"].get("title") != titles.get(place, row["data"].get("title")):
                yield Violation("reminder wrong", f"{place} is of {titles[place]!r}, not of {row['data']}")
    for row in evidence.reminders:
        if row["status"] == "scheduled" and _moment(row["fires"]) < now - _SLACK:
            yield Violation("reminder lost", f"{row['tenant']} {row['id']} still waits for {row['fires']}")


_MOVES = frozenset(
    f"task.{deed}"
    for deed in ("create", "set_due_date", "assign", "unassign", "complete", "reopen", "delete", "update")
)


def _due_dates(ledger: Ledger) -> dict[tuple[str, str], list[_Due]]:
    """Return the due dates of each task while it is open and assigned, in the order of its versions."""
    changes: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for told in ledger.commands:
        if told.answer.done and told.kind in _MOVES:
            changes[told.tenant, told.answer.body["id"]].append(told)
    found: dict[tuple[str, str], list[_Due]] = {}
    for task, tolds in changes.items():
        tolds.sort(key=lambda told: told.answer.body["version"])
        spans: list[_Due] = []
        has: dict[str, Any] = {}
        for told in tolds:
            if spans and spans[-1].moved_by is None:
                spans[-1].moved_from, spans[-1].moved_by = told.answer.sent, told.answer.told
            has |= {"assignee": None} if told.kind == "task.unassign" else told.data
            has["open"] = told.kind == "task.reopen" or (
                told.kind not in ("task.complete", "task.delete") and has.get("open", True)
            )
            if has["open"] and has.get("due") and has.get("assignee"):
                due = _moment(has["due"])
                spans.append(_Due(due, has["assignee"], has["title"], told.answer.told))
        found[task] = spans
    return found


def recurrences(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Check that each occurrence of each recurrence took effect as it was asked for, and nothing else did.

    The load's recurrences all recur every minute.
    """
    effects = _effects(evidence)
    rows = {(row["tenant"], row["id"]): row for row in evidence.recurrences}
    asked: dict[tuple[str, str], Mapping[str, Any]] = {}
    for told in ledger.recurrences:
        row = rows.get((told.tenant, told.key))
        if row is None:
            yield Violation("recurrence lost", f"{told.tenant} {told.key} recurs no more")
            continue
        if _moment(row["next"]) < now - _SLACK:
            yield Violation("recurrence lost", f"{told.tenant} {told.key} still waits for {row['next']}")
        first, last = _moment(told.answer.body["last"]), _moment(row["last"])
        one = _moment(told.data["start"])
        while (one := one + timedelta(minutes=1)) <= last:
            place = (told.tenant, f"recurrence:{told.key}:{one.isoformat()}")
            asked[place] = told.data["command"]["data"]
            if one > first and place not in effects:
                yield Violation("recurrence lost", f"{told.tenant} {told.key} of {one}")
    for place, events in effects.items():
        if place[1].startswith("recurrence:"):
            made = events[0]["data"]
            if place not in asked:
                yield Violation("recurrence wrong", f"nothing recurs as {place}, which did {_places(events)}")
            elif events[0]["event_type"] != "task.created" or not _within(asked[place], made):
                yield Violation("recurrence wrong", f"{place} is to do {asked[place]}; there is {made}")


@dataclass(frozen=True, slots=True)
class _Notice:
    """A notice to a user: its kind, what it must say, whether it must come, and its earliest time."""

    kind: str
    says: Mapping[str, Any]
    must: bool
    due: datetime | None = None


_Place = tuple[str, str, str]
"""Tenant, event and user."""


def notices(evidence: Evidence, ledger: Ledger, now: datetime) -> Iterator[Violation]:
    """Check that everybody is told once, in time and correctly of what concerns them, and of nothing else."""
    told = Counter((row["tenant"], row["event_id"], row["user_id"]) for row in evidence.deliveries)
    known = _to_be_told(evidence, ledger, now)
    for place in sorted(place for place, notice in known.items() if notice.must and place not in told):
        yield Violation("notice lost", f"{place} is in no delivery")
    for place, count in told.items():
        if count > 1:
            yield Violation("notice doubled", f"{place} is delivered {count} times")
    shown: dict[_Place, list[dict[str, Any]]] = defaultdict(list)
    for row in evidence.inbox:
        shown[row["tenant"], row["user_id"], row["id"]].append(row)
    for row in evidence.deliveries:
        place = (row["tenant"], row["event_id"], row["user_id"])
        if row["kind"] != "reminder.due":
            notice = known.get(place)
            if notice is None:
                yield Violation("notice out of nowhere", str(place))
            elif row["kind"] != notice.kind or not _within(notice.says, row["data"]):
                yield Violation("notice wrong", f"{place} is {notice}; there is {row['kind']} {row['data']}")
            elif notice.due is not None and _moment(row["created_at"]) < notice.due:
                yield Violation("notice wrong", f"{place} came at {row['created_at']}, before {notice.due}")
        there = shown[row["tenant"], row["user_id"], row["id"]]
        if row["status"] != "sent" or len(there) != 1:
            yield Violation(
                "notice lost", f"delivery {row['id']} is {row['status']} and not in the inbox once"
            )
        elif (there[0]["kind"], there[0]["data"]) != (row["kind"], row["data"]):
            yield Violation("notice wrong", f"delivery {row['id']} is otherwise in the inbox: {there[0]}")
    for row in evidence.held:
        if row["published_at"] is None and _moment(row["due"]) < now - _SLACK:
            yield Violation("notice lost", f"{row['tenant']} {row['id']} still waits for {row['due']}")


def _to_be_told(evidence: Evidence, ledger: Ledger, now: datetime) -> dict[_Place, _Notice]:
    """Return the notices that must be delivered and those that may be."""
    known: dict[_Place, _Notice] = {}
    for notice in ledger.notices:
        due = _moment(notice.data["delay_until"]) if _is_late(notice) else None
        must = notice.answer.done and (due is None or due < now - _SLACK)
        says = notice.data["data"]
        place = (notice.tenant, notice.key, says["user"])
        known[place] = _Notice("notification.requested", says, must, due)
    for stream, events in evidence.streams.items():
        tenant, name = stream
        for event in events.values():
            if event["event_type"] in ("task.created", "task.assigned"):
                since = _moment(event["timestamp"]) >= evidence.since
                data = event["data"]
                # The notice of a creation is that of an assignment, so it carries only the assignee.
                told = data if event["event_type"] == "task.assigned" else {"assignee": data["assignee"]}
                says = told | {"stream": name}
                for user in {data["assignee"], data.get("previous")} - {None}:
                    known[tenant, event["event_id"], user] = _Notice("task.assigned", says, since)
        began = events[min(events)]
        if began["event_type"] == "saga.started" and began["data"]["saga_type"] == "task-handover":
            known |= _told_by_a_handover(evidence, tenant, name.removeprefix("saga-"), events)
    return known


def _told_by_a_handover(
    evidence: Evidence, tenant: str, saga_id: str, events: Mapping[int, _Event]
) -> dict[_Place, _Notice]:
    began = events[min(events)]["data"]
    user, task, deadline = (began["input"][name] for name in ("assignee", "task_id", "deadline"))
    kind, says = "notification.requested", {"user": user, "task_id": task, "saga_id": saga_id}
    told = [event for event in events.values() if event["data"].get("step") == "notify"]
    # An orchestrator whose clock is set back may date these events before `since`; then they need not be
    # told.
    since = min((_moment(event["timestamp"]) for event in told), default=evidence.since) >= evidence.since
    ended = {event["event_type"] for event in told}
    known: dict[_Place, _Notice] = {}
    for undo, what, done in (
        ("", "handover_requested", "saga.step_completed"),
        ("/undo", "handover_withdrawn", "saga.step_compensated"),
    ):
        place = (tenant, _published_id(tenant, f"saga:{saga_id}/notify{undo}"), user)
        known[place] = _Notice(kind, says | {"kind": what}, since and done in ended)
    # The assignee is reminded half-way to the deadline, unless an answer has cancelled the reminder.
    half = _moment(began["started_at"]) + timedelta(seconds=float(deadline[2:-1])) / 2
    place = (tenant, str(uuid5(NAMESPACE_URL, f"annals:reminder:{tenant}/{saga_id}")), user)
    known[place] = _Notice(kind, says | {"kind": "handover_reminder"}, must=False, due=half)
    return known


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


def _within(some: Mapping[str, Any], all_: Mapping[str, Any]) -> bool:
    """Return whether every value of `some` is in `all_` too."""
    return all(name in all_ and _plain(all_[name]) == _plain(value) for name, value in some.items())


def _plain(value: Any) -> Any:
    """Return a value in which two spellings of the same moment are equal."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
