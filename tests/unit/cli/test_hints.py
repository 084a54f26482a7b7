"""A hint at what to do next works exactly as printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import cast

import httpx
import pytest
import yaml

from annals_cli.commands.dead_letters import Service
from annals_cli.sidecar import Exit
from suite.paths import ROOT
from unit.cli.conftest import Annals

MORE = "there may be more: "


class Pages:
    """Serves two pages of sixty items; the first names `second` as the cursor of the next."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        second = request.url.params.get("cursor") == "second"
        items = [{"id": "last" if second else "first", "title": "x"}]
        return httpx.Response(200, json={"items": items, "next": None if second else "second"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "tasks", "text=two words", "limit=1"),
        ("audit", "search", "--user", "ada", "--from", "2026-01-31T12:00:00Z", "--limit", "1"),
        ("sagas", "list", "--status", "failed", "--limit", "1"),
    ],
)
def test_a_page_that_is_not_the_last_says_how_to_see_the_next(
    annals: Annals, arguments: tuple[str, ...]
) -> None:
    pages = Pages()
    first = annals(pages, *arguments)
    (hint,) = first.stderr.splitlines()
    assert MORE not in first.stdout
    program, *again = shlex.split(hint.removeprefix(MORE))
    assert program == "annals"

    second = annals(pages, *again)
    assert "last" in second.stdout
    assert second.stderr == ""
    assert pages.asked[1] == pages.asked[0] | {"cursor": "second"}


@pytest.mark.parametrize(
    "given",
    [(), ("--tenant", "acme"), ("--sidecar", "http://other:3501", "--user", "ada", "--tenant=default")],
)
def test_what_follows_is_asked_of_the_same_suite_for_the_same_user(
    annals: Annals, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    # The environment gives the same values again to the command in the hint.
    monkeypatch.setenv("ANNALS_TENANT", "of the environment")
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    asked: list[tuple[str, ...]] = []

    def pages(request: httpx.Request) -> httpx.Response:
        who = (request.headers.get(name, "") for name in ("host", "x-tenant-id", "x-user-id"))
        asked.append((*who, request.headers["dapr-api-token"]))
        return httpx.Response(200, json={"items": [], "next": "second"})

    hint = annals(pages, *given, "sagas", "list").stderr
    assert "secret" not in hint
    _, *again = shlex.split(hint.removeprefix(MORE))
    annals(pages, *again)
    assert asked[1] == asked[0]


def test_a_token_that_is_given_is_not_shown(annals: Annals) -> None:
    hint = annals(Pages(), "--api-token", "secret", "query", "tasks").stderr
    assert hint == f"{MORE}annals query tasks cursor=second\n"


def test_programs_are_told_in_the_answer_alone(annals: Annals) -> None:
    assert annals(Pages(), "--json", "query", "tasks").stderr == ""


def history(request: httpx.Request) -> httpx.Response:
    """Serve a stream of 250 events."""
    given = request.url.params
    first, last, limit = int(given.get("from", 1)), int(given.get("to", 1_000)), int(given["limit"])
    versions = list(range(first, min(250, last) + 1))
    if given.get("backwards"):
        versions.reverse()
    items = [{"version": one} for one in versions[:limit]]
    following = items[-1]["version"] + (-1 if given.get("backwards") else 1) if len(items) == limit else 0
    return httpx.Response(
        200, json={"items": items, "next": following if first <= following <= last else None}
    )


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "--from 101"),
        (("--from", "151"), "--from 251"),  # whether another event follows is not known yet
        (("--from", "101", "--to", "200"), None),
        (("--from", "201"), None),
        (("--to", "150", "--limit", "20"), "--from 21"),
        (("--backwards",), "--to 150"),
        (("--backwards", "--to", "100"), None),
        (("--backwards", "--from", "101", "--to", "200"), None),
        (("--backwards", "--from", "100", "--to", "200"), "--to 100"),
    ],
)
def test_a_stream_that_goes_on_says_how_to_see_the_rest(
    annals: Annals, arguments: tuple[str, ...], hint: str | None
) -> None:
    result = annals(history, "stream", "show", "task-a", *arguments)
    assert result.stderr == (f"{MORE}the same with {hint}\n" if hint else "")


@pytest.mark.parametrize(
    "arguments", [(), ("from=101",), ("to=150",), ("backwards=1",), ("backwards=true", "from=101", "to=200")]
)
def test_a_stream_that_is_queried_is_seen_to_its_end(annals: Annals, arguments: tuple[str, ...]) -> None:
    def seen(*words: str) -> tuple[list[int], list[str]]:
        page = annals(history, *words)
        versions = [int(line) for line in page.stdout.splitlines() if line.strip().isdigit()]
        return versions, shlex.split(page.stderr.removeprefix(MORE))[1:]

    found, again = seen("query", "streams/task-a/events", "limit=40", *arguments)
    for _ in range(6):
        more, again = seen(*again) if again else ([], [])
        found += more
    assert found == seen("query", "streams/task-a/events", "limit=500", *arguments)[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("discard", "L1"), {"reason": "x"}),
        (("discard", "L1", "--version", "3"), {"reason": "x", "version": 3}),
        (("edit", "L1", "--data", "{}", "--version", "3"), {"reason": "x", "version": 3, "data": {}}),
    ],
)
def test_what_was_looked_at_is_said_where_it_is_given(
    annals: Annals, arguments: tuple[str, ...], told: dict[str, object]
) -> None:
    bodies: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={})

    assert annals(answer, "dead-letters", *arguments, "--reason", "x").exit_code == Exit.DONE
    assert bodies == [told]


def test_an_edited_letter_is_tried_where_it_is(annals: Annals) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.path} of {request.headers['x-tenant-id']}")
        return httpx.Response(200, json={"edited": "L1"})

    edit = (
        "--tenant",
        "acme",
        "dead-letters",
        "edit",
        "L1",
        "--data",
        "{}",
        "--reason",
        "x",
        "--service",
        "notification",
    )
    hint = annals(answer, *edit).stdout
    _, *dry_run = shlex.split(hint.partition("try it: ")[2])
    assert annals(answer, *dry_run).exit_code == Exit.DONE
    assert asked[1] == "/v1.0/invoke/notification/method/dead-letters/L1/dry-run of acme"


def doctor_of(failed: list[list[dict[str, object]]]) -> Callable[[httpx.Request], httpx.Response]:
    """Serve the checks of the doctor, and pages of failed sagas."""

    def answer(request: httpx.Request) -> httpx.Response:
        page, items = int(request.url.params.get("cursor", "0")), []
        if request.url.path.endswith("/method/sagas") and request.url.params["status"] == "failed":
            items = failed[page]
        following = str(page + 1) if items and page + 1 < len(failed) else None
        found = {"items": items, "next": following, "unreached": None, "lag": 0}
        return httpx.Response(200, json=found)

    return answer


def saga_check(annals: Annals, failed: list[list[dict[str, object]]], *given: str) -> dict[str, object]:
    result = annals(doctor_of(failed), "--json", *given, "doctor")
    (check,) = (one for one in json.loads(result.stdout)["checks"] if one["check"] == "sagas")
    return cast("dict[str, object]", check)


def test_the_doctor_takes_a_failed_saga_with_nothing_left_to_compensate_for_done(annals: Annals) -> None:
    nothing_left: list[dict[str, object]] = [{"id": "a", "remaining": []}, {"id": "b", "remaining": None}]
    check = saga_check(annals, [nothing_left])
    assert (check["ok"], check["detail"]) == (True, "none of tenant default has steps left to compensate")


def test_the_doctor_finds_each_saga_that_can_be_retried_and_says_how_for_its_tenant(annals: Annals) -> None:
    pages: list[list[dict[str, object]]] = [
        [{"id": "a", "remaining": []}, {"id": "b", "remaining": ["reserve"]}],
        [{"id": "c", "remaining": ["assign", "reserve"]}],
    ]
    check = saga_check(annals, pages, "--tenant", "acme")
    assert not check["ok"]
    assert check["detail"] == "2 of tenant acme failed with steps left to compensate: b, c"
    assert "annals --tenant acme sagas retry ID" in str(check["mend"])


@pytest.mark.parametrize("app", list(Service))
def test_the_alert_on_what_is_parked_leads_to_the_service_that_parked_it(annals: Annals, app: str) -> None:
    (group,) = yaml.safe_load((ROOT / "charts/annals/files/alerts.yaml").read_text())["groups"]
    (rule,) = (rule for rule in group["rules"] if rule["alert"] == "AnnalsParked")
    told = rule["annotations"]["description"].replace("{{ $labels.app }}", app)
    (command,) = re.findall("`annals (.+?)`", told)
    asked: set[str] = set()

    def service(request: httpx.Request) -> httpx.Response:
        asked.add(request.url.path.split("/invoke/")[1].split("/")[0])
        return httpx.Response(200, json={"items": []})

    annals(service, *shlex.split(command))
    assert asked == {app}
