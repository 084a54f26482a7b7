"""The read model `sagas`."""

from __future__ import annotations

from typing import Any

from annals.events import RecordedEvent
from annals.projections import Change, Patch, Projection, Put, Table


def _started(event: RecordedEvent) -> Put:
    data = event.data
    return Put(
        {
            "type": data["saga_type"],
            "saga_version": data["saga_version"],
            "status": "pending",
            "business_key": data["business_key"],
            "parent": data["parent"],
            "user_id": data["user"],
            "correlation_id": data["correlation_id"],
            "input": data["input"],
            "step_names": data["steps"],
            "steps": {name: {"status": "pending"} for name in data["steps"]},
            "suspended": False,
        }
    )


def _step(event: RecordedEvent, step_status: str, **columns: Any) -> Patch:
    data = event.data
    step = {"status": step_status, "at": event.timestamp.isoformat()}
    step |= {name: data[name] for name in ("attempt", "error") if data.get(name) is not None}
    if "events" in data:
        step["waits_for"] = data["events"]
    return Patch({"steps": {data["step"]: step}, **columns})


def _step_started(event: RecordedEvent) -> Patch:
    if event.data["compensation"]:
        return _step(event, "compensating")
    return _step(event, "running", status="running")


def _step_failed(event: RecordedEvent) -> Patch:
    if event.data["compensation"]:
        return _step(event, "compensation_failed" if event.data["final"] else "compensating")
    return _step(event, "failed" if event.data["final"] else "running")


def _waiting(event: RecordedEvent) -> Patch:
    """Several steps may wait at the same time; the row's own `waits_for` is that of the last one to begin."""
    data = event.data
    return _step(event, "waiting", status="running", waits_for=data["events"], waits_until=data["deadline"])


def _resumed(event: RecordedEvent) -> Patch:
    answered = event.data["event"] is not None and not event.data["refused"]
    return _step(event, "completed" if answered else "failed", waits_for=None, waits_until=None)


def _ended(event: RecordedEvent, status: str) -> Change:
    return Patch(
        {
            "status": status,
            "ended_at": event.timestamp.isoformat(),
            "waits_for": None,
            "waits_until": None,
            "remaining": event.data.get("left"),
            "output": event.data.get("output"),
        }
        | ({"reason": event.data["reason"]} if "reason" in event.data else {})
    )


SAGAS = Projection(
    Table(
        "sagas",
        {
            "type": "text",
            "saga_version": "integer",
            "status": "text",
            "business_key": "text",
            "parent": "text",
            "user_id": "text",
            "correlation_id": "text",
            "input": "jsonb",
            "step_names": "jsonb",
            "steps": "jsonb",
            "waits_for": "jsonb",
            "waits_until": "timestamptz",
            "reason": "text",
            "remaining": "jsonb",
            "output": "jsonb",
            "suspended": "boolean",
            "ended_at": "timestamptz",
        },
        indexes=(
            "(tenant, created_at, id)",
            "(tenant, business_key, created_at, id)",
            "(tenant, status, created_at, id)",
            "(tenant, parent, created_at, id)",
            "(greatest(updated_at, waits_until)) WHERE ended_at IS NULL",
        ),
        maps=("steps",),
    ),
    "saga",
    {
        "saga.started": _started,
        "saga.step_started": _step_started,
        "saga.step_completed": lambda event: _step(event, "completed"),
        "saga.step_failed": _step_failed,
        "saga.step_skipped": lambda event: _step(event, "skipped"),
        "saga.step_compensated": lambda event: _step(event, "compensated"),
        "saga.waiting": _waiting,
        # The saga goes on now, so the deadline of its wait no longer applies.
        "saga.event_raised": lambda _: Patch({"waits_until": None}),
        "saga.cancel_requested": lambda _: Patch({"waits_until": None}),
        "saga.resumed": _resumed,
        "saga.compensating": lambda event: Patch(
            {
                "status": "compensating",
                "reason": event.data["reason"],
                "waits_for": None,
                "waits_until": None,
            }
        ),
        "saga.completed": lambda event: _ended(event, "completed"),
        "saga.compensated": lambda event: _ended(event, "compensated"),
        "saga.failed": lambda event: _ended(event, "failed"),
        "saga.terminated": lambda event: _ended(event, "failed"),
        "saga.suspended": lambda _: Patch({"suspended": True}),
        "saga.continued": lambda _: Patch({"suspended": False}),
        "saga.restarted": lambda _: Patch({"suspended": False}),
        "saga.compensation_retried": lambda _: Patch(
            {"status": "compensating", "ended_at": None, "suspended": False}
        ),
    },
    version=5,
)
