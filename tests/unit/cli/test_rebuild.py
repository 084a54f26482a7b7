"""Building a generation, waiting for it, and the reason that is kept of what is done with it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from annals_cli.commands import projections
from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals

REBUILD = ("projections", "rebuild", "tasks", "--switch")
HOW = "generation 3 of tasks; to switch to it: annals projections switch tasks 3"
AWAY = httpx.Response(503, json={"type": "urn:annals:problem:unavailable", "detail": "a roll-out"})
NOBODY = httpx.Response(500, json={"errorCode": "ERR_DIRECT_INVOKE", "message": "couldn't find service"})


def looked_at(status: str = "building", *, caught_up: bool = False) -> httpx.Response:
    commits = {"done": 1, "total": 2}
    return httpx.Response(200, json={"status": status, "caught_up": caught_up, "commits": commits})


class Projector:
    """Answers each look with the next of `looks`, and repeats the last."""

    def __init__(self, *looks: httpx.Response | BaseException) -> None:
        self.looks: Iterator[httpx.Response | BaseException] = iter(looks)
        self.last: httpx.Response | BaseException = looks[-1]
        self.switch = httpx.Response(200, json={"live": 3})
        self.switched = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/rebuild"):
            return httpx.Response(202, json={"read_model": "tasks", "number": 3})
        if request.url.path.endswith("/switch"):
            self.switched += 1
            return self.switch
        look = next(self.looks, self.last)
        if isinstance(look, httpx.Response):
            return look
        raise look


@pytest.mark.parametrize("what", ["only_old", "only_new", "differing", "parked"])
def test_a_generation_that_lacks_something_is_found_different(annals: Annals, what: str) -> None:
    found = dict.fromkeys(("only_old", "only_new", "differing", "on_their_way", "parked"), 0)
    compare = ("projections", "difference", "tasks", "3")
    assert annals(lambda _: httpx.Response(200, json=found), *compare).exit_code == Exit.DONE
    wrong = annals(lambda _: httpx.Response(200, json=found | {what: 1}), *compare)
    assert wrong.exit_code == Exit.FOUND_WRONG


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "_LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_is_switched_to_though_nobody_answered_for_a_while(annals: Annals, form: tuple[str, ...]) -> None:
    cut = httpx.ReadError("cut")
    projector = Projector(looked_at(), AWAY, NOBODY, cut, looked_at(), AWAY, looked_at(caught_up=True))
    result = annals(projector, *form, *REBUILD)
    assert (result.exit_code, projector.switched) == (Exit.DONE, 1)
    assert result.stderr.count("waiting: ") == 2, "once each time"
    assert HOW not in result.stderr


@pytest.mark.parametrize("away", [AWAY, NOBODY, httpx.ConnectError("gone")])
def test_who_is_answered_no_more_is_told_what_to_run(
    annals: Annals, monkeypatch: pytest.MonkeyPatch, away: httpx.Response | BaseException
) -> None:
    monkeypatch.setattr(projections, "_SILENCE_SECONDS", 0.0)
    with pytest.raises(Failed) as raised:
        annals(Projector(looked_at(), away), *REBUILD)
    assert raised.value.code is Exit.UNAVAILABLE
    assert HOW in raised.value.__notes__[0]


def test_who_waits_no_longer_is_told_what_to_run(annals: Annals) -> None:
    projector = Projector(looked_at(), KeyboardInterrupt())
    result = annals(projector, *REBUILD)
    assert (result.exit_code != Exit.DONE, projector.switched) == (True, 0)
    assert HOW in result.stderr


@pytest.mark.parametrize("looks", [(KeyboardInterrupt(),), (looked_at(caught_up=True),)])
def test_what_to_run_is_run_where_this_was(annals: Annals, looks: tuple[httpx.Response, ...]) -> None:
    result = annals(Projector(*looks), "--sidecar", "http://other:3501", *REBUILD[:3])
    said = result.stdout + result.stderr
    assert "annals --sidecar http://other:3501 projections switch tasks 3" in said


@pytest.mark.parametrize(
    "answer",
    [AWAY, httpx.Response(200), httpx.Response(409, json={"type": "t", "detail": "far behind"})],
)
def test_a_switch_that_fails_may_be_made_later(annals: Annals, answer: httpx.Response) -> None:
    projector = Projector(looked_at(caught_up=True))
    projector.switch = answer
    with pytest.raises(Failed) as raised:
        annals(projector, *REBUILD)
    assert HOW in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("looks", "options", "said"),
    [
        ([looked_at()], ["--no-wait"], "generation 3 of tasks is building; compare it: "),
        ([looked_at(), looked_at(caught_up=True)], [], "generation 3 of tasks has caught up; compare it: "),
        ([looked_at(), looked_at("live")], [], "generation 3 of tasks answers queries now\n"),
    ],
)
def test_what_has_become_of_the_generation_is_said_at_the_end(
    annals: Annals, looks: list[httpx.Response], options: list[str], said: str
) -> None:
    result = annals(Projector(*looks), *REBUILD[:3], *options)
    assert (result.exit_code, result.stdout.startswith(said)) == (Exit.DONE, True)


def test_a_generation_that_is_dropped_is_waited_for_no_longer(annals: Annals) -> None:
    with pytest.raises(Failed, match="generation 3 is dropped"):
        annals(Projector(looked_at(), looked_at("dropped")), *REBUILD)


@pytest.mark.parametrize("reason", ["the new one is faulty", None])
@pytest.mark.parametrize(
    ("name", "method"),
    [("switch", "POST"), ("retire", "POST"), ("pause", "POST"), ("resume", "POST"), ("drop", "DELETE")],
)
def test_the_reason_of_a_request_is_sent_with_it(
    annals: Annals, name: str, method: str, reason: str | None
) -> None:
    asked: list[tuple[str, object]] = []

    def service(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, json.loads(request.content)))
        return httpx.Response(200, json={})

    why = () if reason is None else ("--reason", reason)
    assert annals(service, "projections", name, "tasks", "2", *why).exit_code == Exit.DONE
    assert asked == [(method, {"reason": reason})]


def test_a_rebuild_switches_with_its_own_reason(annals: Annals) -> None:
    sent: list[object] = []
    projector = Projector(looked_at(caught_up=True))

    def service(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.append(json.loads(request.content or "null"))
        return projector(request)

    annals(service, *REBUILD, "--reason", "a column is wrong")
    assert sent == [{"reason": "a column is wrong"}] * 2
