"""Turns that Dapr hands out again, and events that it keeps twice in a workflow's history."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from dapr.ext.workflow._durabletask.internal import protos
from dapr.ext.workflow._durabletask.internal.orchestrator_service_pb2_grpc import (
    TaskHubSidecarServiceServicer,
    TaskHubSidecarServiceStub,
    add_TaskHubSidecarServiceServicer_to_server,
)

from annals.sagas.turns import Turns, history_once, suspended_once


def _turn(instance: str) -> protos.WorkItem:
    name, _, token = instance.partition("/")
    return protos.WorkItem(workflowRequest=protos.WorkflowRequest(instanceId=name), completionToken=token)


class Sidecar(TaskHubSidecarServiceServicer):
    """Hands out turns, and records which are reported as done."""

    def __init__(self, *items: protos.WorkItem) -> None:
        self.items = items
        self.done: list[str] = []
        self.refuses: list[grpc.StatusCode] = []
        self.ended = threading.Event()

    def GetWorkItems(self, _request: Any, _context: Any) -> Iterator[protos.WorkItem]:
        yield from self.items
        self.ended.wait()

    def CompleteOrchestratorTask(
        self, request: protos.WorkflowResponse, context: grpc.ServicerContext
    ) -> protos.CompleteTaskResponse:
        if self.refuses:
            context.abort(self.refuses.pop(), "not now")
        self.done.append(request.instanceId + (request.completionToken and f"/{request.completionToken}"))
        return protos.CompleteTaskResponse()


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[tuple[Sidecar, TaskHubSidecarServiceStub, list[str]]]:
    """Yield the sidecar, a stub of it, and the tokens of the turns that were handed out."""
    sidecar = Sidecar(*map(_turn, request.param))
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_TaskHubSidecarServiceServicer_to_server(sidecar, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = TaskHubSidecarServiceStub(grpc.intercept_channel(channel, Turns()))
    stream = stub.GetWorkItems(protos.GetWorkItemsRequest())
    tokens = [next(stream).completionToken for _ in request.param]
    yield sidecar, stub, tokens
    sidecar.ended.set()
    channel.close()
    server.stop(None).wait()


def _answer(stub: TaskHubSidecarServiceStub, instance: str, token: str) -> None:
    stub.CompleteOrchestratorTask(protos.WorkflowResponse(instanceId=instance, completionToken=token))


@pytest.mark.parametrize("worker", [("a", "b", "a")], indirect=True)
def test_of_a_turn_that_was_handed_out_twice_the_second_is_answered(worker: Any) -> None:
    sidecar, stub, (first, other, second) = worker
    _answer(stub, "a", first)
    assert sidecar.done == [], "it would be taken for the answer to the second"
    _answer(stub, "a", second)
    _answer(stub, "b", other)
    assert sidecar.done == ["a", "b"]
    _answer(stub, "a", first)
    _answer(stub, "a", second)
    assert sidecar.done == ["a", "b"], "it would be taken for the answer to the turn that follows"


@pytest.mark.parametrize("worker", [("a",)], indirect=True)
def test_an_answer_that_was_not_taken_can_be_given_again(worker: Any) -> None:
    sidecar, stub, (token,) = worker
    sidecar.refuses.append(grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(grpc.RpcError):
        _answer(stub, "a", token)
    _answer(stub, "a", token)
    assert sidecar.done == ["a"]


def test_a_turn_that_comes_before_the_last_answer_is_acknowledged_can_be_answered() -> None:
    turns, tokens, done = Turns(), list[str](), list[str]()
    acknowledged = SimpleNamespace(code=lambda: grpc.StatusCode.OK)

    def hand_out() -> None:
        [item] = turns.intercept_unary_stream(lambda *_: iter([_turn("a")]), None, None)
        tokens.append(item.completionToken)

    def take(_details: Any, answer: protos.WorkflowResponse) -> Any:
        done.append(answer.instanceId)
        if len(done) == 1:
            hand_out()
        return acknowledged

    hand_out()
    method = SimpleNamespace(method="/TaskHubSidecarService/CompleteOrchestratorTask")
    for turn in range(2):
        answer = protos.WorkflowResponse(instanceId="a", completionToken=tokens[turn])
        turns.intercept_unary_unary(take, method, answer)
    assert done == ["a", "a"], "the workflow would stand still"


@pytest.mark.parametrize("worker", [("a/1", "a/2")], indirect=True)
def test_the_tokens_of_a_dapr_that_gives_some_are_left_to_it(worker: Any) -> None:
    sidecar, stub, tokens = worker
    for token in tokens:
        _answer(stub, "a", token)
    assert sidecar.done == ["a/1", "a/2"]


def _item(*numbers: int) -> protos.WorkItem:
    item = protos.WorkItem()
    for place, number in enumerate(numbers):
        event = item.workflowRequest.pastEvents.add()
        event.eventId = number
        event.taskScheduled.name = str(place)
    return item


def test_what_a_workflow_scheduled_is_seen_once_in_the_place_of_the_first() -> None:
    past = history_once(_item(-1, 0, -1, 1, 1, 0, -1, 2)).workflowRequest.pastEvents
    assert [event.taskScheduled.name for event in past] == ["0", "1", "2", "3", "6", "7"]


def test_a_history_without_repeats_and_an_activity_are_left_alone() -> None:
    item = _item(-1, 0, 1, -1)
    assert history_once(item) == _item(-1, 0, 1, -1)
    activity = protos.WorkItem(activityRequest=protos.ActivityRequest(name="perform"))
    assert history_once(activity) == activity


def _happened(past: str, new: str) -> protos.WorkItem:
    item = protos.WorkItem()
    item.workflowRequest.SetInParent()
    kinds = {"s": "executionSuspended", "r": "executionResumed", "e": "eventRaised", "w": "workflowStarted"}
    for events, letters in ((item.workflowRequest.pastEvents, past), (item.workflowRequest.newEvents, new)):
        for letter in letters:
            getattr(events.add(), kinds[letter]).SetInParent()
    return item


@pytest.mark.parametrize(
    ("past", "new", "left"),
    [
        ("wsesse", "wre", ("wsee", "wre")),
        ("ws", "wssrss", ("ws", "wrs")),
        ("wsrsr", "wse", ("wsrsr", "wse")),
        ("ws", "s", ("ws", "s")),  # the SDK refuses a turn without a new event
        ("w", "e", ("w", "e")),
        ("wrsr", "wre", ("wsr", "we")),
    ],
)
def test_a_suspension_of_a_suspended_workflow_is_not_seen(past: str, new: str, left: tuple[str, str]) -> None:
    assert suspended_once(_happened(past, new)) == _happened(*left)


def test_an_activity_is_not_searched_for_suspensions() -> None:
    activity = protos.WorkItem(activityRequest=protos.ActivityRequest(name="perform"))
    assert suspended_once(activity) == protos.WorkItem(activityRequest=protos.ActivityRequest(name="perform"))
