"""What read models and heads must hold, folded from stored events without any code of the services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]
Row = dict[str, Any]


def row_of(events: Iterable[Event]) -> Row | None:
    """Return the row that a stream must have in its read model, or None if it must have none."""
    row: Row | None = None
    for event in events:
        kind, data, at = event["event_type"], event["data"], event["timestamp"]
        began = _BEGINNINGS.get(kind)
        if began is not None:
            row = {**began(data), "created_at": at, "id": event["aggregate_id"], "tenant": event["tenant_id"]}
        elif row is not None:
            row = None if kind == "task.deleted" else {**row, **_changed(row, kind, data, at)}
        if row is not None:
            row |= {"version": event["version"], "updated_at": at}
    return row


_STATES = {
    "task": ("title", "description", "due", "priority", "tags", "assignee", "previous_assignee", "status"),
    "member": ("name", "capacity", "reserved"),
    "saga": ("status", "saga_version", "business_key", "parent", "input", "reason", "output", "suspended"),
}


def state_of(kind: str, events: Iterable[Event]) -> Row:
    """Return what the state in a stream's head must say, to be compared with `held_in`."""
    row = row_of(events)
    if row is None:
        return {"status": "deleted"} if kind == "task" else {}
    state = {name: row[name] for name in _STATES[kind]}
    if kind == "saga":
        state["steps"] = {name: step["status"] for name, step in row["steps"].items()}
    return state


def held_in(kind: str, state: Row) -> Row:
    """Return a head's state in the form of `state_of`: held places as a number, each step as its status."""
    match kind:
        case "member":
            return {**state, "reserved": len(state.get("reserved", ()))}
        case "saga":
            return {**state, "steps": {name: step["status"] for name, step in state.get("steps", {}).items()}}
    return state


def _changed(row: Row, kind: str, data: Mapping[str, Any], at: str) -> Row:
    match kind:
        case "task.updated":
            return dict(data["changes"])
        case "task.assigned":
            return {"assignee": data["assignee"], "previous_assignee": data["previous"]}
        case "task.unassigned":
            return {"assignee": None, "previous_assignee": data["assignee"]}
        case "task.completed":
            return {"status": "done", "completed_at": at}
        case "task.reopened":
            return {"status": "todo", "completed_at": None}
        case "task.due_date_set":
            return {"due": data["due"]}
        case "member.capacity_set":
            return {"capacity": data["capacity"]}
        case "member.reserved" | "member.released":
            return {"reserved": data["reserved"]}
    return _saga(row, kind, data, at) if kind.startswith("saga.") else {}


def _saga(row: Row, kind: str, data: Mapping[str, Any], at: str) -> Row:
    undo = data.get("compensation", False)
    match kind:
        case "saga.step_started":
            return {**_step(row, data, at, "compensating" if undo else "running"), **_running(undo)}
        case "saga.step_completed":
            return _step(row, data, at, "completed")
        case "saga.step_failed":
            final = "compensation_failed" if undo else "failed"
            again = "compensating" if undo else "running"
            return _step(row, data, at, final if data["final"] else again)
        case "saga.step_skipped":
            return _step(row, data, at, "skipped")
        case "saga.step_compensated":
            return _step(row, data, at, "compensated")
        case "saga.waiting":
            waits = {"waits_for": data["events"], "waits_until": data["deadline"]}
            waiting = _step(row, data, at, "waiting")
            waiting["steps"][data["step"]]["waits_for"] = data["events"]
            return {**waiting, "status": "running", **waits}
        case "saga.resumed":
            done = data["event"] is not None and not data["refused"]
            return {**_step(row, data, at, "completed" if done else "failed"), **_WAITS_NOT}
        case "saga.event_raised" | "saga.cancel_requested":
            return {"waits_until": None}
        case "saga.compensating":
            return {"status": "compensating", "reason": data["reason"], **_WAITS_NOT}
        case "saga.completed" | "saga.compensated" | "saga.failed" | "saga.terminated":
            status = {"saga.terminated": "failed"}.get(kind, kind.removeprefix("saga."))
            ended = {"status": status, "ended_at": at, **_WAITS_NOT}
            ended |= {"remaining": data.get("left"), "output": data.get("output")}
            return ended | ({"reason": data["reason"]} if "reason" in data else {})
        case "saga.suspended" | "saga.continued" | "saga.restarted":
            return {"suspended": kind == "saga.suspended"}
        case "saga.compensation_retried":
            return {"status": "compensating", "ended_at": None, "suspended": False}
    return {}


_WAITS_NOT = {"waits_for": None, "waits_until": None}


def _running(undo: bool) -> Row:
    return {} if undo else {"status": "running"}


def _step(row: Row, data: Mapping[str, Any], at: str, status: str) -> Row:
    more = {name: data[name] for name in ("attempt", "error") if data.get(name) is not None}
    return {"steps": {**row["steps"], data["step"]: {"status": status, "at": at, **more}}}


def _task(data: Mapping[str, Any]) -> Row:
    names = ("title", "description", "due", "priority", "tags", "assignee")
    row = {name: data[name] for name in names}
    return row | {"status": "todo", "previous_assignee": None, "completed_at": None}


def _member(data: Mapping[str, Any]) -> Row:
    return {"name": data["name"], "capacity": data["capacity"], "reserved": 0}


def _begun_saga(data: Mapping[str, Any]) -> Row:
    renamed = {"type": "saga_type", "user_id": "user", "step_names": "steps"}
    kept = {name: name for name in ("saga_version", "business_key", "parent", "correlation_id", "input")}
    row = {column: data[name] for column, name in (renamed | kept).items()}
    row |= dict.fromkeys(("waits_for", "waits_until", "reason", "remaining", "output", "ended_at"))
    steps = {name: {"status": "pending"} for name in data["steps"]}
    return row | {"status": "pending", "suspended": False, "steps": steps}


_BEGINNINGS = {"task.created": _task, "member.registered": _member, "saga.started": _begun_saga}
