"""Arguments that become part of an address are requested at that address and nowhere else."""

from __future__ import annotations

import shlex

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals

WHY = ("--reason", "x")
NAMING = [
    ("command", "{}", "title=x"),
    ("stream", "show", "{}"),
    ("stream", "state", "{}"),
    ("sagas", "show", "{}"),
    ("sagas", "start", "{}", "{{}}"),
    ("sagas", "raise", "{}", "accept"),
    ("sagas", "raise", "S1", "{}"),
    ("sagas", "cancel", "{}"),
    ("dead-letters", "show", "{}"),
    ("dead-letters", "dry-run", "{}"),
    ("dead-letters", "replay", "{}", *WHY),
    ("dead-letters", "edit", "{}", "--data", "{{}}", *WHY),
    ("dead-letters", "discard", "{}", *WHY),
    ("projections", "rebuild", "{}"),
    ("projections", "difference", "{}", "1"),
    ("projections", "switch", "{}", "1"),
    ("config", "set", "command.{}", "on", *WHY),
]


def never(_: httpx.Request) -> httpx.Response:
    pytest.fail("it was asked")


class Asked:
    """Refuses everything, and records what it is asked for."""

    def __init__(self) -> None:
        self.urls: list[httpx.URL] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(request.url)
        return httpx.Response(404, json={"type": "urn:annals:problem:not-found", "detail": "there is none"})


@pytest.mark.parametrize("words", NAMING, ids=" ".join)
def test_what_names_something_is_one_segment_of_the_address(annals: Annals, words: tuple[str, ...]) -> None:
    asked = Asked()
    for text in ("x?limit=1", "x#y", "x%2Fy", "a b", "é", "a\nb"):
        with pytest.raises(Failed, match="there is none"):
            annals(asked, *(word.format(text) for word in words))
        assert text in asked.urls[-1].path.split("/")
        assert not asked.urls[-1].fragment


@pytest.mark.parametrize("words", NAMING, ids=" ".join)
def test_what_can_name_nothing_is_refused_before_anything_is_asked(
    annals: Annals, words: tuple[str, ...]
) -> None:
    for text in ("", "..", "../settings/x", "a/b", "\udcff"):
        with pytest.raises(Failed) as raised:
            annals(never, *(word.format(text) for word in words))
        assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize("path", ["tasks?status=todo", "tasks#todo", "", "../settings", "tasks/"])
def test_a_query_is_asked_by_its_path_alone(annals: Annals, path: str) -> None:
    with pytest.raises(Failed) as raised:
        annals(never, "query", path)
    assert raised.value.code is Exit.USAGE


def test_who_puts_parameters_into_the_path_is_told_where_they_stand(annals: Annals) -> None:
    with pytest.raises(Failed, match="name=value"):
        annals(never, "query", "tasks?status=todo")


def test_each_parameter_of_a_query_is_sent(annals: Annals) -> None:
    asked: list[httpx.URL] = []

    def page(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json={"items": [{"id": "a"}], "next": "second"})

    first = annals(page, "query", "events", "type=a", "type=b", "app=c", "to_=d", "cursor=first")
    assert asked[0].params.multi_items() == [
        ("type", "a"),
        ("type", "b"),
        ("app", "c"),
        ("to_", "d"),
        ("cursor", "first"),
    ]

    _, *again = shlex.split(first.stderr.partition("more: ")[2])
    annals(page, *again)
    assert asked[1].params.multi_items() == [*asked[0].params.multi_items()[:-1], ("cursor", "second")]


def test_an_empty_group_is_no_dead_letter(annals: Annals) -> None:
    asked = Asked()
    with pytest.raises(Failed):
        annals(asked, "dead-letters", "replay", "--group", "", *WHY)
    assert asked.urls[0].path.endswith("/dead-letters/groups/replay")
