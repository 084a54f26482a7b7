"""The activities of a saga's workflow: they perform its actions and record its transitions.

Dapr may call an activity again for the same attempt: after a crash, after a lost reply, or while the first
call still runs. So may the workflow of another run, if the first one was lost. What the history has recorded
is not done again. Beyond that, the idempotency key of an action, made of the saga, the step and the
direction, lets the action take effect once.

An answer that nothing was changed is true of one call alone. If another call had begun the attempt before,
that one may have taken effect, so the attempt is uncertain whatever the answer is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson
import structlog
from opentelemetry.trace import SpanKind
from pydantic_core import to_jsonable_python

from annals.aggregates.keyed_locks import KeyedLocks
from annals.dapr import (
    DaprError,
    DaprSidecar,
    Message,
    NotAnswered,
    ServiceInvocation,
    publish_metadata,
)
from annals.events import CONTENT_TYPE, IntegrationEvent, to_cloudevent_json
from annals.sagas.events import (
    SagaCompensating,
    SagaError,
    StepCompleted,
    StepFailed,
    StepStarted,
    recordable,
    require_recordable,
)
from annals.sagas.history import Recorded, SagaHistory, SagaKey
from annals.sagas.start import entry
from annals.sagas.state import SagaState, SagaStatus
from annals.sagas.step_state import StepStatus
from annals.store import AppendTooLarge
from annals.telemetry import metrics, traces

_log = structlog.get_logger(__name__)

_TOPIC = "integration-events"
# Statuses that say that the call changed nothing, whoever answers: the service, a sidecar (while a token is
# being replaced, for example), or an older release that does not know the command yet.
_NOT_TAKEN = frozenset({400, 401, 403, 404, 405, 410, 412, 413, 415, 422})
# Pauses between looks for a saga's first event: 19 s in all, because the process that should write it may
# have died, so that another has to take over.
_BEGINS_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Problems of Annals services that say that the call changed nothing.
_UNCHANGED = frozenset({"busy", "read-only", "unavailable", "conflict"})


@dataclass(frozen=True, slots=True)
class ActivityCall:
    """The argument of a function called by `CallActivity`.

    `key` is the same at each attempt. It is unique only within `tenant`: another tenant may have the same.
    """

    tenant: str
    user: str | None
    key: str
    input: Any


Activity = Callable[[ActivityCall], Awaitable[Any]]


class Rejected(Exception):
    """Raised by a function called by `CallActivity` to fail a step at once: a retry would change nothing."""


class _Failure(Exception):
    def __init__(self, kind: str, message: str, *, rule: str | None = None, uncertain: bool = False) -> None:
        super().__init__(message)
        self.error = SagaError(kind=kind, message=recordable(message), rule=rule)
        self.uncertain = uncertain


class SagaActivities:
    """The activities `perform` and `record`, for the workflows of all sagas."""

    def __init__(
        self,
        history: SagaHistory,
        invocation: ServiceInvocation,
        sidecar: DaprSidecar,
        functions: Mapping[str, Activity],
    ) -> None:
        self._history = history
        self._invocation = invocation
        self._sidecar = sidecar
        self._functions = functions
        self._calls: KeyedLocks[Hashable] = KeyedLocks()

    async def record(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Record transitions. In the answer, `over` says that the workflow has nothing more to do.

        That is so if the saga was terminated, if the workflow of another run continues it, or if the store
        does not have it. `answer` is what was raised for the step of `deadline_of`, whose wait is then not
        recorded as over.
        """
        state, _ = await self._record(SagaKey.of(call), call["entries"], traceparent, call["run"])
        over = state.terminated or state.run != call["run"] or state.status is SagaStatus.NONE
        raised = state.answer_to(call["deadline_of"]) if "deadline_of" in call else None
        answer = raised.model_dump() if raised else None
        return {"over": over, "cancel": state.cancel_reason, "answer": answer} | _end(state, call)

    async def perform(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        """Make one attempt at an action or a compensation, and record it."""
        mine = (SagaKey.of(call).stream, *(call[name] for name in ("run", "step", "attempt", "undo")))
        # If the sidecar hands out a call again while its first copy runs here, it takes the answer of either.
        # The second one waits, and then finds a failure of the first one recorded.
        async with self._calls.hold(mine):
            return await self._perform(call, traceparent)

    async def _perform(self, call: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
        key, step, attempt, undo = SagaKey.of(call), call["step"], call["attempt"], call["undo"]
        begun = StepStarted(step=step, attempt=attempt, compensation=undo)
        entries = [*call["before"], entry(begun, _now())]
        state, news = await self._record(key, entries, traceparent, call["run"])
        if state.run != call["run"] or state.status is SagaStatus.NONE:
            return {"outcome": "ended"}
        known = _known_result(state, step, attempt, undo=undo)
        if known is not None:
            return known
        if state.status.ended or (state.status is SagaStatus.COMPENSATING and not undo):
            # The saga was terminated, or it has moved on and this call is late.
            return {"outcome": "ended"} | _end(state, call)
        with traces.span(f"saga step {step}{' (undo)' if undo else ''}", traceparent, SpanKind.INTERNAL):
            here = traces.current_traceparent() or traceparent
            try:
                result = await self._try(key, call, here)
                if not undo:
                    _require_recordable(step, result)
            except _Failure as failure:
                metrics.SAGA_ACTIONS.labels(step, failure.error.kind).inc()
                uncertain = failure.uncertain or begun not in news
                return await self._failed(key, call, failure.error, traceparent, uncertain=uncertain)
        metrics.SAGA_ACTIONS.labels(step, "done").inc()
        at = _now()
        if call["then"]:
            completed = StepCompleted(step=step, attempt=attempt, result=result)
            entries = [entry(completed, at), *call["then"]]
            state = await self._history.record(key, entries, traceparent, call["run"])
            if state.terminated:
                return {"outcome": "ended"} | _end(state, call)
        return {"outcome": "done", "result": result, "at": at, "cancel": state.cancel_reason}

    async def _record(
        self, key: SagaKey, entries: Sequence[Mapping[str, Any]], traceparent: str | None, run: int
    ) -> Recorded:
        """Record transitions. The status is `none` if the saga is not in the store, as after a restore.

        If a saga begins with parallel steps, the call of one of them records its start; the others wait.
        """
        for wait in _BEGINS_SECONDS:
            recorded = await self._record_or_trim(key, entries, traceparent, run)
            if recorded.state.status is not SagaStatus.NONE:
                return recorded
            await asyncio.sleep(wait)
        recorded = await self._record_or_trim(key, entries, traceparent, run)
        if recorded.state.status is SagaStatus.NONE:
            _log.warning(
                "a workflow ends because the store does not have its saga", saga=key.id, tenant=key.tenant
            )
        return recorded

    async def _record_or_trim(
        self, key: SagaKey, entries: Sequence[Mapping[str, Any]], traceparent: str | None, run: int
    ) -> Recorded:
        """Record transitions. If these begin the compensation and are too large, omit the steps' results."""
        try:
            return await self._history.record_news(key, entries, traceparent, run)
        except AppendTooLarge:
            if all(one["type"] != SagaCompensating.event_type for one in entries):
                raise
            bare = [
                {**one, "data": one["data"] | {"result": None}}
                if one["type"] == StepCompleted.event_type
                else one
                for one in entries
            ]
            return await self._history.record_news(key, bare, traceparent, run)

    async def _failed(
        self,
        key: SagaKey,
        call: Mapping[str, Any],
        error: SagaError,
        traceparent: str | None,
        *,
        uncertain: bool,
    ) -> dict[str, Any]:
        rejected = error.kind == "rejected"
        event = StepFailed(
            step=call["step"],
            attempt=call["attempt"],
            error=error,
            final=rejected or call["final"],
            uncertain=uncertain,
            compensation=call["undo"],
        )
        state = await self._history.record(key, [entry(event, _now())], traceparent, call["run"])
        return {
            "outcome": "rejected" if rejected else "failed",
            "message": error.message,
            # Another replica may have had the attempt too, and not know whether it took effect.
            "uncertain": uncertain or state.step(call["step"]).uncertain,
            "cancel": state.cancel_reason,
        }

    async def _try(self, key: SagaKey, call: Mapping[str, Any], traceparent: str | None) -> Any:
        action, timeout = call["call"], call["timeout"]
        once = f"saga:{key.id}/{call['step']}{'/undo' if call['undo'] else ''}"
        try:
            async with asyncio.timeout(timeout):
                match action["kind"]:
                    case "command" | "query":
                        return await self._invoke(key, action, once, traceparent)
                    case "publish":
                        return await self._publish(key, action, once, traceparent)
                    case "activity":
                        return await self._call(key, action, once)
                    case kind:
                        # Not final: in an upgrade, the next attempt may reach a replica that knows the kind.
                        raise _Failure("failed", f"this orchestrator knows no action of kind {kind}")
        except TimeoutError:
            raise _Failure("timeout", f"no answer within {timeout:g} s", uncertain=True) from None

    async def _invoke(
        self, key: SagaKey, action: Mapping[str, Any], once: str, traceparent: str | None
    ) -> Any:
        headers = {
            "x-tenant-id": key.tenant,
            "x-user-id": action.get("user") or key.user,
            "x-correlation-id": key.correlation_id or key.id,
            "traceparent": traceparent,
        }
        given = {name: value for name, value in headers.items() if value}
        app = action["app"]
        try:
            if action["kind"] == "query":
                answer = await self._invocation.invoke(app, "GET", action["path"], headers=given)
            else:
                answer = await self._invocation.invoke(
                    app,
                    "POST",
                    f"commands/{action['type']}",
                    json=action["data"],
                    headers=given | {"idempotency-key": once},
                )
        except NotAnswered as error:
            raise _Failure("failed", str(error), uncertain=True) from error
        except orjson.JSONEncodeError as error:
            raise _Failure("rejected", f"what was to be sent has no JSON: {error}") from error
        if answer.ok and action["kind"] == "query":
            if not isinstance(answer.body, dict):
                raise _Failure("failed", f"{app} answered a query with no JSON object")
            return {name: answer.body.get(name) for name in action["fields"]}
        if answer.ok:
            return answer.body
        rule = answer.body.get("rule") if isinstance(answer.body, dict) else None
        rule = rule or ("not_found" if answer.problem == "not-found" else None)
        if rule is not None and rule in action.get("accept", ()):
            return {"accepted": rule}
        if answer.refused:
            raise _Failure("rejected", answer.message, rule=rule)
        unchanged = answer.status in _NOT_TAKEN or answer.problem in _UNCHANGED
        raise _Failure("failed", answer.message, uncertain=not unchanged)

    async def _publish(
        self, key: SagaKey, action: Mapping[str, Any], once: str, traceparent: str | None
    ) -> Any:
        try:
            event = IntegrationEvent(
                event_id=str(uuid5(NAMESPACE_URL, f"annals:{key.tenant}/{once}")),
                event_type=action["type"],
                source="saga-orchestrator",
                tenant_id=key.tenant,
                user_id=key.user,
                correlation_id=key.correlation_id or key.id,
                causation_id=once,
                traceparent=traceparent,
                target_services=tuple(action["targets"]),
                data=action["data"],
            )
            body = to_cloudevent_json(event)
        except ValueError as error:
            raise _Failure("rejected", f"this is no event to publish: {error}") from error
        metadata = publish_metadata(key.tenant, key.id, event.event_id)
        message = Message(event.event_id, body, CONTENT_TYPE, metadata)
        try:
            refused = await self._sidecar.publish(_TOPIC, [message])
        except DaprError as error:
            raise _Failure("failed", f"the event was not published: {error}", uncertain=True) from error
        if refused:
            raise _Failure("failed", "the broker refused the event")
        return {"event_id": event.event_id}

    async def _call(self, key: SagaKey, action: Mapping[str, Any], once: str) -> Any:
        function = self._functions.get(action["name"])
        if function is None:
            raise _Failure("failed", f"this orchestrator has no activity {action['name']}")
        try:
            given = await function(ActivityCall(key.tenant, key.user, once, action["input"]))
        except Rejected as error:
            raise _Failure("rejected", str(error)) from error
        except TimeoutError:
            raise
        except Exception as error:
            _log.warning(
                "an activity failed",
                activity=action["name"],
                saga=key.id,
                tenant=key.tenant,
                exc_info=error,
            )
            raise _Failure("failed", f"{type(error).__name__}: {error}", uncertain=True) from error
        try:
            return to_jsonable_python(given)
        except ValueError as error:
            # Uncertain, because the function has acted; final, because its next result would be no better.
            message = f"{action['name']} gave what has no JSON: {error}"
            raise _Failure("rejected", message, uncertain=True) from error


def _require_recordable(step: str, result: Any) -> None:
    try:
        require_recordable(step, result)
    except ValueError as error:
        # Uncertain, because the action was performed; final, because its next result would be no better.
        raise _Failure("rejected", str(error), uncertain=True) from error


def _end(state: SagaState, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a saga ended; nothing if it goes on, or if the workflow of another run continues it."""
    if state.run != call["run"] or not state.status.ended:
        return {}
    return {"status": state.status, "reason": state.reason}


def _known_result(state: SagaState, step: str, attempt: int, *, undo: bool) -> dict[str, Any] | None:
    """Return the outcome that an earlier call for the same attempt recorded, or None.

    A failed attempt is not made again if its call comes twice: the saga has moved on, or is about to.
    """
    known = state.steps.get(step)
    if known is None or not known.over(attempt, undo=undo):
        return None
    if undo:
        done = known.status is StepStatus.COMPENSATED and known.undo_attempts == attempt
    else:
        done = known.status is StepStatus.COMPLETED and known.attempts == attempt
    if done:
        return {"outcome": "done", "result": known.result, "at": _now(), "cancel": state.cancel_reason}
    error = known.error
    return {
        "outcome": "rejected" if error is not None and error.kind == "rejected" else "failed",
        "message": "a later try has begun" if error is None else error.message,
        "uncertain": known.uncertain,
        "cancel": state.cancel_reason,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
