"""The demo can be run again, whatever was done with what it left."""

from __future__ import annotations

import httpx

import demo.__main__ as demo


def test_a_saga_that_was_taken_back_since_keeps_nothing_from_being_told_again() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rpartition("/")[2])
        if asked[-1] == "terminate":
            return httpx.Response(422, json={"type": "urn:annals:problem:rule"})
        return httpx.Response(200, json={"status": "compensated", "waits_for": []})

    suite = demo.Suite()
    suite.http = httpx.Client(transport=httpx.MockTransport(answer))
    demo._terminated(suite)
    assert asked == ["task-handover", "demo-terminated", "terminate"]
