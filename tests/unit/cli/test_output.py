"""Text from users is shown as they wrote it and cannot affect the terminal."""

from __future__ import annotations

import json

import httpx
import pytest

from annals_cli import main
from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals, Handler


def tasks(title: str) -> Handler:
    return lambda _: httpx.Response(200, json={"items": [{"id": "a", "title": title}], "next": None})


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("[/x] closes", "[/x] closes"),
        ("[urgent] Pay", "[urgent] Pay"),
        (":smile: Grüße 日本", ":smile: Grüße 日本"),
        ("a\x1b]0;owned\x07b", r"a\u001b]0;owned\u0007b"),
        ("\x9b2J", r"\u009b2J"),
        ("two\nlines\tand a tab", r"two\nlines\tand a tab"),
        ("\u202eturned", r"\u202eturned"),
        ("a\u200fb \u2066c \u2028d", r"a\u200fb \u2066c \u2028d"),
        ("soft\u00ad \u2060 \ufeff", r"soft\u00ad \u2060 \ufeff"),
        ("月次\u3000報告 prêt\u00a0? 3\u202f000", "月次\u3000報告 prêt\u00a0? 3\u202f000"),
        ("می\u200cبینم क्\u200dष 👩\u200d🚀", "می\u200cبینم क्\u200dष 👩\u200d🚀"),
    ],
)
def test_a_text_is_shown_as_it_was_written(annals: Annals, title: str, shown: str) -> None:
    assert annals(tasks(title), "query", "tasks").output.splitlines()[1] == f"a   {shown}"


def test_one_thing_and_json_are_shown_without_what_steers_a_terminal(annals: Annals) -> None:
    written = {"title": "[/x] \x1b[2J \x9b \u202e", "emoji": "Grüße"}
    for arguments in (("query", "tasks/a"), ("--json", "query", "tasks/a")):
        output = annals(lambda _: httpx.Response(200, json=written), *arguments).output
        assert json.loads(output) == written
        assert "".join(output.splitlines()).isprintable()
        assert "Grüße" in output


def test_what_a_service_says_of_a_failure_is_shown_as_it_is(
    annals: Annals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise Failed("there is no task [/x] \x1b[2J", Exit.NOT_FOUND)

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err == "annals: there is no task [/x] \\u001b[2J\n"


def event(title: str) -> str:
    about = {"event_type": "task.created", "aggregate_type": "task", "aggregate_id": "1", "timestamp": "now"}
    return json.dumps(about | {"data": {"title": title}}, ensure_ascii=False)


def test_tail_goes_on_where_its_stream_ended_or_was_cut(annals: Annals) -> None:
    second = event("a\u2028b [/x]")
    bodies: list[str | None] = [
        f"retry: 1000\nid: 0-1\n\nid: 0-2\ndata: {event('first')}\n\nevent: alive\nid: 0-4\ndata: {{}}\n\n",
        None,  # the service is away
        None,
        f"id: 0-4\n\n: nothing\ndata: {second}\n\nevent: cut\ndata: too much waited\n\n",
        f"id: 0-6\ndata: {event('third')}\n\n",
    ]
    asked: list[str | None] = []

    def stream(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("after"))
        body = bodies[len(asked) - 1]
        if body is None:
            return httpx.Response(503, json={"detail": "not now"})
        return httpx.Response(200, content=body.encode(), headers={"content-type": "text/event-stream"})

    result = annals(stream, "tail", "-n", "3", "--after", "0-0")
    assert result.stdout.splitlines() == [
        'now  task.created  task-1  {"title": "first"}',
        r'now  task.created  task-1  {"title": "a\u2028b [/x]"}',
        'now  task.created  task-1  {"title": "third"}',
    ]
    assert asked == ["0-0", "0-4", "0-4", "0-4", "0-4"]
    assert result.stderr == "waiting: the service notification did not answer: not now\n", "once"


def test_tail_shows_programs_from_where_on_to_go_on_after_each_event(annals: Annals) -> None:
    """Only the last event of a commit has an id of its own: after another, the commit comes once more."""
    place = "0-2,7-1"
    stream = (
        f"event: alive\nid: {place}\ndata: {{}}\n\n"
        f"data: {event('first of two')}\n\nid: 0-3,7-1\ndata: {event('second')}\n\n"
    )
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("after"))
        return httpx.Response(200, content=stream.encode())

    lines = [json.loads(line) for line in annals(answer, "--json", "tail", "-n", "2").stdout.splitlines()]
    assert [(one["data"]["title"], one["id"]) for one in lines] == [
        ("first of two", place),
        ("second", "0-3,7-1"),
    ]
    annals(answer, "tail", "-n", "1", "--after", lines[1]["id"])
    assert asked == [None, "0-3,7-1"]


def test_tail_ends_where_there_was_no_stream_at_all(
    annals: Annals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Failed):
        annals(lambda _: httpx.Response(503, json={"detail": "not now"}), "tail")
