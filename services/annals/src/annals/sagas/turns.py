"""Guards the turns of workflows between Dapr and the worker, because Dapr confuses the answers to them.

Dapr runs one turn of a workflow at a time. When its streams are opened anew, as when a worker reconnects, it
gives up waiting for a turn and hands the same turn out again, while the worker still has the first copy. An
answer does not say which of the two copies it is for (daprd 1.18, durabletask-go, backend/executor.go: a
pending turn is known by its instance alone, and completion tokens are empty). Dapr then takes the late answer
to the first copy for the answer to the second, and the answer to the second for the answer to the following
turn, which counts as done without having run. So the workflow stands still for ever, or its history holds
twice what it scheduled (docs/decisions/0017).

What is handed out also goes through here to be freed from the events that the worker's SDK cannot take.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import structlog
from dapr.ext.workflow._durabletask.internal.protos import CompleteTaskResponse

_log = structlog.get_logger(__name__)

_OURS = "annals-turn-"


class Turns(grpc.UnaryStreamClientInterceptor, grpc.UnaryUnaryClientInterceptor):
    """Lets through only the answer to the turn of a workflow that was handed out last.

    Answers to earlier turns are dropped: nobody waits for them. The SDK returns the completion token of the
    turn that it answers. So each turn gets a token here, which is removed before Dapr sees the answer. A Dapr
    that sets tokens itself (durabletask-go after v0.12.4) can tell the answers apart, and is left alone.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._last: dict[str, str] = {}

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Iterator[Any]:
        """Give each turn a token as it arrives. Work items come by the one stream that the worker opens."""
        return map(self._handed_out, continuation(details, request))

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Pass on a call, unless it is a late answer to a turn that was handed out again."""
        if not details.method.endswith("/CompleteOrchestratorTask"):
            return continuation(details, request)
        instance, token = request.instanceId, request.completionToken
        if not token.startswith(_OURS):
            return continuation(details, request)
        if self._last.get(instance) != token:
            _log.warning("a late answer to a workflow turn is dropped", workflow=instance)
            dropped: Future[Any] = Future()
            dropped.set_result(CompleteTaskResponse())
            return dropped
        request.completionToken = ""
        answer = continuation(details, request)
        if answer.code() is grpc.StatusCode.OK and self._last.get(instance) == token:
            del self._last[instance]
        return answer

    def _handed_out(self, item: Any) -> Any:
        if item.HasField("workflowRequest") and not item.completionToken:
            item.completionToken = f"{_OURS}{next(self._numbers)}"
            self._last[item.workflowRequest.instanceId] = item.completionToken
        return suspended_once(history_once(item))


def history_once(item: Any) -> Any:
    """Return the work item without the repeated scheduling events in its workflow's history.

    They are there if an answer was taken for the answer to the next turn. The SDK would take them for a sign
    that the workflow is not deterministic, and fail the workflow.
    """
    past: Any = item.workflowRequest.pastEvents if item.HasField("workflowRequest") else ()
    once: list[Any] = []
    scheduled: set[int] = set()
    for event in past:
        # Events that the workflow scheduled are numbered; events that happened to it have a negative id.
        if event.eventId < 0 or event.eventId not in scheduled:
            once.append(event)
            scheduled.add(event.eventId)
    if len(once) < len(past):
        _log.warning(
            "repeated events of a workflow history are removed", workflow=item.workflowRequest.instanceId
        )
        _keep(past, once)
    return item


def suspended_once(item: Any) -> Any:
    """Return the work item without suspensions of a suspended workflow, and resumes of one that is not.

    The SDK (1.18) keeps such a suspension for the resume, and then neither ends that turn nor stops taking
    memory: it takes the suspension, and again and again puts back what came after it. A workflow that is
    resumed while it is not suspended fails, because the SDK does not know the event then.
    """
    if not item.HasField("workflowRequest"):
        return item
    suspended = False
    for events in (item.workflowRequest.pastEvents, item.workflowRequest.newEvents):
        kept: list[Any] = []
        for event in events:
            suspends, resumes = event.HasField("executionSuspended"), event.HasField("executionResumed")
            repeated = suspends if suspended else resumes
            suspended = suspends or (suspended and not resumes)
            if not repeated:
                kept.append(event)
        # The SDK refuses a turn without a new event. Until the resume comes, a repetition does no harm.
        if kept and len(kept) < len(events):
            _keep(events, kept)
    return item


def _keep(events: Any, kept: Sequence[Any]) -> None:
    """Leave only `kept` in a field of a message. It is copied: emptying the field empties its events too."""
    copies = [type(event).FromString(event.SerializeToString()) for event in kept]
    del events[:]
    events.extend(copies)
