"""The demo can be run again, whatever was done with what it left."""

from __future__ import annotations

import httpx
import pytest

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


def test_a_suite_that_is_there_and_does_not_answer_is_not_simply_said_to_be_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent() -> None:
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(demo.structlog, "configure", lambda **_: None)
    monkeypatch.setattr(demo, "steps", lambda _: iter([("a task", silent)]))
    assert demo.main() == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "The suite does not answer (timed out): see `make status`" in said
