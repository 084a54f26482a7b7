"""A workflow's turns, as the worker is given them and answers them: what Dapr mixes up is put right here.

Dapr runs one turn of a workflow at a time. It gives up waiting for one when its streams are made anew, as
when a worker comes back, and hands the same turn out again while the worker still has it. An answer carries
nothing that tells which of the two it is for (daprd 1.18, durabletask-go, backend/executor.go: what is
pending is known by its instance alone, and completion tokens are empty). Dapr then takes the late answer to
the first copy for the answer to the second, and the second's answer for that to the following turn, which
counts as done without having run: the workflow stands still for ever, or its history holds twice what it
scheduled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import structlog
from dapr.ext.workflow._durabletask.internal.protos import CompleteTaskResponse

_log = structlog.get_logger(__name__)

_OURS = "annals-turn-"


class Turns(grpc.UnaryStreamClientInterceptor, grpc.UnaryUnaryClientInterceptor):
    """Lets through only the answer to the turn of a workflow that was handed out last.

    An answer to one before it is dropped: nobody waits for it. The SDK gives back the completion token of
    the turn that it answers, so each turn gets one here, which Dapr does not see. A Dapr that gives tokens
    itself (durabletask-go after v0.12.4) knows which answer is for which turn, and is left alone.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._last: dict[str, str] = {}

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Iterator[Any]:
        """See gRPC. Work items come by the one stream that the worker opens."""
        return map(self._handed_out, continuation(details, request))

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """See gRPC."""
        if not details.method.endswith("/CompleteOrchestratorTask"):
            return continuation(details, request)
        instance, token = request.instanceId, request.completionToken
        if not token.startswith(_OURS):
            return continuation(details, request)
        if self._last.get(instance) != token:
            _log.warning("the answer to a turn that was handed out again is dropped", workflow=instance)
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
        return history_once(item)


def history_once(item: Any) -> Any:
    """A work item in which a workflow's history says once what the workflow scheduled.

    Where an answer was taken for that to the next turn, it is there twice. The SDK takes the second for the
    trace of another workflow and fails this one.
    """
    past: Any = item.workflowRequest.pastEvents if item.HasField("workflowRequest") else ()
    once: list[Any] = []
    scheduled: set[int] = set()
    for event in past:
        # What a workflow asks for is numbered; what happens to it is not.
        if event.eventId < 0 or event.eventId not in scheduled:
            once.append(event)
            scheduled.add(event.eventId)
    if len(once) < len(past):
        _log.warning("a history repeats itself", workflow=item.workflowRequest.instanceId)
        kept = [type(event).FromString(event.SerializeToString()) for event in once]
        del past[:]
        past.extend(kept)
    return item
